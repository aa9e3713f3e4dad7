"""A cluster against its model: claims, crashes at every step, restarts, partitions, removals, clock jumps, ranges
that come, are excluded and go.

Never two owners of a block, never two pods with an address, no address lost for ever. On every engine.
"""

import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, ip_network
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tests.members import Member, UnreliableStore
from tests.store.engines import ENGINES
from weft.agent import blocks as blocks_module
from weft.agent.addresses import AddressesExhausted, AddressRefused, AddressTaken
from weft.agent.cluster import Cluster
from weft.agent.journal import Attachment, State
from weft.agent.range_changes import change_ranges
from weft.agent.records import ClusterError
from weft.ipam.agreement import without_range
from weft.ipam.pool import PoolExhausted
from weft.ipam.ranges import PodRange, parse_ranges
from weft.ipam.shares import RangeExhausted
from weft.plugins.main.weave_requests import AddressRequest, Wanted
from weft.store import Conflict, StoreUnavailable, open_store

#: Blocks of eight addresses, a few of each range, so that three nodes come to the end of them.
FIRST, SECOND, SIX, SECOND_SIX = "10.9.0.0/28", "10.9.1.0/27", "fd00:9::/124", "fd00:9:1::/123"
#: What nodes are told, settings of before beside those of after.
SETTINGS = tuple(
    parse_ranges(text, "29,125")
    for text in (
        f"{FIRST},{SIX}",
        f"{FIRST},{SECOND},{SIX}",
        f"{FIRST},{SECOND},{SIX},{SECOND_SIX}",
    )
)
RANGES = SETTINGS[0]
NAMES = ("n1", "n2", "n3")

REFUSALS = (AddressesExhausted, AddressRefused, AddressTaken)

names = st.sampled_from(NAMES)
#: After how many calls the wire is cut, and whether the answer of the last one is lost.
cuts = st.tuples(st.integers(0, 7), st.booleans())
#: Calls of a node that starts: the ranges, read and written, twice, and its own record.
CALLS_UNTIL_IT_HEARS = 6
#: What pods ask for: nothing, an address, any out of a part of the range.
requests: st.SearchStrategy[AddressRequest] = st.one_of(
    st.just({}),
    st.integers(1, 14).map(lambda last: {4: Wanted("a pod", IPv4Address(f"10.9.0.{last}"))}),
    st.sampled_from([*RANGES[0].network.subnets(new_prefix=29), IPv4Network("10.9.0.4/30")]).map(
        lambda part: {4: Wanted("a pod", within=(part,))}
    ),
)


@dataclass
class Pod:
    """What a runtime knows of a pod that was added and not deleted."""

    node: str
    attachment: Attachment


