"""Mode ``weave``: the look of Weave Net on plain kernel parts.

Every node has a bridge ``weave`` with an address and the prefix of the whole range, so pods see one flat
subnet and ask for any pod of it by ARP. The bridge answers for pods of other nodes with its own MAC (proxy ARP:
the route to them leaves through another device), and the node routes the packet into ``vxlan-6784``.
Behind the tunnel a peer is one MAC at one underlay address. Nothing is flooded between nodes.

Where there are several ranges, the bridge has an address of each that pods here are in, which is their gateway:
to pods of another range, on this node or elsewhere, the node routes. What belongs to no node is asked for on the
bridge, where nobody answers: it must not leave by the underlay.

IPv6 has no proxy for a whole range, so pods know no subnet there: a pod has a /128 and sends everything to the
bridge's address. The rest is the same, over the same tunnel, with link-local gateways.
"""

from collections.abc import Iterable, Sequence
from ipaddress import ip_interface

from weft.fabric.plan import (
    Device,
    Devices,
    Forwarding,
    ForwardingEntry,
    IPAddress,
    IPInterface,
    IPNetwork,
    Neighbour,
    Node,
    Peer,
    Route,
    Vxlan,
    derived_link_address,
    link_local,
)

BRIDGE = "weave"
TUNNEL = "vxlan-6784"
#: UDP port, as Weave's fast datapath used it, and our VNI.
PORT = 6784
VNI = 6784
#: Bytes that VXLAN adds: outer IPv4 20, UDP 8, VXLAN 8, inner Ethernet 14 (RFC 7348).
OVERHEAD = 50
#: Of our routes to ranges that the bridge has no address of: the kernel's own, of an address, come first.
RANGE_METRIC = 6784
#: What IPv4 asks of any link, with room for a header (RFC 791).
SMALLEST_MTU = 576
#: What IPv6 asks of any link (RFC 8200, section 5).
SMALLEST_MTU_IPV6 = 1280


def mtu(underlay: int, wanted: int | None = None, *, ipv6: bool = False) -> int:
    """The pods' MTU in bytes: what the underlay leaves, or the operator's wish (WEAVE_MTU).

    Raises ValueError where the wish does not fit; larger packets would vanish without a word.
    """
    largest = underlay - OVERHEAD
    smallest = SMALLEST_MTU_IPV6 if ipv6 else SMALLEST_MTU
    if largest < smallest:
        raise ValueError(f"the underlay's MTU {underlay} leaves {largest} bytes for pods; needs {smallest}")
    if wanted is None:
        return largest
    if not smallest <= wanted <= largest:
        raise ValueError(
            f"MTU {wanted} does not fit: the underlay's MTU {underlay} less {OVERHEAD} for VXLAN allows "
            f"{smallest} to {largest}"
        )
    return wanted


def devices(node: Node, bridge_address: str = "") -> Devices:
    """The bridge and the tunnel of a node; ``bridge_address`` is a MAC that its pods know already."""
    return Devices(
        bridge=Device(BRIDGE, bridge_address or derived_link_address("bridge", node.name), node.mtu),
        bridge_addresses=node.bridges,
        tunnel=Vxlan(
            TUNNEL, derived_link_address("vtep", node.name), node.mtu, vni=VNI, port=PORT, local=node.address
        ),
    )


def tunnel_addresses(bridge_addresses: Iterable[IPInterface]) -> tuple[IPInterface, ...]:
    """The tunnel has the bridge's first address of each family too, alone (/32, /128).

    What is masqueraded on its way out there, by kube-proxy for one, takes the device's own address, and the
    underlay's where there is none.
    """
    first: dict[int, IPInterface] = {}
    for address in bridge_addresses:
        first.setdefault(address.version, ip_interface(address.ip))
    return tuple(first.values())


def forwarding(node: Node, peers: Iterable[Peer]) -> Forwarding:
    """One route per peer's block, one neighbour per peer and family, one forwarding entry per peer."""
    sources = {bridge.version: bridge.ip for bridge in node.bridges}
    routes, neighbours, entries = set(), set(), set()
    for peer in peers:
        # To the kernel an IPv6 gateway out of the range would be on the bridge, where the range is.
        gateways: dict[int, IPAddress] = {4: peer.gateway, 6: link_local(peer.link_address)}
        if peer.name == node.name:
            continue
        for block in peer.blocks:
            gateway, source = gateways[block.version], sources.get(block.version)
            if source is not None:
                routes.add(Route(block, gateway, source))
                neighbours.add(Neighbour(gateway, peer.link_address))
                entries.add(ForwardingEntry(peer.link_address, peer.address))
    return Forwarding(frozenset(routes), frozenset(neighbours), frozenset(entries))


def sysctls(ranges: Iterable[IPNetwork] = ()) -> dict[tuple[str, ...], int]:
    """What the kernel must be told for this mode: path below /proc/sys and value.

    Proxy ARP answers at once (``proxy_delay``, in 1/100 s, is a random delay by default 0.8 s;
    https://www.kernel.org/doc/html/latest/networking/ip-sysctl.html).
    """
    several = sum(pods.version == 4 for pods in ranges) > 1
    # From range to range packets of one node leave where they came in, and the kernel would tell their senders to
    # take the short way. It does so where either ``all`` or the device says so; other devices say it themselves.
    more = {("net", "ipv4", "conf", "all", "send_redirects"): 0} if several else {}
    return more | {
        ("net", "ipv4", "ip_forward"): 1,
        ("net", "ipv4", "conf", BRIDGE, "proxy_arp"): 1,
        ("net", "ipv4", "neigh", BRIDGE, "proxy_delay"): 0,
        # A pod's packet for another node comes in and leaves through different devices: never a redirect.
        ("net", "ipv4", "conf", BRIDGE, "send_redirects"): 0,
        ("net", "ipv4", "conf", TUNNEL, "send_redirects"): 0,
    }


def sysctls_ipv6() -> dict[tuple[str, ...], int]:
    """What the kernel must be told beside that where pods have IPv6 addresses, too."""
    return {("net", "ipv6", "conf", "all", "forwarding"): 1}


def masquerade(ranges: Iterable[IPNetwork]) -> str:
    """The nftables ruleset that gives a pod's packets the node's address where they leave the pod network.

    Between pods nothing is translated, of whatever ranges they are: the receiver sees the sender's own address.
    Nor is what goes to another node's pods, whose range this node may not have heard of yet. ``fully-random``
    source ports keep concurrent look-ups from colliding in conntrack (the five seconds' DNS delay).

    What others send to other nodes' pods through this node, or the node itself from an address of the underlay, is
    given the node's address in the pod network, as Weave Net did: answers would not come back through the tunnel.
    """
    every = list(ranges)
    families = ([pods for pods in every if pods.version == version] for version in (4, 6))
    return "".join(_masquerade(family) for family in families if family)


def _masquerade(ranges: Sequence[IPNetwork]) -> str:
    family, multicast = ("ip", "224.0.0.0/4") if ranges[0].version == 4 else ("ip6", "ff00::/8")
    pods = str(ranges[0]) if len(ranges) == 1 else f"{{ {', '.join(map(str, ranges))} }}"
    leaving = f'oifname != {{ "{BRIDGE}", "{TUNNEL}" }}'
    return f"""\
table {family} weft
delete table {family} weft
table {family} weft {{
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        {family} saddr {pods} {family} daddr {multicast} return
        {family} saddr {pods} {family} daddr != {pods} {leaving} masquerade fully-random
        {family} saddr != {pods} oifname "{TUNNEL}" masquerade fully-random
    }}
}}
"""
