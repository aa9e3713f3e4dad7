"""Mode ``weave``: the look of Weave Net on plain kernel parts.

Every node has a bridge ``weave`` with an address and the prefix of the whole range, so pods see one flat
subnet and ask for any pod by ARP. The bridge answers for pods of other nodes with its own MAC (proxy ARP:
the route to them leaves through another device), and the node routes the packet into ``vxlan-6784``.
Behind the tunnel a peer is one MAC at one underlay address. Nothing is flooded between nodes.
"""

from collections.abc import Iterable

from weft.fabric.plan import (
    Device,
    Devices,
    Forwarding,
    ForwardingEntry,
    Neighbour,
    Node,
    Peer,
    Route,
    Vxlan,
    derived_link_address,
)

BRIDGE = "weave"
TUNNEL = "vxlan-6784"
#: UDP port, as Weave's fast datapath used it, and our VNI.
PORT = 6784
VNI = 6784
#: Bytes that VXLAN adds: outer IPv4 20, UDP 8, VXLAN 8, inner Ethernet 14 (RFC 7348).
OVERHEAD = 50
#: What IPv4 asks of any link, with room for a header (RFC 791).
SMALLEST_MTU = 576


def mtu(underlay: int, wanted: int | None = None) -> int:
    """The pods' MTU in bytes: what the underlay leaves, or the operator's wish (WEAVE_MTU).

    Raises ValueError where the wish does not fit; larger packets would vanish without a word.
    """
    largest = underlay - OVERHEAD
    if largest < SMALLEST_MTU:
        raise ValueError(f"the underlay's MTU {underlay} leaves {largest} bytes for pods; needs {SMALLEST_MTU}")
    if wanted is None:
        return largest
    if not SMALLEST_MTU <= wanted <= largest:
        raise ValueError(
            f"MTU {wanted} does not fit: the underlay's MTU {underlay} less {OVERHEAD} for VXLAN allows "
            f"{SMALLEST_MTU} to {largest}"
        )
    return wanted


def devices(node: Node) -> Devices:
    """The bridge and the tunnel of a node."""
    return Devices(
        bridge=Device(BRIDGE, derived_link_address("bridge", node.name), node.mtu),
        bridge_address=node.bridge,
        tunnel=Vxlan(
            TUNNEL, derived_link_address("vtep", node.name), node.mtu, vni=VNI, port=PORT, local=node.address
        ),
    )


def forwarding(node: Node, peers: Iterable[Peer]) -> Forwarding:
    """One route per peer's block, one neighbour and one forwarding entry per peer."""
    routes, neighbours, entries = set(), set(), set()
    for peer in peers:
        if peer.name == node.name or not peer.blocks:
            continue
        routes |= {Route(block, peer.gateway, node.bridge.ip) for block in peer.blocks}
        neighbours.add(Neighbour(peer.gateway, peer.link_address))
        entries.add(ForwardingEntry(peer.link_address, peer.address))
    return Forwarding(frozenset(routes), frozenset(neighbours), frozenset(entries))


def sysctls() -> dict[tuple[str, ...], int]:
    """What the kernel must be told for this mode: path below /proc/sys and value.

    Proxy ARP answers at once (``proxy_delay``, in 1/100 s, is a random delay by default 0.8 s;
    https://www.kernel.org/doc/html/latest/networking/ip-sysctl.html).
    """
    return {
        ("net", "ipv4", "ip_forward"): 1,
        ("net", "ipv4", "conf", BRIDGE, "proxy_arp"): 1,
        ("net", "ipv4", "neigh", BRIDGE, "proxy_delay"): 0,
        # A pod's packet for another node comes in and leaves through different devices: never a redirect.
        ("net", "ipv4", "conf", BRIDGE, "send_redirects"): 0,
        ("net", "ipv4", "conf", TUNNEL, "send_redirects"): 0,
    }


def masquerade(universe: str) -> str:
    """The nftables ruleset that gives a pod's packets the node's address where they leave the range.

    Between pods nothing is translated: the receiver sees the sender's own address. ``fully-random`` source
    ports keep concurrent look-ups from colliding in conntrack (the five seconds' DNS delay).
    """
    return f"""\
table ip weft
delete table ip weft
table ip weft {{
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {universe} ip daddr 224.0.0.0/4 return
        ip saddr {universe} ip daddr != {universe} oifname != "{BRIDGE}" masquerade fully-random
    }}
}}
"""
