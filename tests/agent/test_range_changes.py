"""Ranges that change while a cluster runs, on real agents: added, excluded, removed; pods keep their addresses."""

import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import permutations
from typing import Any

import pytest

from tests.agent.test_agent import eventually, reaches
from tests.agent.test_dual_stack import seen_sender
from tests.agent.test_several_ranges import addresses, bridge, ranges
from tests.namespaces import ip, path
from tests.nodes import Node, cluster, pod

OLD, NEW, SIX = "10.244.0.0/24", "10.245.0.0/24", "fd00:10:244::/64"


@pytest.fixture
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Node]]:
    with cluster(tmp_path_factory.mktemp("changes"), ("controlplane", "node01"), "--range", OLD) as made:
        for node in made:
            node.start()
        assert all(eventually(lambda node=node: node.report()["peers"]) for node in made)
        yield made


def weft_range(node: Node, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "weft", "range", *words, "--run-dir", str(node.folder / "run")]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def changed(node: Node, *words: str) -> str:
    """What a change that must succeed says, once the node's agent answers: it may just take up the last one."""
    assert eventually(lambda: node.status() == 200)
    done = weft_range(node, *words)
    if "no agent answers" in done.stderr:
        return changed(node, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def shown(node: Node) -> Any:
    """Of every range what the node's agent tells; nothing while it takes up a change."""
    try:
        return ranges(node) if node.status() == 200 else []
    except OSError:
        return []


def known(node: Node) -> list[str]:
    return [item["range"] for item in shown(node)]


def excluded(node: Node) -> list[list[str]]:
    return [item["excluded"] for item in shown(node)]


def see_each_other(places: dict[str, Any]) -> bool:
    """Every pair of pods, in every family that both have, with the sender's own address."""
    for target, source in permutations(places, 2):
        for own, address in zip(addresses(places[source]), addresses(places[target]), strict=False):
            assert seen_sender(target, source, address) == own
    return True


def test_a_cluster_moves_from_range_to_range_and_gets_ipv6_while_it_runs(nodes: list[Node]) -> None:
    first, second = nodes
    with pod() as a, pod() as b, pod() as c, pod() as d:
        old = {a: first.add("a", str(path(a))), b: second.add("b", str(path(b)))}
        assert changed(first, "add", f"{NEW}=28").endswith(f"its blocks are /28; the ranges are {OLD},{NEW}")
        assert changed(second, "add", SIX).endswith(f"the ranges are {OLD},{NEW},{SIX}")
        assert all(eventually(lambda node=node: known(node) == [OLD, NEW, SIX]) for node in nodes)
        assert weft_range(first, "remove", OLD).stderr.startswith(
            f"weft range: range {OLD} is in use: blocks of it are owned by controlplane (2), node01 (2); run "
            f"'weft range exclude {OLD}'"
        )
        assert changed(second, "exclude", OLD) == f"excluded now: {OLD}"
        assert all(eventually(lambda node=node: excluded(node)[:1] == [[OLD]]) for node in nodes)
        new = {c: first.add("c", str(path(c))), d: second.add("d", str(path(d)))}
        assert all(result["ips"][0]["address"].startswith("10.245.0.") for result in new.values())
        assert all(result["ips"][1]["address"].startswith("fd00:10:244:") for result in new.values())
        # Pods of before keep their addresses, and the rules hold between them and the new ones.
        assert eventually(lambda: see_each_other({**old, **new}))
        assert "excluded: all of it" in subprocess.run(
            [sys.executable, "-m", "weft", "status", "ipam", "--run-dir", str(first.folder / "run")],
            capture_output=True, text=True, check=True, timeout=60,
        ).stdout  # fmt: skip
        for node, name in ((first, "a"), (second, "b")):
            node.delete(name)
        # The last pod of the old range goes, and with it the bridge's address and the node's blocks.
        assert all(
            eventually(lambda node=node: not any("10.244." in own for own in bridge(node))) for node in nodes
        )
        assert eventually(lambda: weft_range(first, "remove", OLD).returncode == 0)
        assert all(eventually(lambda node=node: known(node) == [NEW, SIX]) for node in nodes)
        assert eventually(lambda: see_each_other(new))
        # An agent that starts with the old setting goes on with what the cluster has.
        second.kill(15)
        second.start()
        assert known(second) == [NEW, SIX]
        assert eventually(lambda: see_each_other(new))
        assert reaches(first.namespace, addresses(new[d])[0])
        for node, name in ((first, "c"), (second, "d")):
            node.delete(name)


def test_a_rolling_restart_with_a_longer_list_adds_a_range(nodes: list[Node]) -> None:
    first, second = nodes
    process = second.agent
    first.options = ("--range", f"{OLD},{NEW}", "--exclude", "10.245.0.7")
    first.kill(15)
    first.start()
    assert known(first) == [OLD, NEW]
    # The other one still has its old setting, and takes up what the cluster has without being started again.
    assert eventually(lambda: known(second) == [OLD, NEW])
    assert eventually(lambda: excluded(second) == [[], ["10.245.0.7/32"]])
    assert process is second.agent
    # What an operator has undone is not done again by settings that were told before.
    assert changed(second, "include", "10.245.0.7") == "excluded now: nothing"
    first.kill(15)
    first.start()
    assert ranges(first)[1]["excluded"] == []
    plain = [{"range": name, "blockSize": 29, "excluded": []} for name in (OLD, NEW)]
    assert eventually(lambda: json.loads(changed(second, "list", "-o", "json")) == plain)


def test_a_node_that_reaches_a_new_range_otherwise_goes_on_with_the_old_ones(nodes: list[Node]) -> None:
    first, second = nodes
    ip("route", "add", "10.99.0.0/16", "via", "172.25.1.1", namespace=first.namespace)
    refused = weft_range(first, "add", "10.99.0.0/20")
    assert refused.returncode == 1
    assert "range 10.99.0.0/20 overlaps the route 10.99.0.0/16 of device eth0" in refused.stderr
    assert known(second) == [OLD]
    changed(second, "add", "10.99.0.0/20")
    assert eventually(lambda: known(second) == [OLD, "10.99.0.0/20"])
    assert eventually(lambda: "overlaps the route 10.99.0.0/16" in first.log.read_text())
    assert known(first) == [OLD]
    with pod() as a:
        assert addresses(first.add("a", str(path(a))))[0].startswith("10.244.0.")
        first.delete("a")


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("add", "10.244.0.0/16"), 1, f"ranges {OLD} and 10.244.0.0/16 overlap"),
        (("add", OLD), 1, f"range {OLD} is there already"),
        (("add", "10.245.0.1/24"), 1, "did you mean 10.245.0.0/24"),
        (("add", "10.245.0.0/24=30"), 1, "give a prefix length of 25 to 29 for 10.245.0.0/24"),
        (("remove", "10.9.0.0/16"), 1, f"no range 10.9.0.0/16; there are: {OLD}"),
        (("exclude", OLD), 1, f"all of {OLD} is excluded, and no pod could get an IPv4 address"),
        (("exclude", "10.9.0.1"), 1, f"excluded '10.9.0.1' is not inside of {OLD}"),
        (("include", "10.244.0.9"), 1, "10.244.0.9/32 is not excluded as a whole; excluded: nothing"),
        (("list", "--store", "zookeeper://x"), 2, "zookeeper"),
    ],
)
def test_what_cannot_be_done_is_named(tmp_path: Any, words: tuple[str, ...], status: int, said: str) -> None:
    store = f"sqlite://{tmp_path}/store.db"
    from weft.agent.cluster import Cluster
    from weft.ipam.ranges import parse_ranges
    from weft.store import open_store

    opened = open_store(store)
    Cluster(opened).agree_on_ranges(parse_ranges(OLD))
    before = opened.entries("").entries
    place = () if "--store" in words else ("--store", store)
    command = [sys.executable, "-m", "weft", "range", *words, *place]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode in (status, 2)
    assert opened.entries("").entries == before
    opened.close()
