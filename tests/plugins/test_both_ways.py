"""Through the agent and without one: the same kernel state, the same answers, the same errors."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.executed import ExecutingHost, both_ways
from tests.plugins.twins import Twins


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    """The two hosts, for all tests of this file: each leaves them as it found them."""
    with both_ways(tmp_path_factory.mktemp("ways")) as made:
        yield made


@pytest.fixture(autouse=True)
def without_bridge(ways: Twins) -> Iterator[None]:
    """Bridges stay after DEL; the next test wants its own addresses on it."""
    yield
    for host in ways:
        host.shell("ip link delete cni0")


def _agents_table(seen: dict[str, Any]) -> None:
    """The agents renew their own table at times of their own, and it moves to the end of the list."""
    lines = seen["host"].get("nftables", [])
    if "table ip weft {" in lines:
        begin = lines.index("table ip weft {")
        del lines[begin : lines.index("}", begin) + 1]


AGENTS = (_agents_table,)


def local(*subnets: str, **more: Any) -> dict[str, Any]:
    """An ``ipam`` with a range per subnet."""
    return {
        "type": "host-local",
        "dataDir": "HERE/ipam",
        "ranges": [[{"subnet": each}] for each in subnets],
        **more,
    }


ADDRESSES = local("10.22.0.0/16")
BOTH = local("10.22.0.0/16", "fd00:22::/64", routes=[{"dst": "192.0.2.0/24"}])
BRIDGE = {"type": "bridge", "bridge": "cni0", "isDefaultGateway": True, "ipam": ADDRESSES}
PORTS = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}

CHAINS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "bridge": ([BRIDGE], {}),
    "bridge, both families, masqueraded": ([{**BRIDGE, "ipMasq": True, "hairpinMode": True, "ipam": BOTH}], {}),
    "layer 2": ([{"type": "bridge", "bridge": "cni0", "macspoofchk": True}], {}),
    "ptp": ([{"type": "ptp", "ipMasq": True, "ipam": BOTH}], {}),
    "loopback": ([{"type": "loopback"}], {}),
    "static": ([{**BRIDGE, "ipam": {"type": "static", "addresses": [{"address": "10.9.0.5/24"}]}}], {}),
    "macvlan": ([{"type": "macvlan", "master": "eth0", "ipam": ADDRESSES}], {}),
    "bandwidth": (
        [BRIDGE, {"type": "bandwidth", "ingressRate": 8000000, "ingressBurst": 800000}],
        {},
    ),
    "bridge, portmap, firewall, tuning": (
        [
            BRIDGE,
            {"type": "portmap", "capabilities": {"portMappings": True}},
            {"type": "firewall"},
            {
                "type": "tuning",
                "mtu": 1300,
                "dataDir": "HERE/tuning",
                "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"},
            },
        ],
        PORTS,
    ),
    "bridge, sbr": ([BRIDGE, {"type": "sbr"}], {}),
}


@pytest.mark.parametrize("name", CHAINS)
def test_the_same_network(ways: Twins, name: str) -> None:
    chain, runtime = CHAINS[name]
    ways.compare(*chain, runtime=runtime, version="1.1.0", differences=AGENTS)


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "vlan": ({**BRIDGE, "vlan": 4095}, {}),
    "type of a key": ({**BRIDGE, "mtu": "big"}, {}),
    "no ipam plugin": ({**BRIDGE, "ipam": {"type": "nonesuch"}}, {}),
    "dns": ({**BRIDGE, "dns": []}, {}),
    "version": ({**BRIDGE, "cniVersion": "0.9.0"}, {}),
    "network name": ({**BRIDGE, "name": "../x"}, {}),
    "container ID": (BRIDGE, {"container": "../x"}),
    "interface name": (BRIDGE, {"ifname": "a/b"}),
    "arguments": (BRIDGE, {"args": "A=1"}),
    "plugin that needs a later version": ({"type": "bandwidth", "cniVersion": "0.2.0"}, {}),
    "chained plugin without prevResult": ({"type": "bandwidth"}, {}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_the_same_refusal(ways: Twins, name: str) -> None:
    configuration, call = REFUSED[name]
    ours = ways.refuse(configuration, **call)
    theirs = ways.go.call("ADD", {"cniVersion": "1.0.0", "name": "net", **configuration}, **call)
    assert theirs.body.keys() == ours.body.keys()
    assert theirs.body["cniVersion"] == ours.body["cniVersion"]


@pytest.mark.parametrize("change", ["gone", "its own", "no namespace"])
def test_a_namespace_that_cannot_be(ways: Twins, change: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    answers = []
    for host in ways:
        named = {"gone": "weft-test-none", "its own": host.name, "no namespace": str(tmp_path / "file")}[change]
        host.pods["other"] = named
        try:
            answers.append(host.call("ADD", {"cniVersion": "1.0.0", "name": "net", **BRIDGE}, pod="other"))
        finally:
            del host.pods["other"]
    assert [answer.status for answer in answers] == [1, 1]
    assert [answer.code for answer in answers] == [8, 8] if change == "its own" else [4, 4]


def test_the_same_collection_of_garbage(ways: Twins) -> None:
    configuration = {"cniVersion": "1.1.0", "name": "net", **BRIDGE, "ipMasq": True}
    for host in ways:
        assert host.call("STATUS", configuration, pod=None).status == 0
        for number in range(2):
            answer = host.call("ADD", configuration, container=f"c{number}", ifname=f"eth{number}")
            assert answer.status == 0, answer.body
        kept = {"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth1"}]}
        assert host.call("GC", configuration | kept, pod=None).status == 0
    ways.equal("GC", AGENTS, None, None)
    for host in ways:
        for number in range(2):
            answer = host.call("DEL", configuration, container=f"c{number}", ifname=f"eth{number}")
            assert answer.status == 0, answer.body
    ways.equal("DEL", AGENTS, None, None)


def test_what_one_way_attached_the_other_detaches(ways: Twins) -> None:
    """A host may change over while containers run."""
    for first, second in ((ways.go, ways.weft), (ways.weft, ways.go)):
        assert isinstance(first, ExecutingHost) and isinstance(second, ExecutingHost)
        changed_over = replace(first, bin=second.bin)
        configuration = {"cniVersion": "1.0.0", "name": "net", **BRIDGE, "ipMasq": True}
        result = first.call("ADD", configuration)
        assert result.status == 0, result.body
        for command in ("CHECK", "DEL"):
            told = changed_over.call(command, configuration | {"prevResult": result.body})
            assert told.status == 0, told.body
    ways.equal("DEL", AGENTS, None, None)
