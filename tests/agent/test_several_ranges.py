"""Pods of several ranges on real agents: one after the other is drawn on, and all of them are one pod network."""

import json
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_interface
from itertools import permutations
from typing import Any

import pytest

from tests.agent.test_agent import eventually, reaches
from tests.agent.test_dual_stack import seen_sender
from tests.namespaces import ip, path, run
from tests.nodes import CONFIGURATION, Node, cluster, pod
from weft.store import open_store

#: The first ranges have two blocks, which the first node owns, and two addresses, of which its bridge has one.
RANGES = "10.244.0.0/28,10.245.0.0/24,fd00:10:244::/124,fd00:10:245::/64"
EXCLUDED = "10.244.0.2-10.244.0.13,fd00:10:244::2-fd00:10:244::d"
OPTIONS = ("--range", RANGES, "--block-size", "29,125", "--exclude", EXCLUDED)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Node]]:
    """Two nodes: one with room for one pod in the first ranges, and one that came too late for any of them."""
    folder = tmp_path_factory.mktemp("several")
    with cluster(folder, ("controlplane", "node01"), *OPTIONS) as made:
        first, second = made
        first.start()
        assert eventually(lambda: [item["spareBlocks"] for item in ranges(first)] == [1, 0, 1, 0])
        second.start()
        assert all(eventually(lambda node=node: node.report()["peers"]) for node in made)
        yield made


@pytest.fixture
def nodes(started: list[Node]) -> list[Node]:
    """With what the test before has deleted gone: an address is free when its interface is."""
    for node in started:
        assert eventually(lambda node=node: node.report()["ipam"]["attachments"] == 0)
    assert eventually(lambda: ranges(started[0])[0]["free"] == 1)
    return started


def ranges(node: Node) -> Any:
    return node.report()["ipam"]["ranges"]


def addresses(result: Any) -> list[str]:
    return [str(ip_interface(item["address"]).ip) for item in result["ips"]]


def bridge(node: Node) -> set[str]:
    (link,) = json.loads(ip("-j", "address", "show", "weave", namespace=node.namespace))
    shown = (f"{item['local']}/{item['prefixlen']}" for item in link["addr_info"] if item["scope"] == "global")
    return set(shown)


