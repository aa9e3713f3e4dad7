"""A node's addresses over a real store: blocks claimed, a spare ahead, the surplus given back."""

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address, ip_network
from pathlib import Path

import pytest

from tests.members import Member
from weft.agent import blocks as module
from weft.agent.addresses import AddressesExhausted, AddressRefused, AddressTaken
from weft.agent.cluster import Cluster
from weft.agent.records import ClusterError, NodeRecord
from weft.ipam.agreement import without_range
from weft.ipam.ranges import PodRange, parse_ranges
from weft.plugins.main.weave_requests import AddressRequest, Wanted
from weft.store import Store, open_store
from weft.troubles import Troubles

UNIVERSE = PodRange.of("10.244.0.0/16")
SMALL = PodRange.of("10.244.0.0/28")
BOTH = parse_ranges("10.244.0.0/16,fd00:10:244::/48")


class Site:
    """A store and the nodes that share it."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder = folder
        self.store = store
        self.cluster = Cluster(store)

    def node(self, name: str, *ranges: PodRange) -> Member:
        """A node that has entered the cluster."""
        member = Member(self.folder, self.store, name, *(ranges or (UNIVERSE,)))
        assert member.enter()
        return member


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    store = open_store(f"sqlite://{tmp_path}/store.db")
    yield Site(tmp_path, store)
    store.close()


def blocks(member: Member) -> list[str]:
    return [str(block) for count in member.addresses.counts() for block in count.blocks]


def take(member: Member) -> IPv4Address:
    (address,) = member.addresses.take()
    assert isinstance(address, IPv4Address)
    return address


def test_two_nodes_get_the_gateways_that_weave_gave(site: Site) -> None:
    assert str(site.node("controlplane").addresses.gateway) == "10.244.0.1/16"
    assert str(site.node("node01").addresses.gateway) == "10.244.192.0/16"


def test_a_restarted_node_keeps_its_gateway_blocks_and_holders(site: Site) -> None:
    node = site.node("a")
    node.care()
    kept = node.add("c1")
    again = site.node("a")
    assert again.addresses.gateway == node.addresses.gateway
    assert blocks(again) == blocks(node)
    assert take(again) not in (kept.address, node.addresses.gateway.ip)


def test_a_start_writes_nothing_where_all_is_as_it_was(site: Site) -> None:
    site.node("a")
    before = site.store.entries("").entries
    site.node("a")
    assert site.store.entries("").entries == before


def test_a_node_that_lost_its_state_takes_its_blocks_up_again(site: Site) -> None:
    node = site.node("a")
    node.care()
    for file in (site.folder / "a").iterdir():
        file.unlink()
    again = site.node("a")
    assert again.addresses.gateway == node.addresses.gateway
    assert blocks(again) == blocks(node)


def test_one_spare_block_is_kept_and_the_surplus_goes_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    node = site.node("a")
    node.care()
    assert blocks(node) == ["10.244.0.0/26", "10.244.0.64/26"]
    held = [take(node) for _ in range(63)]
    node.care()
    assert len(blocks(node)) == 3
    node.addresses.release(held)
    monkeypatch.setattr(module, "SURPLUS_SECONDS", -1.0)
    node.care()
    node.care()
    assert len(blocks(node)) == 2
    assert node.journal.blocks() == list(node.addresses.blocks())
    assert len(site.cluster.view().owners) == 2


def test_an_exhausted_range_is_an_error_that_names_it(site: Site) -> None:
    node = site.node("a", SMALL)
    for _ in range(13):  # 16 less network, broadcast and the bridge's
        take(node)
    with pytest.raises(AddressesExhausted, match=str(SMALL)):
        take(node)


def test_many_threads_never_take_the_same_address(site: Site) -> None:
    node = site.node("a")
    stopping = threading.Event()
    concern = Troubles().about("this node's blocks", "")
    carer = threading.Thread(target=node.addresses.care, args=(stopping, lambda: None, concern))
    carer.start()
    with ThreadPoolExecutor(8) as threads:
        taken = list(threads.map(lambda _: take(node), range(400)))
    stopping.set()
    node.addresses.wake()
    carer.join()
    assert len(set(taken)) == 400


def test_a_range_that_differs_from_the_clusters_is_refused_naming_both(site: Site) -> None:
    site.cluster.agree_on_ranges([UNIVERSE])
    assert site.cluster.agree_on_ranges([UNIVERSE]).ranges == (UNIVERSE,)
    with pytest.raises(ClusterError, match=r"10\.32\.0\.0/12.*10\.244\.0\.0/16"):
        site.cluster.agree_on_ranges([PodRange.of("10.32.0.0/12")])
    # One that is told more adds it.
    assert site.cluster.agree_on_ranges(BOTH).ranges == BOTH
    assert site.cluster.agree_on_ranges([UNIVERSE]).ranges == BOTH


def test_the_clusters_block_size_is_in_force_and_another_one_is_refused(site: Site) -> None:
    (large,) = parse_ranges("10.244.0.0/16", "24")
    site.cluster.agree_on_ranges([large])
    assert site.cluster.agree_on_ranges([UNIVERSE]).ranges == (large,)
    with pytest.raises(ClusterError, match="block size 26 does not match the cluster's 24"):
        site.cluster.agree_on_ranges([UNIVERSE], [UNIVERSE.network])


def test_a_cluster_of_before_the_size_was_told_keeps_its_blocks(site: Site) -> None:
    site.store.create("cluster", b'{"range":"10.244.0.0/16"}')
    assert site.cluster.agree_on_ranges([UNIVERSE]).ranges[0].block_prefix == 24


def test_a_name_that_another_node_has_is_refused_and_its_record_kept(site: Site) -> None:
    first = NodeRecord(IPv4Address("172.25.1.2"), "02:00:00:00:00:01", IPv4Address("10.244.0.1"), "one")
    other = NodeRecord(IPv4Address("172.25.1.3"), "02:00:00:00:00:02", IPv4Address("10.244.0.9"), "two")
    site.cluster.register("a", first)
    with pytest.raises(ClusterError, match=r"172\.25\.1\.2.*--node-name"):
        site.cluster.register("a", other)
    assert site.cluster.view().nodes == {"a": first}


def test_foreign_values_under_our_keys_are_named_and_stop_nobody(site: Site) -> None:
    site.store.create("nodes/x", b"not json")
    site.store.create("blocks/10.244.0.0-26", b"{}")
    site.store.create("blocks/somewhere", b"{}")
    view = site.cluster.view()
    assert {key: key in text for key, text in view.problems.items()} == {
        "nodes/x": True, "blocks/10.244.0.0-26": True, "blocks/somewhere": True,
    }  # fmt: skip
    # A block whose owner cannot be read is not free.
    assert blocks(site.node("a")) == ["10.244.192.0/26"]
    assert site.store.get("nodes/x").value == b"not json"  # type: ignore[union-attr]


def test_a_pod_has_an_address_of_each_family(site: Site) -> None:
    first, second = site.node("a", *BOTH), site.node("b", *BOTH)
    assert str(first.addresses.gateway6) == "fd00:10:244::1/48"
    assert str(second.addresses.gateway6) == "fd00:10:244:c000::/48"
    assert first.addresses.take() == (IPv4Address("10.244.0.2"), IPv6Address("fd00:10:244::2"))
    assert second.addresses.take() == (IPv4Address("10.244.192.1"), IPv6Address("fd00:10:244:c000::1"))
    kept = second.add("c")
    again = site.node("b", *BOTH)
    assert again.addresses.gateway6 == second.addresses.gateway6
    assert kept.address6 not in again.addresses.take()


def test_one_family_that_is_exhausted_takes_nothing_of_the_other(site: Site) -> None:
    ranges = parse_ranges("10.244.0.0/16,fd00::/124")
    node = site.node("a", *ranges)
    for _ in range(13):
        node.addresses.take()
    before = [count.in_use for count in node.addresses.counts()]
    with pytest.raises(AddressesExhausted, match="fd00::/124"):
        node.addresses.take()
    assert [count.in_use for count in node.addresses.counts()] == before


def named(*addresses: str) -> AddressRequest:
    return {address.version: Wanted("pod x", address) for address in map(ip_address, addresses)}


def inside_of(*networks: str) -> AddressRequest:
    return {4: Wanted("pod x", within=tuple(map(IPv4Network, networks)))}


@pytest.mark.parametrize(
    ("wanted", "error", "said"),
    [
        (
            "10.244.192.7",
            AddressTaken,
            "is in block 10.244.192.0/26 of b, not of this node: ask for one of 10.244.0.0/26, or run",
        ),
        ("10.244.0.1", AddressRefused, "this node's bridge's"),
        ("10.244.0.2", AddressTaken, "taken: it belongs to container c1"),
        ("10.244.0.0", AddressRefused, "given to no pod"),
        ("10.244.0.20", AddressRefused, "given to no pod: it is excluded"),
        ("10.99.0.1", AddressRefused, "not in the range 10.244.0.0/16"),
        ("fd00::1", AddressRefused, "no range of IPv6"),
    ],
)
def test_an_address_that_cannot_be_had_is_refused_by_name(
    site: Site, wanted: str, error: type[Exception], said: str
) -> None:
    node = site.node("a", *parse_ranges("10.244.0.0/16", "", "10.244.0.20"))
    node.add("c1")
    site.node("b")
    before = node.addresses.counts()
    with pytest.raises(error, match=f"^pod x: address {wanted}.*{re.escape(said)}"):
        node.addresses.take(named(wanted))
    assert node.addresses.counts() == before


def test_an_address_by_request(site: Site) -> None:
    node = site.node("a", *BOTH)
    kept = node.add("c1", named("10.244.0.40"))
    assert kept.addresses == (IPv4Address("10.244.0.40"), IPv6Address("fd00:10:244::2"))
    node.delete(kept)
    assert node.add("c2", named("fd00:10:244::9", "10.244.0.40")).addresses == (
        IPv4Address("10.244.0.40"),
        IPv6Address("fd00:10:244::9"),
    )


def test_the_block_of_an_address_that_nobody_has_is_claimed_for_it(site: Site) -> None:
    first, second = site.node("a"), site.node("b")
    kept = first.add("c1", named("10.244.9.7"))
    assert kept.address == IPv4Address("10.244.9.7")
    assert site.cluster.view().owners[IPv4Network("10.244.9.0/26")] == "a"
    # The other has not heard of it, and is told by the store.
    with pytest.raises(AddressTaken, match=r"block 10\.244\.9\.0/26 of a, not of this node"):
        second.add("c2", named("10.244.9.8"))
    # A claim whose answer was lost is one all the same.
    second.wire.calls_left, second.wire.lose_answer = 2, True
    with pytest.raises(AddressesExhausted, match="the wire was cut"):
        second.add("c2", named("10.244.10.8"))
    second.wire.calls_left = None
    assert second.add("c2", named("10.244.10.8")).address == IPv4Address("10.244.10.8")
    second.hear()
    assert "10.244.10.0/26" in blocks(second)
    again = site.node("a")
    assert kept.address in [item.address for item in again.journal.attachments()]
    assert "10.244.9.0/26" in blocks(again)


def test_without_the_store_a_fixed_address_is_given_out_of_the_own_blocks_alone(site: Site) -> None:
    node = site.node("a")
    node.wire.calls_left = 0
    assert node.add("c1", named("10.244.0.9")).address == IPv4Address("10.244.0.9")
    with pytest.raises(AddressesExhausted, match=r"10\.244\.9\.7 is in no block of this node: the wire is cut"):
        node.add("c2", named("10.244.9.7"))


def test_a_block_that_was_claimed_for_an_address_goes_back_with_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = site.node("a"), site.node("b")
    first.care()
    kept = first.add("c1", named("10.244.9.7"))
    first.delete(kept)
    monkeypatch.setattr(module, "SURPLUS_SECONDS", -1.0)
    first.care()
    first.care()
    assert second.add("c2", named("10.244.9.7")).address == kept.address


def test_an_address_in_a_block_of_its_own_moves_with_its_pod(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a further range, which other pods do not draw on while the first has room."""
    ranges = parse_ranges("10.244.0.0/16,10.245.0.0/24")
    first, second = site.node("a", *ranges), site.node("b", *ranges)
    first.care()
    kept = first.add("c1", named("10.245.0.12"))
    with pytest.raises(AddressTaken, match=r"block 10\.245\.0\.8/29 of a"):
        second.add("c1", named("10.245.0.12"))
    first.delete(kept)
    monkeypatch.setattr(module, "SURPLUS_SECONDS", -1.0)
    for _ in range(2):
        first.care()
    assert second.add("c1", named("10.245.0.12")).address == kept.address


