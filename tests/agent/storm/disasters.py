"""What happens during a storm: each yields how long it waits, as a share of the storm, between its steps.

The first step strikes, the last one heals.
"""

import signal
from collections.abc import Callable, Iterator

from tests.agent.storm.agreement import kept_containers
from tests.agent.storm.network import Network, rmpeer
from tests.agent.storm.runtime import Runtime
from tests.nodes import Node

Disaster = Callable[[Network, list[Runtime]], Iterator[float]]


def nothing(network: Network, runtimes: list[Runtime]) -> Iterator[float]:
    yield 0.2
    yield 0.4


def leader_killed(network: Network, runtimes: list[Runtime]) -> Iterator[float]:
    leader = network.members.leader()
    yield 0.2
    leader.kill()
    yield 0.4
    leader.spawn()


def leader_hangs(network: Network, runtimes: list[Runtime]) -> Iterator[float]:
    leader = network.members.leader()
    yield 0.2
    leader.suspend()
    yield 0.4
    leader.resume()


def leader_and_node_cut_off(network: Network, runtimes: list[Runtime]) -> Iterator[float]:
    """The leader and a node together: they reach each other only."""
    leader, node = network.members.leader(), network.nodes[2]
    yield 0.2
    network.cut_off_together(node, leader)
    yield 0.4
    network.rejoin(node, leader)


def majority_killed(network: Network, runtimes: list[Runtime]) -> Iterator[float]:
    """And meanwhile an agent, which starts from what it knew."""
    yield 0.2
    for member in network.members.members[:2]:
        member.kill()
    yield 0.1
    restart(network.nodes[0])
    yield 0.3
    for member in network.members.members[:2]:
        member.spawn()


def majority_killed_for_long(network: Network, runtimes: list[Runtime]) -> Iterator[float]:
    """Until nodes run out of addresses."""
    yield 0.15
    for member in network.members.members[:2]:
        member.kill()
    yield 0.7
    for member in network.members.members[:2]:
        member.spawn()


def disk_full(network: Network, runtimes: list[Runtime]) -> Iterator[float]:
    leader = network.members.leader()
    yield 0.2
    network.members.fill_disk(leader)
    yield 0.4
    network.members.free_disk(leader)
    # It ends at the first write for which there is no room.
    assert leader.process is not None
    if leader.process.poll() is not None:
        leader.spawn()


def agents_killed(network: Network, runtimes: list[Runtime]) -> Iterator[float]:
    """One after the other, in the middle of what they do."""
    yield 0.2
    for node in network.nodes:
        restart(node)
        yield 0.1


def node_removed(network: Network, runtimes: list[Runtime]) -> Iterator[float]:
    """A machine is gone, its node is removed, others grow into its blocks, it comes back."""
    node, runtime = network.nodes[2], runtimes[2]
    yield 0.2
    runtime.stop()
    had = set(node.report()["ipam"]["blocks"])
    node.kill()
    assert "taken over from node03" in rmpeer(network.nodes[0], node.name)
    yield 0.4
    for _ in range(100):
        if had.intersection(network.nodes[0].report()["ipam"]["blocks"]):
            break
        yield 0.05
    else:
        raise AssertionError(f"node01 takes none of {sorted(had)}; it needs more pods, later")
    node.start()
    runtime.go_on(kept_containers(node))


def restart(node: Node) -> None:
    """Without a word."""
    node.kill(signal.SIGKILL)
    node.start()


DISASTERS: dict[str, Disaster] = {
    "nothing": nothing,
    "leader killed": leader_killed,
    "leader hangs": leader_hangs,
    "leader and a node cut off together": leader_and_node_cut_off,
    "majority killed, an agent too": majority_killed,
    "majority killed for long": majority_killed_for_long,
    "leader's disk full": disk_full,
    "agents killed in turn": agents_killed,
    "a node removed, and back": node_removed,
}