class ClusterMachine(RuleBasedStateMachine):
    """``engine`` is the store's."""

    engine: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self.folder = Path(tempfile.mkdtemp(prefix="weft-model-", dir=memory))
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        engine = self._stack.enter_context(ENGINES[self.engine](self.folder))
        self.store = open_store(engine.url)
        self._stack.callback(self.store.close)
        self.operator = Cluster(self.store)
        self.running: dict[str, Member] = {}
        self.cut_off: set[str] = set()
        #: Nodes that were removed and have not come back since.
        self.removed: set[str] = set()
        self.pods: dict[str, Pod] = {}
        #: Pods of nodes that were removed: nobody counts on them until their node is back.
        self.ghosts: dict[str, Pod] = {}
        #: What somebody saw of a removed node and is about to delete: keys and revisions.
        self.about_to_delete: list[tuple[str, int]] = []
        #: The range that somebody is about to remove.
        self.about_to_remove = ""
        self.clock = 0.0
        self.number = 0

    # nodes

    @rule(name=names, cut=st.none() | cuts, told=st.sampled_from(SETTINGS))
    def start(
        self, name: str, cut: tuple[int, bool] | None = None, told: Sequence[PodRange] | None = None
    ) -> None:
        if name in self.running:
            return
        if told is None:
            agreed = self.operator.ranges()
            told = agreed.ranges if agreed else RANGES
        if cut is not None and name in self.removed:
            # One that was removed while it was down, and never hears of it, goes on with what was its own: that is
            # the price of starting without a store, and why only the dead are to be removed. This one hears.
            cut = (cut[0] + CALLS_UNTIL_IT_HEARS, cut[1])
        member = Member(self.folder, self.store, name, *told, address=f"172.25.1.{NAMES.index(name) + 2}")
        if cut is not None:
            member.wire.calls_left, member.wire.lose_answer = cut
        try:
            member.enter()
        except (StoreUnavailable, RangeExhausted, PoolExhausted):
            member.journal.close()
            return
        except ClusterError as error:
            assert "does not match" in str(error)
            member.journal.close()
            return
        self.running[name] = member
        self.removed.discard(name)
        kept = {item.container_id: item for item in member.journal.attachments()}
        for container, pod in [*self.ghosts.items()]:
            if pod.node == name:
                del self.ghosts[container]
                if container in kept:
                    self.pods[container] = pod
        lost = {container for container, pod in self.pods.items() if pod.node == name} - set(kept)
        assert not lost, f"{lost} lost their addresses although their node was never removed"
        if cut is not None:
            self.cut_off.add(name)
            member.wire.calls_left = 0

    @rule(name=names)
    def crash(self, name: str) -> None:
        self._die(name)

    @rule(name=names, cut=cuts, verb=st.sampled_from(["care", "hear", "add", "look"]), wanted=requests)
    def crash_in_the_middle(self, name: str, cut: tuple[int, bool], verb: str, wanted: AddressRequest) -> None:
        member = self.running.get(name)
        if member is None or name in self.cut_off:
            return
        member.wire.calls_left, member.wire.lose_answer = cut
        with suppress(StoreUnavailable, RangeExhausted, *REFUSALS):
            if verb == "add":
                taken = member.addresses.take(wanted)
                member.journal.reserve(self._container(), "eth0", "weave", "v", *taken)  # type: ignore[arg-type]
            elif verb == "look":
                member.hear()
                member.reclaimer.look(self.clock + 1000)
            else:
                getattr(member, verb)()
        self._die(name)

    @rule(name=names)
    def cut_the_wire(self, name: str) -> None:
        if name in self.running:
            self.running[name].wire.calls_left = 0
            self.cut_off.add(name)

    @rule(name=names)
    def mend_the_wire(self, name: str) -> None:
        if name in self.cut_off:
            self._mend(name)

    @rule(name=names)
    def hear(self, name: str) -> None:
        if name in self.running and name not in self.cut_off:
            self._hear(name)

    @rule(name=names)
    def care(self, name: str) -> None:
        if name in self.running and name not in self.cut_off:
            with suppress(RangeExhausted):
                self.running[name].care()
            self._start_anew_if_outdated(name)

    # removal

    @rule(name=names, whole=st.booleans())
    def remove(self, name: str, whole: bool) -> None:
        """By the operator, of a node that is down or hears of it; half of it, where he is interrupted."""
        if name in self.cut_off:
            return
        for container in [container for container, pod in self.pods.items() if pod.node == name]:
            self.ghosts[container] = self.pods.pop(container)
        if whole:
            self.operator.remove_node(name)
        elif entry := self.store.get(f"nodes/{name}"):
            self.store.delete(entry.key, entry.revision)
        if name in self.running:
            self._hear(name)
            self._revive(name)
        else:
            self.removed.add(name)

    @rule(name=names, jump=st.integers(-(10**6), 10**6))
    def reclaim(self, name: str, jump: int) -> None:
        self.clock += jump
        if name in self.running and name not in self.cut_off:
            self._hear(name)
            if name in self.running:
                self.running[name].reclaimer.look(self.clock)

    @rule(name=names)
    def see_a_removed_node(self, name: str) -> None:
        """The first half of a reclaim, by somebody who is slow."""
        listing = self.store.entries("blocks/")
        if self.store.get(f"nodes/{name}") is None:
            owner = f'"{name}"'.encode()
            self.about_to_delete = [
                (entry.key, entry.revision) for entry in listing.entries if owner in entry.value
            ]

    @rule()
    def delete_what_was_seen(self) -> None:
        """The second half, whatever happened meanwhile."""
        for key, revision in self.about_to_delete:
            with suppress(Conflict):
                self.store.delete(key, revision)
        self.about_to_delete = []

    # ranges

    @rule(
        change=st.sampled_from(
            [
                ("add", f"{SECOND}=29"), ("add", f"{SECOND_SIX}=125"),
                ("add", f"{FIRST}=29"), ("add", f"{SIX}=125"),
                ("remove", FIRST), ("remove", SECOND), ("remove", SIX), ("remove", SECOND_SIX),
                ("exclude", FIRST), ("exclude", SECOND), ("exclude", SIX), ("exclude", "10.9.0.9-10.9.0.12"),
                ("include", FIRST), ("include", SECOND), ("include", SIX),
            ]
        ),
        cut=st.none() | cuts,
    )  # fmt: skip
    def change_ranges(self, change: tuple[str, str], cut: tuple[int, bool] | None) -> None:
        """By the operator: what cannot be done changes nothing."""
        before = self.operator.ranges()
        owned = set(self.operator.view().owners)
        wire = UnreliableStore(self.store)
        if cut is not None:
            wire.calls_left, wire.lose_answer = cut
        try:
            change_ranges(Cluster(wire), *change)
        except StoreUnavailable:
            return
        except (ClusterError, ValueError):
            assert self.operator.ranges() == before
            return
        agreed = self.operator.ranges()
        assert agreed is not None
        if change[0] == "remove":
            assert not any(block.network_address in ip_network(change[1]) for block in owned)

    @rule(network=st.sampled_from([FIRST, SECOND, SIX, SECOND_SIX]))
    def see_a_range_that_nobody_uses(self, network: str) -> None:
        """The first half of its removal, by somebody who is slow."""
        agreed, owners = self.operator.ranges(), self.operator.view().owners
        if agreed and not any(block.network_address in ip_network(network) for block in owners):
            self.about_to_remove = network

    @rule()
    def remove_the_range_that_was_seen(self) -> None:
        """The second half, whatever was claimed meanwhile."""
        if self.about_to_remove:
            network, self.about_to_remove = ip_network(self.about_to_remove), ""
            with suppress(ClusterError):
                self.operator.change_ranges(lambda present: without_range(present, network, []))

    # pods

    @rule(name=names, wanted=requests)
    def add(self, name: str, wanted: AddressRequest) -> None:
        member = self.running.get(name)
        if member is None:
            return
        with suppress(*REFUSALS):
            container = self._container()
            made = self.pods[container] = Pod(name, member.add(container, wanted))
            for asked in wanted.values():
                given = made.attachment.address
                assert given == asked.address or any(given in part for part in asked.within)

    @precondition(lambda self: self.pods)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        container = data.draw(st.sampled_from(sorted(self.pods)))
        pod = self.pods[container]
        if pod.node in self.running:
            self.running[pod.node].delete(pod.attachment)
            del self.pods[container]

    @precondition(lambda self: self.pods)
    @rule(data=st.data())
    def crash_while_deleting(self, data: st.DataObject) -> None:
        container = data.draw(st.sampled_from(sorted(self.pods)))
        pod = self.pods[container]
        if pod.node in self.running:
            self.running[pod.node].journal.set_state(pod.attachment, State.RETIRING)
            del self.pods[container]
            self._die(pod.node)

    # what must hold

    @invariant()
    def no_two_nodes_hold_a_block(self) -> None:
        owned = [block for member in self.running.values() for block in member.addresses.blocks()]
        assert len(owned) == len(set(owned))

    @invariant()
    def what_a_node_holds_is_its_own(self) -> None:
        """Of nodes that can hear: none of their blocks is somebody else's, or nobody's, without their knowing."""
        owners = self.operator.view().owners
        for name, member in self.running.items():
            if name not in self.cut_off:
                assert {owners.get(block) for block in member.addresses.blocks()} <= {name}

    @invariant()
    def no_two_pods_have_an_address(self) -> None:
        held = [address for pod in self.pods.values() for address in pod.attachment.addresses]
        for member in self.running.values():
            held += [own.ip for own in member.addresses.gateways]
        assert len(held) == len(set(held))

    @invariant()
    def every_pod_has_a_gateway_in_its_range(self) -> None:
        for pod in self.pods.values():
            if member := self.running.get(pod.node):
                networks = [own.network for own in member.addresses.gateways]
                assert all(any(held in network for network in networks) for held in pod.attachment.addresses)

    def teardown(self) -> None:
        try:
            self._nothing_is_lost()
        finally:
            for name in [*self.running]:
                self._die(name)
            self._stack.close()

    def _nothing_is_lost(self) -> None:
        """When all is well again, every block has an owner who knows it, and every address a holder or is free."""
        for name in [*self.cut_off]:
            self._mend(name)
        for name in NAMES:
            self.start(name)
        for _ in range(5):
            self.clock += 1000
            for name in [*self.running]:
                self._hear(name)
                if name in self.running:
                    with suppress(RangeExhausted):
                        self.running[name].care()
                    self.running[name].reclaimer.look(self.clock)
        view = self.operator.view()
        absent = set(view.owners.values()) - set(self.running)
        assert absent <= set(view.nodes), f"blocks of {absent} are lost"
        for name, member in self.running.items():
            assert set(view.blocks_of(name)) == set(member.addresses.blocks())
            agreed = self.operator.ranges()
            assert agreed is not None
            assert member.addresses.ranges == agreed.ranges
            pods = [pod.attachment for pod in self.pods.values() if pod.node == name]
            holders = {address for attachment in pods for address in attachment.addresses}
            holders |= {own.ip for own in member.addresses.gateways}
            for count in member.addresses.counts():
                every = {address for block in count.blocks for address in block}
                assert count.in_use == len(every & holders)
                assert count.free == sum(map(count.pods.usable, every - holders))
                # Of a range that is excluded, a node keeps what its pods need; so it can be removed when they go.
                mine = [attachment for attachment in pods if every.intersection(attachment.addresses)]
                assert mine or not (count.pods.closed and count.blocks) or self._is_full(count.pods.version)

    def _is_full(self, version: int) -> bool:
        """Whether some node can have no block of a family but one that is excluded."""
        agreed, claimed = self.operator.ranges(), self.operator.view().claimed
        assert agreed is not None
        return not any(claimed.gaps(pods) for pods in agreed.ranges if pods.version == version)

    def _container(self) -> str:
        self.number += 1
        return f"c{self.number}"

    def _die(self, name: str) -> None:
        self.cut_off.discard(name)
        if member := self.running.pop(name, None):
            member.journal.close()

    def _hear(self, name: str) -> None:
        self.running[name].hear()
        self._start_anew_if_outdated(name)

    def _mend(self, name: str) -> None:
        self.cut_off.discard(name)
        self.running[name].wire.calls_left = None
        self._hear(name)

    def _start_anew_if_outdated(self, name: str) -> None:
        """As the agent does: what it still has, it had not to lose."""
        if self.running[name].enrolment.outdated:
            told = self.running[name].told
            self._die(name)
            self.start(name, told=told)

    def _revive(self, name: str) -> None:
        """The pods of a removed node that has signed in again at once."""
        if name not in self.running:
            return
        kept = {item.container_id for item in self.running[name].journal.attachments()}
        for container in [container for container, pod in self.ghosts.items() if pod.node == name]:
            pod = self.ghosts.pop(container)
            if container in kept:
                self.pods[container] = pod


@pytest.mark.parametrize(("engine", "examples"), [("sqlite", 100), ("etcd", 5), ("kubernetes", 5)])
def test_a_cluster_keeps_its_promises(engine: str, examples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks_module, "SURPLUS_SECONDS", -1.0)
    machine = type(f"{engine.title()}Machine", (ClusterMachine,), {"engine": engine})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