def test_a_range_is_a_pool(site: Site) -> None:
    node = site.node("a", *parse_ranges("10.244.0.0/16,10.245.0.0/24"))
    assert node.addresses.take()[0] in IPv4Network("10.244.0.0/16")
    given = [node.addresses.take(inside_of("10.245.0.0/24"))[0] for _ in range(20)]
    assert all(address in IPv4Network("10.245.0.0/24") for address in given)
    either = inside_of("10.245.0.0/24", "10.244.9.0/24")
    while (last := node.addresses.take(either)[0]) in IPv4Network("10.245.0.0/24"):
        given.append(last)
    assert len(set(given)) == len(given)
    assert last in IPv4Network("10.244.9.0/24")


def test_an_address_within_networks(site: Site) -> None:
    first, second = site.node("a"), site.node("b")
    # Out of the own blocks, in the order in which they come; then a block is claimed.
    assert take(first) == IPv4Address("10.244.0.2")
    part = inside_of("10.244.0.4/31", "10.244.0.2/31")
    assert [str(*first.addresses.take(part)) for _ in range(3)] == ["10.244.0.3", "10.244.0.4", "10.244.0.5"]
    with pytest.raises(
        AddressesExhausted, match=r"^pod x: no address .*10\.244\.0\.4/31 or .* is free.*no block in"
    ):
        first.addresses.take(part)
    pool = inside_of("10.244.77.0/25", "10.244.78.8/29")
    given = [second.addresses.take(pool)[0] for _ in range(130)]
    assert len(set(given)) == 130
    assert all(str(address).startswith(("10.244.77.", "10.244.78.")) for address in given)
    assert sum(str(block).startswith(("10.244.77.", "10.244.78.")) for block in map(str, blocks(second))) == 3
    # What is left of the networks is in the other's blocks.
    for _ in range(6):
        second.addresses.take(pool)
    with pytest.raises(AddressesExhausted, match="no block in"):
        second.addresses.take(pool)
    with pytest.raises(AddressesExhausted, match="no block in"):
        first.addresses.take(pool)


