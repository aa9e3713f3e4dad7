"""A plugin that is killed before any step of its ADD: the DEL that the runtime then sends leaves nothing."""

import json
import os
import sys
from types import FrameType
from typing import Any, NoReturn

import pytest

from tests.namespaces import path
from tests.plugins.twins import CONTAINER, Host, Twins, delete_chain, needs_reference, shell
from weft.kernel.namespace import NetworkNamespace
from weft.plugins import calls, registry

pytestmark = needs_reference

IPAM: dict[str, Any] = {"type": "host-local", "dataDir": "HERE/ipam", "ranges": [[{"subnet": "10.22.0.0/16"}]]}
BRIDGE: dict[str, Any] = {"type": "bridge", "isDefaultGateway": True, "ipam": IPAM}
CHAINS: dict[str, list[dict[str, Any]]] = {
    "bandwidth": [
        BRIDGE,
        {
            "type": "bandwidth",
            "ingressRate": 8_000_000,
            "ingressBurst": 800_000,
            "egressRate": 8_000_000,
            "egressBurst": 800_000,
            "shapedSubnets": ["10.0.0.0/8"],
        },
    ],
    "tuning": [
        BRIDGE,
        {
            "type": "tuning",
            "dataDir": "HERE/tuning",
            "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"},
            "mtu": 1300,
            "promisc": True,
        },
    ],
    "sbr": [BRIDGE, {"type": "sbr"}],
    "flannel": [
        {
            "type": "flannel",
            "subnetFile": "HERE/subnet.env",
            "dataDir": "HERE/flannel",
            "ipam": {"dataDir": "HERE/ipam"},
        }
    ],
}
SUBNETS = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.0.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
#: What changes something outside of the process, or asks for it.
STEPS = ("send", "rename", "unlink", "write", "fsync", "mkdir")


def killed(host: Host, configuration: dict[str, Any], step: int) -> bool:
    """ADD in a process of its own that ends before that step; False where it has not so many."""
    child = os.fork()
    if child == 0:
        _add(host, configuration, step)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, KILLED), code
    return code == KILLED


KILLED = 137


def _add(host: Host, configuration: dict[str, Any], step: int) -> NoReturn:
    left = step

    def watch(frame: FrameType, event: str, called: Any) -> None:
        nonlocal left
        if event == "c_call" and called.__name__ in STEPS:
            left -= 1
            if left == 0:
                os._exit(KILLED)

    code = 1
    try:
        with NetworkNamespace.open(path(host.name)) as namespace, namespace.entered():
            environment = {
                "CNI_COMMAND": "ADD",
                "CNI_CONTAINERID": CONTAINER,
                "CNI_NETNS": str(path(host.pods["pod"])),
                "CNI_IFNAME": "eth0",
                "CNI_PATH": str(host.executables),
            }
            data = json.dumps(configuration).replace("HERE", str(host.folder)).encode()
            sandbox = NetworkNamespace.open(environment["CNI_NETNS"])
            sys.setprofile(watch)
            code, _ = calls.answer(configuration["type"], environment, data, sandbox, registry.find)
            sys.setprofile(None)
    finally:
        os._exit(code)


def looked(host: Host) -> list[str]:
    """What a container may leave on its host and in its namespace."""
    left = shell(host.name, "ip -br link | cut -d' ' -f1; tc qdisc; iptables-save -t nat | grep CNI")
    left += shell(host.pods["pod"], "ip -br link | cut -d' ' -f1; ip rule; ip route show table all; tc qdisc")
    files = [file.name for file in host.folder.rglob("*") if file.is_file() and "bin" not in file.parts]
    return left.splitlines() + sorted(name for name in files if name[0].isdigit() or name.endswith(".json"))


@pytest.mark.parametrize("name", CHAINS)
def test_the_next_delete_leaves_nothing(twins: Twins, name: str) -> None:
    host = twins.weft
    (host.folder / "subnet.env").write_text(SUBNETS)
    *first, last = [{"cniVersion": "1.0.0", "name": "net", **plugin} for plugin in CHAINS[name]]
    host.shell("ip link add cni0 type bridge; ip link set cni0 up")
    before = looked(host)
    for kind in ("bridge", "host-local", last["type"]):
        registry.find(kind)  # imported here once, not in every process
    step = 1
    while True:
        for plugin in first:
            answer = host.call("ADD", plugin)
            assert answer.status == 0, answer.body
            last["prevResult"] = answer.body
        more = killed(host, last, step)
        delete_chain(host, [*first, last], None, {})
        assert looked(host) == before, f"killed before step {step}"
        if not more:
            break
        step += 1
    assert step > 4
