"""What is collected, decided: never what a live sandbox holds, and at last all that none holds."""

from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from weft.agent.collection import PATIENCE, Look, Reason, Suspicions, suspects, termination_graces
from weft.agent.journal import Attachment, State

INTERVAL, LONGEST = 10.0, 600.0
FIRST = Attachment(
    1, "a", "eth0", "weave", "vethwepl1", IPv4Address("10.32.0.2"), State.ATTACHED, 0.0, pod_uid="u",
    termination_grace=30,
)  # fmt: skip
SECOND = replace(FIRST, id=2, container_id="b", host_interface="vethwepl2", address=IPv4Address("10.32.0.3"))
BOTH = frozenset({"vethwepl1", "vethwepl2", "weave"})


@pytest.mark.parametrize(
    ("look", "wanted"),
    [
        (Look((FIRST,), BOTH), set()),
        (Look((FIRST,), frozenset()), {(1, Reason.NO_INTERFACE)}),
        # Its interface has another name.
        (Look((FIRST,), frozenset(), frozenset({IPv4Address("10.32.0.2")})), set()),
        # Another IPAM plugin keeps its address.
        (Look((replace(FIRST, address=None),), frozenset()), set()),
        (Look((replace(FIRST, state=State.RETIRING),), frozenset()), set()),
        (Look((replace(FIRST, state=State.RESERVED),), BOTH), {(1, Reason.UNFINISHED)}),
        (Look((FIRST, SECOND), BOTH), {(1, Reason.REPLACED)}),
        # The newer sandbox is not there yet, or is gone itself.
        (Look((FIRST, replace(SECOND, state=State.RESERVED)), BOTH), {(2, Reason.UNFINISHED)}),
        (Look((FIRST, SECOND), BOTH - {"vethwepl2"}), {(2, Reason.NO_INTERFACE)}),
        # A second interface, or a second network, of the same sandbox.
        (Look((FIRST, replace(SECOND, ifname="net1")), BOTH), set()),
        (Look((FIRST, replace(SECOND, network="other")), BOTH), set()),
        (Look((FIRST, replace(SECOND, host_interface="vethwepl1")), BOTH), set()),
        (Look((FIRST,), BOTH, pods=frozenset()), {(1, Reason.POD_GONE)}),
        (Look((FIRST,), BOTH, pods=frozenset({"u"})), set()),
        # Nobody can say; a pod that the API never knew; a runtime that names no pods.
        (Look((FIRST,), BOTH, pods=None), set()),
        (Look((replace(FIRST, termination_grace=None),), BOTH, pods=frozenset()), set()),
        (Look((replace(FIRST, pod_uid=""), replace(SECOND, pod_uid="")), BOTH, pods=frozenset()), set()),
    ],
)
def test_what_is_suspect(look: Look, wanted: set[tuple[int, Reason]]) -> None:
    assert suspects(look) == wanted


def test_one_look_without_it_ends_a_suspicion() -> None:
    suspicions = Suspicions(INTERVAL, LONGEST)
    bad, good, unknown = (
        Look((FIRST,), BOTH, pods=frozenset()), Look((FIRST,), BOTH, pods=frozenset({"u"})), Look((FIRST,), BOTH)
    )  # fmt: skip
    needed = suspicions.looks(FIRST, Reason.POD_GONE)
    assert needed == (LONGEST + 30) / INTERVAL
    for interruption in (good, unknown):
        for _ in range(int(needed)):
            assert suspicions.after(bad) == []
        assert suspicions.after(interruption) == []
    for _ in range(int(needed)):
        assert suspicions.after(bad) == []
    assert suspicions.after(bad) == [(FIRST, Reason.POD_GONE)]


def test_the_longest_grace_that_the_api_named_counts() -> None:
    assert termination_graces([replace(FIRST, termination_grace=None)], {"u": 5})[0][1] == 5
    assert termination_graces([FIRST], {"u": 5}) == []
    assert termination_graces([FIRST], {"u": 3600}) == [(FIRST, 3600)]
    assert termination_graces([FIRST], {}) == []


@dataclass
class Sandbox:
    """What the runtime has; ``live``: processes may run in it. ``holds``: its namespace is there."""

    attachment: Attachment
    live: bool = True
    holds: bool = True


@dataclass
class Pod:
    uid: str
    grace: int
    static: bool
    in_api: bool
    wanted: bool = True
    #: Seconds for which it may go on after it was deleted.
    left: float = 0.0
    sandboxes: list[Sandbox] = field(default_factory=list)


