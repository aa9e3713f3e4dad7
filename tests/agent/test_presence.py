"""Real agents over etcd: who gives no sign of life is shown so, and loses nothing for it."""

import sys
from pathlib import Path

from tests.agent.storm.network import Network, network
from tests.agent.test_agent import address_of, eventually, reaches
from tests.namespaces import ip, path, run
from tests.nodes import Node, pod
from weft.agent.status import fetch


def shown(node: Node, what: str) -> dict[str, str]:
    """The last word on every node in what ``weft status peers`` or ``ipam`` shows."""
    text = fetch(node.folder / "run" / "status.sock", f"/status/{what}")[1].decode()
    lines = (line.replace("->", "").split() for line in text.splitlines())
    return {word.partition("(")[0]: words[-1] for words in lines for word in words[:2] if word.startswith("node0")}


def is_missed(made: Network, node: Node) -> bool:
    return all(
        (shown(other, "peers")[node.name], shown(other, "ipam")[node.name]) == ("failed", "unreachable!")
        for other in made.nodes
        if other is not node and other.status() == 200
    )


def all_are_seen(made: Network) -> bool:
    return all(
        set(shown(node, "peers").values()) <= {"established", f"{node.name}(172.25.1.{number})"}
        and "unreachable!" not in shown(node, "ipam").values()
        for number, node in enumerate(made.nodes, start=2)
    )


def test_a_silent_node_is_shown_as_failed_and_healed_when_it_is_back(tmp_path: Path) -> None:
    with network(tmp_path, store="timeout=1&presence=3") as made, pod() as a, pod() as b:
        first, second, third = made.nodes
        assert eventually(lambda: all_are_seen(made))
        near, far = first.add("a", str(path(a))), third.add("b", str(path(b)))
        third.kill()
        assert eventually(lambda: is_missed(made, third), 20)
        said = run(sys.executable, "-m", "weft", "status", "peers", "--run-dir", str(first.folder / "run"))
        assert "node03(10.244.0.32)                   failed" in said
        assert first.report()["ipam"]["unreachable"] == ["node03"]
        # Its pods are as well as ever, and what it owns stays its own.
        assert reaches(a, address_of(far))
        assert len(made.ways(first)) == 4
        third.start()
        assert eventually(lambda: all_are_seen(made), 20)
        # Cut off, it goes on with what it knows; its peers may be well.
        ip("link", "set", second.name, "down", namespace=made.wire)
        assert eventually(lambda: shown(first, "peers")["node02"] == "failed", 20)
        assert shown(second, "peers")["node01"] == "established"
        ip("link", "set", second.name, "up", namespace=made.wire)
        assert eventually(lambda: all_are_seen(made), 20)
        assert reaches(b, address_of(near))
        assert not any(log.withdrawn() for log in made.routes.values())