def test_a_node_draws_on_the_next_range_when_one_is_exhausted_and_comes_back(nodes: list[Node]) -> None:
    first, second = nodes
    assert bridge(first) == {"10.244.0.1/28", "fd00:10:244::1/124"}
    assert bridge(second) == {"10.245.0.1/24", "fd00:10:245::1/64"}
    with pod() as a, pod() as b, pod() as c:
        one, two, three = first.add("a", str(path(a))), first.add("b", str(path(b))), first.add("c", str(path(c)))
        assert [item["address"] for item in one["ips"]] == ["10.244.0.14/28", "fd00:10:244::e/128"]
        assert one["ips"][0]["gateway"] == "10.244.0.1"
        four, six = two["ips"]
        assert (four["address"], four["gateway"]) == ("10.245.0.193/24", "10.245.0.192")
        assert (six["address"], six["gateway"]) == ("fd00:10:245:0:c000::1/128", "fd00:10:245:0:c000::")
        assert two["routes"] == [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
        assert addresses(three)[0] == "10.245.0.194"
        assert bridge(first) == {
            "10.244.0.1/28", "10.245.0.192/24", "fd00:10:244::1/124", "fd00:10:245:0:c000::/64"
        }  # fmt: skip
        checked = {**CONFIGURATION, "prevResult": two}
        assert first.call("CHECK", "b", str(path(b)), checked) == (0, None)
        first.delete("a")
        assert eventually(lambda: ranges(first)[0]["free"] == 1)
        with pod() as late:
            assert addresses(first.add("late", str(path(late)))) == ["10.244.0.14", "fd00:10:244::e"]
            first.delete("late")
        first.delete("b")
        first.delete("c")
        assert eventually(lambda: sum(item["inUse"] for item in ranges(first)) == 4)


def test_the_three_rules_hold_between_pods_of_all_ranges(nodes: list[Node]) -> None:
    """On a node and between nodes, both ways, by both families, each seen with the sender's own address."""
    first, second = nodes
    with pod() as a, pod() as b, pod() as c:
        places = {
            a: first.add("a", str(path(a))),
            b: first.add("b", str(path(b))),
            c: second.add("c", str(path(c))),
        }
        known = {place: addresses(result) for place, result in places.items()}
        assert [known[place][0].rpartition(".")[0] for place in places] == ["10.244.0", "10.245.0", "10.245.0"]
        for target, source in permutations(places, 2):
            for own, address in zip(known[source], known[target], strict=True):
                assert seen_sender(target, source, address) == own
        # Nodes reach pods of all ranges, and pods the bridge's address in another one.
        for node in nodes:
            assert all(reaches(node.namespace, address) for place in places for address in known[place])
        assert all(reaches(c, address.partition("/")[0]) for address in bridge(first))
        # No redirect tells a pod of another way than through its gateway.
        assert "redirected" not in ip("route", "get", known[b][0], namespace=a)
        first.delete("a")
        first.delete("b")
        second.delete("c")


def test_what_no_node_has_an_address_of_does_not_leave_by_the_underlay(nodes: list[Node]) -> None:
    first, _ = nodes
    for address in ("10.244.0.6", "10.245.0.100", "fd00:10:245::ffff"):
        shown = json.loads(ip("-j", "route", "get", address, namespace=first.namespace))
        assert [item["dev"] for item in shown] == ["weave"]
    rules = run("nft", "list", "table", "ip", "weft", namespace=first.namespace)
    assert "ip saddr { 10.244.0.0/28, 10.245.0.0/24 } ip daddr != { 10.244.0.0/28, 10.245.0.0/24 }" in rules


def test_routes_of_the_configuration_leave_the_way_to_the_other_ranges(nodes: list[Node]) -> None:
    first, second = nodes
    with pod() as a, pod() as b:
        configuration = {**CONFIGURATION, "ipam": {"routes": [{"dst": "10.96.0.0/12"}]}}
        result = first.add("a", str(path(a)), configuration=configuration)
        assert result["routes"] == [
            {"dst": "10.96.0.0/12"},
            {"dst": "::/0"},
            {"dst": "10.245.0.0/24", "gw": "10.244.0.1"},
        ]
        assert "default" not in ip("route", namespace=a)
        environment = {"CNI_ARGS": "IP=10.245.0.14"}
        assert second.add("b", str(path(b)), environment=environment)["ips"][0]["address"] == "10.245.0.14/24"
        assert seen_sender(b, a, "10.245.0.14") == addresses(result)[0]
        first.delete("a")
        second.delete("b")


def test_an_agent_that_is_killed_keeps_the_gateways_and_one_that_lost_its_journal_finds_them(
    nodes: list[Node],
) -> None:
    first, _ = nodes
    with pod() as a, pod() as b:
        first.add("a" * 64, str(path(a)))
        kept = addresses(first.add("b" * 64, str(path(b))))
        before = bridge(first)
        for lost in (False, True):
            first.kill()
            for file in (first.folder / "state").glob("journal.db*") if lost else ():
                file.unlink()
            first.start()
            assert bridge(first) == before
            assert all(reaches(a, address) for address in kept)
        first.delete("a" * 64)
        first.delete("b" * 64)
        assert eventually(lambda: sum(item["inUse"] for item in ranges(first)) == 4)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--range", "10.244.0.0/28,10.244.0.0/24"), "10.244.0.0/28 and 10.244.0.0/24 overlap"),
        (
            ("--range", "10.244.0.0/27"),
            "range 10.244.0.0/27 does not match the cluster's range 10.244.0.0/28,10.245",
        ),
        (("--range", "10.244.0.0/28,172.25.0.0/16"), "range 172.25.0.0/16 overlaps the route 172.25.1.0/24"),
        (("--range", "10.244.0.0/28", "--block-size", "28"), "'28': give a prefix length of 29 for 10.244.0.0/28"),
        (("--range", RANGES, "--block-size", "10.245.0.0/24=27"), "block size 27 does not match the cluster's 29"),
        (("--range", RANGES, "--exclude", "10.244.0.0/28,10.245.0.0/24"), "is excluded, and no pod could get"),
    ],
)
def test_settings_that_contradict_the_cluster_change_nothing(
    nodes: list[Node], words: tuple[str, ...], said: str
) -> None:
    _, second = nodes
    options, second.options = second.options, words
    assert second.kill(15) == 0
    with closing(open_store(f"sqlite://{second.store}")) as store:
        before = store.get("cluster")
        assert second.spawn().wait(timeout=30) == 2
        assert store.get("cluster") == before
    assert said in second.log.read_text()
    second.options = options
    second.start()