class NodeMachine(RuleBasedStateMachine):
    """A kubelet, a runtime that skips DELs as it likes, an API server that is away and an agent that is killed at
    times."""

    def __init__(self) -> None:
        super().__init__()
        self.pods: list[Pod] = []
        self.journal: dict[int, Attachment] = {}
        self.number = 0
        self.api_answers = True
        self.suspicions = Suspicions(INTERVAL, LONGEST)

    def sandbox(self, pod: Pod, state: State = State.ATTACHED) -> None:
        self.number += 1
        made = Attachment(
            self.number, f"c{self.number}", "eth0", "weave", f"v{self.number}",
            IPv4Address(int(IPv4Address("10.32.0.2")) + self.number), state, 0.0, pod_uid=pod.uid,
        )  # fmt: skip
        self.journal[made.id] = made
        pod.sandboxes.append(Sandbox(made))

    @precondition(lambda self: sum(pod.wanted for pod in self.pods) < 2)
    @rule(static=st.booleans(), grace=st.sampled_from([0, 3600]))
    def create(self, static: bool, grace: int) -> None:
        pod = Pod(f"u{self.number}", grace, static, in_api=not static)
        self.pods.append(pod)
        self.sandbox(pod)

    @precondition(lambda self: any(pod.wanted for pod in self.pods))
    @rule(data=st.data(), deleted=st.booleans(), holds=st.booleans())
    def recreate_sandbox(self, data: st.DataObject, deleted: bool, holds: bool) -> None:
        """The kubelet stops the old sandbox, then makes another; the DEL may be lost, the namespace stay."""
        pod = data.draw(st.sampled_from([pod for pod in self.pods if pod.wanted]))
        for old in pod.sandboxes:
            self.end(old, deleted=deleted, holds=holds)
        self.sandbox(pod)

    @precondition(lambda self: any(pod.wanted for pod in self.pods))
    @rule(data=st.data(), force=st.booleans(), deleted=st.booleans(), holds=st.booleans())
    def delete_pod(self, data: st.DataObject, force: bool, deleted: bool, holds: bool) -> None:
        pod = data.draw(st.sampled_from([pod for pod in self.pods if pod.wanted]))
        pod.wanted = pod.in_api = False
        if force:
            pod.left = float(pod.grace)  # it may still be ending, and the API has forgotten it
            return
        for sandbox in pod.sandboxes:
            self.end(sandbox, deleted=deleted, holds=holds)

    @precondition(lambda self: sum(pod.wanted for pod in self.pods) < 2)
    @rule(static=st.booleans())
    def add_under_way(self, static: bool) -> None:
        """An ADD that is answered before the patience with unfinished ones is over."""
        pod = Pod(f"u{self.number}", 30, static, in_api=not static)
        self.pods.append(pod)
        self.sandbox(pod, State.RESERVED)
        self.look()
        kept = pod.sandboxes[0]
        assert kept.attachment.id in self.journal
        kept.attachment = replace(self.journal[kept.attachment.id], state=State.ATTACHED)
        self.journal[kept.attachment.id] = kept.attachment

    @rule()
    def api_goes_and_comes(self) -> None:
        self.api_answers = not self.api_answers

    @rule()
    def kill_agent(self) -> None:
        self.suspicions = Suspicions(INTERVAL, LONGEST)

    @rule(times=st.sampled_from([5, 70]))
    def time_passes(self, times: int) -> None:
        for _ in range(times):
            for pod in self.pods:
                if not pod.wanted and pod.left > 0:
                    pod.left -= INTERVAL
                    if pod.left <= 0:
                        for sandbox in pod.sandboxes:
                            sandbox.live = False
            self.look()

    def end(self, sandbox: Sandbox, *, deleted: bool, holds: bool) -> None:
        sandbox.live = False
        sandbox.holds = sandbox.holds and holds and not deleted
        if deleted:
            self.journal.pop(sandbox.attachment.id, None)

    def look(self) -> None:
        pods = {pod.uid: pod.grace for pod in self.pods if pod.in_api} if self.api_answers else None
        for item, grace in termination_graces(list(self.journal.values()), pods or {}):
            self.journal[item.id] = replace(item, termination_grace=grace)
        held = {one.attachment.host_interface for pod in self.pods for one in pod.sandboxes if one.holds}
        look = Look(tuple(self.journal.values()), frozenset(held), pods=None if pods is None else frozenset(pods))
        for item, _ in self.suspicions.after(look):
            del self.journal[item.id]

    @invariant()
    def no_live_sandbox_has_lost_its_attachment(self) -> None:
        for pod in self.pods:
            for sandbox in pod.sandboxes:
                if sandbox.live and (pod.wanted or pod.left > 0):
                    assert sandbox.attachment.id in self.journal

    def teardown(self) -> None:
        """With an API server that answers, what no sandbox holds is freed in the end, if anybody can tell."""
        self.api_answers = True
        for _ in range(int((LONGEST + 3600 + 2 * max(PATIENCE.values())) / INTERVAL) + 3):
            self.look()
        kept = {item.id for item in self.journal.values()}
        for pod in self.pods:
            *older, newest = pod.sandboxes
            assert not kept & {one.attachment.id for one in older}
            known = self.journal.get(newest.attachment.id)
            if not pod.wanted and known is not None:
                # Its namespace is held by somebody, and the API server was never heard to know it.
                assert newest.holds
                assert known.termination_grace is None
        super().teardown()


TestNode = NodeMachine.TestCase
TestNode.settings = settings(max_examples=60, stateful_step_count=30)
