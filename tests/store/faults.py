"""What can happen to one of three members."""

import signal
from collections.abc import Callable

from tests.store.trio import Trio

Fault = tuple[Callable[[], object], Callable[[], object]]


def _leader_killed(trio: Trio) -> Fault:
    leader = trio.leader()
    return lambda: leader.kill(signal.SIGKILL), leader.spawn


def _leader_hangs(trio: Trio) -> Fault:
    leader = trio.leader()
    return leader.suspend, leader.resume


def _leader_cut_off(trio: Trio) -> Fault:
    leader = trio.leader()
    return lambda: trio.cut_off(leader), lambda: trio.join(leader)


def _minority_cut_off(trio: Trio) -> Fault:
    leader = trio.leader()
    member = next(member for member in trio.members if member is not leader)
    return lambda: trio.cut_off(member), lambda: trio.join(member)


def _majority_killed(trio: Trio) -> Fault:
    members = trio.members[:2]

    def strike() -> None:
        for member in members:
            member.kill()

    def heal() -> None:
        for member in members:
            member.spawn()

    return strike, heal


def _disk_full(trio: Trio) -> Fault:
    leader = trio.leader()

    def heal() -> None:
        trio.free_disk(leader)
        if leader.process is None or leader.process.poll() is not None:
            leader.spawn()

    def strike() -> None:
        trio.fill_disk(leader)
        # It does not outlive the first write for which there is no room.
        assert leader.process is not None
        leader.process.wait(timeout=60)

    return strike, heal


#: Each is made for a trio that is whole: what strikes, and what heals.
FAULTS: dict[str, Callable[[Trio], Fault]] = {
    "leader killed": _leader_killed,
    "leader hangs": _leader_hangs,
    "leader cut off": _leader_cut_off,
    "minority cut off": _minority_cut_off,
    "majority killed": _majority_killed,
    "leader's disk full": _disk_full,
}