def test_a_part_that_is_asked_for_is_of_whatever_range_it_is(site: Site) -> None:
    ranges = parse_ranges("10.244.0.0/24,10.245.0.0/24,fd00::/64")
    node = site.node("a", *ranges)
    second, across = ip_network("10.245.0.0/24"), ip_network("10.244.0.0/15")
    assert isinstance(second, IPv4Network)
    assert isinstance(across, IPv4Network)
    assert node.add("c1", {4: Wanted("c1", within=(second,))}).address in second
    assert [own.network for own in node.addresses.gateways] == [
        ranges[0].network, ranges[2].network, second
    ]  # fmt: skip
    # Of a part that has something of both, the first range counts.
    assert node.add("c2", {4: Wanted("c2", within=(across,))}).address in ranges[0].network
    with pytest.raises(AddressesExhausted, match="no address of this node's blocks in 10.9.0.0/24 is free"):
        node.addresses.take({4: Wanted("c3", within=(IPv4Network("10.9.0.0/24"),))})
    with pytest.raises(AddressRefused, match="not in the range 10.244.0.0/24 or 10.245.0.0/24"):
        node.addresses.take(named("10.9.0.1"))


def test_the_bridge_gives_up_an_address_that_no_pod_needs(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    ranges = parse_ranges("10.244.0.0/28,10.245.0.0/24")
    node = site.node("a", *ranges)
    held = [node.add(f"c{number}") for number in range(14)]
    assert len(node.addresses.gateways) == 2
    monkeypatch.setattr(module, "SURPLUS_SECONDS", -1.0)
    node.care()
    assert len(node.addresses.gateways) == 2
    node.delete(held[-1])
    node.care()
    node.care()
    assert [str(own) for own in node.addresses.gateways] == ["10.244.0.1/28"]
    # Its block is the spare one now, until the first range has one to spare.
    assert [count.spare for count in node.addresses.counts()] == [0, 1]
    for kept in held[6:13]:
        node.delete(kept)
    node.care()
    node.care()
    assert [len(count.blocks) for count in node.addresses.counts()] == [2, 0]
    assert site.node("a", *ranges).addresses.gateways == node.addresses.gateways


def test_a_node_serves_the_pods_of_an_excluded_range_where_no_other_has_a_block(site: Site) -> None:
    node = site.node("a", SMALL)
    kept = node.add("c1")
    other = PodRange.of("10.245.0.0/28")
    for number in range(other.block_count):
        site.cluster.claim(other.block(number), "b")
    closed = replace(SMALL, excluded=(SMALL.network,))
    again = site.node("a", closed, other)
    assert [str(own) for own in again.addresses.gateways] == ["10.244.0.1/28"]
    assert [item.address for item in again.journal.attachments()] == [kept.address]
    with pytest.raises(AddressesExhausted, match="10.244.0.0/28 is excluded; all 2 blocks of 10.245.0.0/28"):
        again.addresses.take()


@pytest.mark.parametrize("with_pod", [True, False])
def test_a_range_that_was_removed_while_a_block_of_it_was_claimed(site: Site, with_pod: bool) -> None:
    """With a pod in it the range comes back; without, its block goes back."""
    ranges = parse_ranges("10.244.0.0/28,10.245.0.0/24")
    node = site.node("a", *ranges)
    held = [node.add(f"c{number}") for number in range(14)]
    last = held[-1]
    assert str(last.address).startswith("10.245.")
    if not with_pod:
        node.delete(last)
    # By somebody who looked for owners before there was one.
    site.cluster.change_ranges(lambda present: without_range(present, ranges[1].network, []))
    node.hear()
    assert node.enrolment.outdated == "the cluster's range is 10.244.0.0/28 now"
    again = site.node("a", *ranges)
    agreed = site.cluster.ranges()
    assert agreed is not None
    assert again.addresses.ranges == agreed.ranges == (ranges if with_pod else ranges[:1])
    assert set(site.cluster.view().blocks_of("a")) == set(again.addresses.blocks())
    kept = {item.address for item in again.journal.attachments()}
    assert kept == {item.address for item in held[: 14 if with_pod else 13]}
