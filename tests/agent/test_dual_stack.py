"""Pods with an address of each family, and with those that were asked for, on real agents."""

import json
import subprocess
from collections.abc import Iterator
from ipaddress import ip_interface
from typing import Any

import pytest

from tests.agent.test_agent import eventually, reaches
from tests.namespaces import ip, path, run
from tests.nodes import CONFIGURATION, Node, cluster, pod

RANGES = "10.244.0.0/16,fd00:10:244::/48"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Node]]:
    """Two nodes for all tests here; each test uses containers of its own."""
    with cluster(tmp_path_factory.mktemp("dual"), ("controlplane", "node01"), "--range", RANGES) as made:
        for node in made:
            node.start()
        assert all(eventually(lambda node=node: node.report()["peers"]) for node in made)
        yield made


def addresses(result: Any) -> tuple[str, str]:
    four, six = (str(ip_interface(item["address"]).ip) for item in result["ips"])
    return four, six


def used(node: Node) -> int:
    count: int = node.report()["ipam"]["inUse"]
    return count


def test_pods_on_two_nodes_reach_each_other_by_both_families(nodes: list[Node]) -> None:
    first, second = nodes
    with pod() as a, pod() as b, pod() as c:
        near, far = first.add("a", str(path(a))), second.add("c", str(path(c)))
        beside = first.add("b", str(path(b)))
        assert [item["address"] for item in far["ips"]] == ["10.244.192.1/16", "fd00:10:244:c000::1/128"]
        assert [item["gateway"] for item in far["ips"]] == ["10.244.192.0", "fd00:10:244:c000::"]
        assert far["routes"] == [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
        for source, result in ((a, far), (a, beside), (c, near)):
            assert all(reaches(source, address) for address in addresses(result))
        # The node itself reaches pods everywhere, and pods reach nodes.
        assert reaches(first.namespace, addresses(far)[1])
        assert reaches(c, "fd00:10:244::1")
        checked = {**CONFIGURATION, "prevResult": near}
        assert first.call("CHECK", "a", str(path(a)), checked) == (0, None)
        ip("-6", "address", "del", f"{addresses(near)[1]}/128", "dev", "eth0", namespace=a)
        status, error = first.call("CHECK", "a", str(path(a)), checked)
        assert status == 1
        assert f"lacks the address {addresses(near)[1]}/128" in error["msg"]
        for node, name in ((first, "a"), (first, "b"), (second, "c")):
            node.delete(name)


def seen_sender(server: str, client: str, address: str) -> str:
    """Whom a server in one namespace sees where a client in another one connects to the address."""
    program = (
        "import socket; s = socket.create_server(('', 80), family=socket.AF_INET6, dualstack_ipv6=True);"
        "print('up', flush=True); print(s.accept()[1][0].removeprefix('::ffff:'))"
    )
    serving = subprocess.Popen(
        ["ip", "netns", "exec", server, "python3", "-c", program], stdout=subprocess.PIPE, text=True
    )
    try:
        assert serving.stdout is not None
        assert serving.stdout.readline() == "up\n"
        run("bash", "-c", f"exec 3<>/dev/tcp/{address}/80", namespace=client)
        return serving.communicate(timeout=10)[0].strip()
    finally:
        serving.kill()
        serving.wait()


def test_the_receiver_sees_the_senders_own_ipv6_address(nodes: list[Node]) -> None:
    first, second = nodes
    with pod() as a, pod() as b:
        sender, receiver = first.add("a", str(path(a))), second.add("b", str(path(b)))
        assert seen_sender(b, a, addresses(receiver)[1]) == addresses(sender)[1]
        first.delete("a")
        second.delete("b")


def test_what_leaves_the_range_has_the_nodes_own_ipv6_address(nodes: list[Node]) -> None:
    first, second = nodes
    for number, node in enumerate(nodes, start=2):
        ip("-6", "address", "add", f"fd99::{number}/64", "dev", "eth0", "nodad", namespace=node.namespace)
    with pod() as a:
        first.add("a", str(path(a)))
        assert seen_sender(second.namespace, a, "fd99::3") == "fd99::2"
        first.delete("a")


def test_a_killed_agent_and_a_lost_journal_cost_nobody_an_address(nodes: list[Node]) -> None:
    first, second = nodes
    with pod() as a, pod() as b, pod() as c:
        one, far = first.add("a" * 64, str(path(a))), second.add("c", str(path(c)))
        first.kill()
        assert reaches(a, addresses(far)[1])
        for file in (first.folder / "state").glob("journal.db*"):
            file.unlink()
        first.start()
        assert reaches(c, addresses(one)[1])
        two = first.add("b", str(path(b)))
        assert not set(addresses(two)) & set(addresses(one))
        first.delete("a" * 64)
        first.delete("b")
        second.delete("c")
        assert eventually(lambda: used(first) == 1)


def test_addresses_by_request(nodes: list[Node]) -> None:
    first, _ = nodes
    with pod() as a, pod() as b, pod() as c:
        result = first.add("a", str(path(a)), environment={"CNI_ARGS": "IgnoreUnknown=1;IP=10.244.0.40"})
        assert result["ips"][0]["address"] == "10.244.0.40/16"
        configuration = {**CONFIGURATION, "args": {"cni": {"ips": ["fd00:10:244::77", "10.244.0.41"]}}}
        result = first.add("b", str(path(b)), configuration=configuration)
        assert addresses(result) == ("10.244.0.41", "fd00:10:244::77")
        # What the runtime sends by capability counts before all.
        configuration |= {"runtimeConfig": {"ips": ["10.244.0.42/16"]}}
        result = first.add("c", str(path(c)), configuration=configuration)
        assert result["ips"][0]["address"] == "10.244.0.42/16"
        assert result["ips"][1]["address"] != "fd00:10:244::77/128"
        for name in "abc":
            first.delete(name)
        assert eventually(lambda: used(first) == 1)


@pytest.mark.parametrize(
    ("wanted", "code", "said"),
    [
        ("10.244.192.9", 11, "address 10.244.192.9 is in block 10.244.192.0/26 of node01, not of this node"),
        ("10.244.0.1", 7, "IP of CNI_ARGS: address 10.244.0.1 is this node's bridge's"),
        ("fd00::1", 7, "not in the range fd00:10:244::/48"),
        ("ten", 7, "'ten': give an address"),
        ("10.244.0.50,10.244.0.51", 7, "a pod has one of each family"),
    ],
)
def test_an_address_that_cannot_be_had(nodes: list[Node], wanted: str, code: int, said: str) -> None:
    first, _ = nodes
    with pod() as a:
        before = used(first)
        status, error = first.call("ADD", "a", str(path(a)), environment={"CNI_ARGS": f"IP={wanted}"})
        assert (status, error["code"]) == (1, code), error
        assert said in error["msg"]
        assert [link["ifname"] for link in json.loads(ip("-j", "link", namespace=a))] == ["lo"]
        assert used(first) == before


def test_routes_of_the_configuration_leave_the_other_familys_default(nodes: list[Node]) -> None:
    first, _ = nodes
    with pod() as a:
        configuration = {**CONFIGURATION, "ipam": {"routes": [{"dst": "10.96.0.0/12"}]}}
        result = first.add("a", str(path(a)), configuration=configuration)
        assert result["routes"] == [{"dst": "10.96.0.0/12"}, {"dst": "::/0"}]
        assert "default" not in ip("route", namespace=a)
        assert "default via fd00:10:244::1 dev eth0" in ip("-6", "route", namespace=a)
        first.delete("a")
