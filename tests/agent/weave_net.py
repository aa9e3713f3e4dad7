"""A node as Weave Net leaves it, built by hand.

This kernel has no Open vSwitch: in the place of its datapath there is a bridge ``datapath`` whose port
``vxlan-6784`` floods to the other nodes, so that pods of all nodes are on one segment, as with Weave.
"""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from tests.namespaces import ip, run
from tests.nodes import Node
from weft.kernel.ipsets import IpsetSocket
from weft.kernel.netlink import CREATE, EXCLUSIVE, REQUEST, Message

RANGE = "10.32.0.0/12"
MTU = 1376
MAC = "42:8e:e8:c4:52:1b"

_FILTER = """\
*filter
:WEAVE-CANARY - [0:0]
:WEAVE-NPC - [0:0]
:WEAVE-NPC-DEFAULT - [0:0]
:WEAVE-NPC-EGRESS - [0:0]
:WEAVE-NPC-INGRESS - [0:0]
-A INPUT -d 127.0.0.1/32 -p tcp -m tcp --dport 6784 -m addrtype ! --src-type LOCAL -m conntrack ! --ctstate RELATED,ESTABLISHED -m comment --comment "Block non-local access to Weave Net control port" -j DROP
-A INPUT -i weave -j WEAVE-NPC-EGRESS
-A FORWARD -i weave -m comment --comment "NOTE: this must go before '-j KUBE-FORWARD'" -j WEAVE-NPC-EGRESS
-A FORWARD -o weave -m comment --comment "NOTE: this must go before '-j KUBE-FORWARD'" -j WEAVE-NPC
-A FORWARD -o weave -j DROP
-A FORWARD -i weave ! -o weave -j ACCEPT
-A FORWARD -o weave -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -s 192.0.2.1/32 -j ACCEPT
-A WEAVE-NPC -m state --state RELATED,ESTABLISHED -j ACCEPT
-A WEAVE-NPC -m state --state NEW -j WEAVE-NPC-DEFAULT
-A WEAVE-NPC -m state --state NEW -j WEAVE-NPC-INGRESS
-A WEAVE-NPC-DEFAULT -m comment --comment "all pods" -j ACCEPT
-A WEAVE-NPC-EGRESS -m state --state RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
:WEAVE - [0:0]
:WEAVE-CANARY - [0:0]
-A POSTROUTING -j WEAVE
-A WEAVE -s 10.32.0.0/12 -d 224.0.0.0/4 -j RETURN
-A WEAVE ! -s 10.32.0.0/12 -d 10.32.0.0/12 -j MASQUERADE
-A WEAVE -s 10.32.0.0/12 ! -d 10.32.0.0/12 -j MASQUERADE
COMMIT
*mangle
:WEAVE-CANARY - [0:0]
COMMIT
"""  # noqa: E501  # as Weave writes them


@dataclass(frozen=True)
class WeavePod:
    """A pod that Weave's plugin attached; its container's ID as the runtime knows it."""

    namespace: str
    container: str
    address: str

    @property
    def host_interface(self) -> str:
        return "vethwepl" + self.container[:7]


def build(node: Node, gateway: str, peers: Sequence[str], *, prefix: int = 12) -> None:
    """Bridge, datapath, chains and a set; ``peers`` are the other nodes' addresses on the underlay."""
    for command in (
        f"link add weave address {MAC} type bridge",
        f"link add vethwe-bridge mtu {MTU} type veth peer name vethwe-datapath mtu {MTU}",
        "link add datapath type bridge",
        "link add vxlan-6784 type vxlan id 1 dstport 6784 dev eth0",
        f"link set vxlan-6784 mtu {MTU} master datapath up",
        "link set vethwe-datapath master datapath up",
        "link set vethwe-bridge master weave up",
        "link set datapath up",
        f"link set weave mtu {MTU} up",
        f"address add {gateway}/{prefix} dev weave",
    ):
        ip(*command.split(), namespace=node.namespace)
    for peer in peers:
        run(*f"bridge fdb append 00:00:00:00:00:00 dev vxlan-6784 dst {peer}".split(), namespace=node.namespace)
    restore(node, _FILTER)


def restore(node: Node, lines: str) -> None:
    """Lines of iptables-restore in the node's namespace."""
    subprocess.run(
        ["ip", "netns", "exec", node.namespace, "iptables-restore", "--noflush"],
        input=lines, text=True, check=True, timeout=30,
    )  # fmt: skip


def attach(node: Node, namespace: str, number: int, address: str, gateway: str, *, prefix: int = 12) -> WeavePod:
    """What Weave's plugin makes of a sandbox."""
    made = WeavePod(namespace, f"{number:02x}" * 32, address)
    for command in (
        f"link add {made.host_interface} mtu {MTU} type veth peer name eth0 mtu {MTU} netns {namespace}",
        f"link set {made.host_interface} master weave up",
    ):
        ip(*command.split(), namespace=node.namespace)
    for command in (
        "link set eth0 up",
        f"address add {address}/{prefix} dev eth0",
        f"route add default via {gateway}",
    ):
        ip(*command.split(), namespace=namespace)
    return made


def create_set(name: str) -> None:
    """An empty set hash:ip in the calling thread's network namespace."""
    from weft.kernel import attributes as attr

    payload = (
        b"\2\0\0\0"
        + attr.u8(1, 6)
        + attr.text(2, name)
        + attr.text(3, "hash:ip")
        + attr.u8(4, 0)
        + attr.u8(5, 2)
        + attr.nested(7)
    )
    with IpsetSocket() as sets:
        sets.execute([Message(6 << 8 | 2, REQUEST | CREATE | EXCLUSIVE, payload, f"create {name}")])
