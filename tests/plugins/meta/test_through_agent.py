"""Plugins behind weave-net, and flannel, as an agent runs them for a runtime that executes the launcher."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.nodes import CONFIGURATION
from tests.plugins.executed import both_ways
from tests.plugins.meta.test_flannel import SUBNETS
from tests.plugins.twins import Twins, add_chain, delete_chain, shell, with_runtime

MAPPING = {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}
RATES = {"ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 8_000_000, "egressBurst": 800_000}
RUNTIME: dict[str, Any] = {"portMappings": [MAPPING], "bandwidth": RATES, "mac": "02:11:22:33:44:55"}
BEHIND: list[dict[str, Any]] = [
    {"type": "portmap", "capabilities": {"portMappings": True}},
    {"type": "bandwidth", "capabilities": {"bandwidth": True}},
    {"type": "tuning", "dataDir": "HERE/tuning", "sysctl": {"net.core.somaxconn": "500"}, "promisc": True},
]
CHAINS: dict[str, list[dict[str, Any]]] = {
    "weave-net": [{key: value for key, value in CONFIGURATION.items() if key != "cniVersion"}, *BEHIND],
    "flannel": [
        {
            "type": "flannel",
            "subnetFile": "HERE/subnet.env",
            "dataDir": "HERE/flannel",
            "delegate": {"hairpinMode": True, "isDefaultGateway": True},
            "ipam": {"dataDir": "HERE/ipam"},
        },
        *BEHIND,
    ],
}


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    with both_ways(tmp_path_factory.mktemp("through")) as made:
        yield made


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain(ways: Twins, name: str) -> None:
    """``ways.go`` is the host whose plugins are asked through its agent."""
    host = ways.go
    pod = host.pods["pod"]
    (host.folder / "subnet.env").write_text(SUBNETS)
    look = "ip -br link | cut -d@ -f1 | cut -d' ' -f1; tc qdisc; iptables-save -t nat | grep -c CNI-DN"
    before = shell(host.name, look.replace("tc qdisc;", ""))
    chain = [{"cniVersion": "1.0.0", "name": name, **plugin} for plugin in CHAINS[name]]
    answer = add_chain(host, chain, RUNTIME)
    assert answer.status == 0, answer.body
    names = [item["name"] for item in answer.body["interfaces"]]
    assert names[-1].startswith("bwp") and names[0] == {"weave-net": "weave", "flannel": "cni0"}[name]
    assert shell(host.name, f"tc qdisc show dev {names[1]}").count("tbf 1: root") == 1
    assert shell(host.name, f"tc qdisc show dev {names[-1]}").count("tbf 1: root") == 1
    assert "PROMISC" in shell(pod, "ip link show eth0")
    assert shell(pod, "cat /proc/sys/net/core/somaxconn") == "500\n"
    assert "8080" in shell(host.name, "iptables-save -t nat")
    for plugin in chain:
        told = host.call("CHECK", with_runtime(plugin, RUNTIME) | {"prevResult": answer.body})
        assert told.status == 0, f"{plugin['type']}: {told.body}"
    delete_chain(host, chain, answer.body, RUNTIME)
    assert names[-1] not in shell(host.name, "ip link")
    # weave-net answers DEL first, and its agent deletes together.
    deadline = time.monotonic() + 15
    while "eth0" in shell(pod, "ip link"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    kept = {file.name for file in Path(host.folder).rglob("*") if file.is_file() and "bin" not in file.parts}
    assert not [file for file in kept if file.endswith(".json") or file[0].isdigit()], json.dumps(sorted(kept))
    if name == "flannel":
        host.shell("ip link delete cni0")
        assert shell(host.name, look.replace("tc qdisc;", "")) == before
