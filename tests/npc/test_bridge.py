"""Packets between the ports of one bridge obey: two pods, and what comes from other nodes on the same segment.

As in fabric mode ``bridged``: the bridge has no address and routes nothing; the far pod's port is where the VXLAN
device would be.
"""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import pytest

from tests.namespaces import inside, ip, network_namespace
from tests.policy.clusters import policy
from weft.kernel import sysctl
from weft.npc.table import BRIDGE_SYSCTLS, Table
from weft.policy.compiler import Compiler
from weft.policy.parsing import parse_pod, parse_policy

PODS = {"a": ("10.32.0.1", "fd00::1"), "b": ("10.32.0.2", "fd00::2"), "far": ("10.44.0.1", "fd00::44")}


@dataclass
class Segment:
    """The namespace of the node, and those of the pods on its bridge."""

    node: str
    pods: dict[str, str]

    def reached(self, source: str, target: str, version: int) -> bool:
        """Whether a connection is made; the listener's queue answers."""
        address = PODS[target][version == 6]
        family = socket.AF_INET6 if version == 6 else socket.AF_INET
        with inside(self.pods[target], lambda: socket.create_server(("", 7000), family=family, backlog=8)):
            try:
                inside(self.pods[source], lambda: socket.create_connection((address, 7000), 0.5).close())
            except TimeoutError:
                return False
            return True


@pytest.fixture
def segment() -> Iterator[Segment]:
    with ExitStack() as stack:
        node = stack.enter_context(network_namespace())
        ip("link", "add", "segment", "type", "bridge", namespace=node)
        ip("link", "set", "segment", "up", namespace=node)
        pods = {}
        for name, (address, address6) in PODS.items():
            pod = pods[name] = stack.enter_context(network_namespace())
            ip(
                "link",
                "add",
                "dev",
                f"v{name}",
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                pod,
                namespace=node,
            )
            ip("link", "set", "dev", f"v{name}", "master", "segment", "up", namespace=node)
            ip("link", "set", "eth0", "up", namespace=pod)
            ip("address", "add", f"{address}/8", "dev", "eth0", namespace=pod)
            ip("address", "add", f"{address6}/64", "dev", "eth0", "nodad", namespace=pod)
        yield Segment(node, pods)


def put(compiler: Compiler, *peers: dict[str, object]) -> None:
    rules = [{"from": list(peers)}] if peers else []
    compiler.put_policy(parse_policy(policy("x", "p", podSelector={"matchLabels": {"pod": "a"}}, ingress=rules)))


@pytest.mark.parametrize("version", [4, 6])
def test_between_ports_of_a_bridge(segment: Segment, version: int) -> None:
    compiler = Compiler("one")
    for name, addresses in PODS.items():
        compiler.put_pod(
            parse_pod(
                {
                    "metadata": {"name": name, "namespace": "x", "labels": {"pod": name}},
                    "spec": {"nodeName": "two" if name == "far" else "one"},
                    "status": {"podIPs": [{"ip": address} for address in addresses]},
                }
            )
        )
    table = inside(segment.node, Table)
    try:
        table.sync(compiler.model())
        assert segment.reached("b", "a", version) and segment.reached("far", "a", version)
        put(compiler)
        table.sync(compiler.model())
        assert not segment.reached("b", "a", version) and not segment.reached("far", "a", version)
        # Replies to what the isolated pod begins come through.
        assert segment.reached("a", "b", version) and segment.reached("a", "far", version)
        put(compiler, {"podSelector": {"matchLabels": {"pod": "far"}}})
        table.sync(compiler.model())
        assert not segment.reached("b", "a", version) and segment.reached("far", "a", version)
        # It is br_netfilter that brings the packets to the table, and a start sees to that.
        for key in BRIDGE_SYSCTLS:
            inside(segment.node, partial(sysctl.write, key, 0))
        assert segment.reached("b", "a", version)
        inside(segment.node, Table).close()
        assert not segment.reached("b", "a", version)
    finally:
        table.close()
