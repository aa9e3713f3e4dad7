"""A storm of ADDs and DELs on real agents over three members of etcd (``python -m bench.outages`` is longer).

What is common to all storms is asserted by ``tests.agent.storm.storm``: no address twice, journal, kernel, store
and runtime agree, pods reach each other, nothing is lost.
"""

from pathlib import Path

from tests.agent.storm import disasters
from tests.agent.storm.network import network
from tests.agent.storm.storm import storm

#: For each disaster.
SECONDS = 3.0


def test_members_fail_and_pods_come_and_go(tmp_path: Path) -> None:
    whole = [disasters.leader_hangs, disasters.majority_killed, disasters.leader_and_node_cut_off]
    with network(tmp_path, store="timeout=2") as made:
        outcome = storm(made, whole, SECONDS)
        assert "the store is away" in made.nodes[0].log.read_text()
    assert {call.node for call in outcome.while_struck} == {node.name for node in made.nodes}
    assert not any(outcome.withdrawn.values())
    for item in outcome.pings:
        if "node03" not in (item.source, item.target):
            assert item.sent - item.received <= 1, item


def test_a_node_is_removed_and_comes_back_and_agents_are_killed(tmp_path: Path) -> None:
    both = [disasters.node_removed, disasters.agents_killed]
    with network(tmp_path, store="timeout=2") as made:
        outcome = storm(made, both, SECONDS, peaks=(44, 20, 20))
        assert "this node was removed from the cluster" in made.nodes[2].log.read_text()
        assert "is cut off: " in made.nodes[2].log.read_text()
    assert {call.node for call in outcome.while_struck} == {node.name for node in made.nodes}
    for item in outcome.pings:
        if "node03" not in (item.source, item.target):
            assert item.sent - item.received <= 1, item
