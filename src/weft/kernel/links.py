"""Network devices: messages that make, change and delete them, and what the kernel holds.

Source: rtnetlink(7), include/uapi/linux/if_link.h. Measured choices: the peer of a veth is made in its final
namespace under its final name, since moving a device costs the kernel 16 ms; one queue each way saves a third of
the time to make a pair.
"""

import fcntl
import struct
import time
from ipaddress import IPv4Address, IPv6Address

from weft.kernel import attributes as attr
from weft.kernel import link_attributes as ifla
from weft.kernel.link_attributes import BridgePort, Link, Vxlan, parse_link
from weft.kernel.netlink import CREATE, EXCLUSIVE, REQUEST, Message, NetlinkError, RouteSocket

__all__ = [
    "BridgePort",
    "Link",
    "Vxlan",
    "await_forwarding",
    "create_bridge",
    "create_veth",
    "create_vxlan",
    "delete_group",
    "delete_link",
    "dump_links",
    "find_index",
    "get_link",
    "parse_link",
    "set_bridge_port",
    "set_link",
]

_NEW_LINK = 16
_DELETE_LINK = 17
_GET_LINK = 18

#: SIOCGIFINDEX, netdevice(7): struct ifreq in and out. It takes no lock that changes of devices hold.
_GET_INDEX = 0x8933
_INDEX_REQUEST = struct.Struct("=16si20x")
_FORWARDING_POLL = 0.0002

_CREATE = REQUEST | CREATE | EXCLUSIVE

_UNCHANGED_HEADER = ifla.HEADER.pack(0, 0, 0, 0, 0)
_UP_HEADER = ifla.HEADER.pack(0, 0, 0, ifla.FLAG_UP, ifla.FLAG_UP)
_ONE_QUEUE = attr.u32(ifla.TX_QUEUES, 1) + attr.u32(ifla.RX_QUEUES, 1)
_NO_STATISTICS = attr.u32(ifla.EXTENDED_MASK, ifla.SKIP_STATISTICS)
_NO_LINK_LOCAL = attr.nested(
    ifla.FAMILIES, attr.nested(ifla.FAMILY_IPV6, attr.u8(ifla.IPV6_ADDRESS_GENERATION, ifla.GENERATE_NONE))
)
_GENERATED_LINK_LOCAL = attr.nested(
    ifla.FAMILIES, attr.nested(ifla.FAMILY_IPV6, attr.u8(ifla.IPV6_ADDRESS_GENERATION, ifla.GENERATE_EUI64))
)


def create_veth(
    *,
    name: str,
    peer_name: str,
    peer_namespace_fd: int | None,
    mtu: int = 0,
    master: int = 0,
    up: bool = True,
    peer_address: str | bytes | None = None,
) -> Message:
    """A pair: this end here, enslaved to ``master`` (an index; 0 for none), the peer in its own namespace.

    The peer cannot be up yet, since the kernel makes it before the two are joined. ``mtu`` in bytes, for both; 0
    is the kernel's 1500. Without ``peer_namespace_fd`` the peer stays here, too.
    """
    size = attr.u32(ifla.MTU, mtu) if mtu else b""
    peer = [_UNCHANGED_HEADER, attr.interface_name(ifla.NAME, peer_name), size, _ONE_QUEUE]
    if peer_namespace_fd is not None:
        peer.append(attr.u32(ifla.NAMESPACE_FD, peer_namespace_fd))
    if peer_address is not None:
        peer.append(attr.attribute(ifla.ADDRESS, attr.link_address(peer_address)))
    parts = [
        _UP_HEADER if up else _UNCHANGED_HEADER,
        attr.interface_name(ifla.NAME, name),
        size,
        _ONE_QUEUE,
        information("veth", attr.attribute(ifla.VETH_PEER, b"".join(peer))),
    ]
    if master:
        parts.append(attr.u32(ifla.MASTER, master))
    return Message(_NEW_LINK, _CREATE, b"".join(parts), f"create the pair {name} and {peer_name}")


def create_bridge(
    *,
    name: str,
    address: str | bytes | None = None,
    mtu: int | None = None,
    up: bool = True,
    vlan_filtering: bool = False,
) -> Message:
    """A bridge; with an ``address``, that is a MAC which no port changes.

    An ``mtu`` (bytes) given here is only where the bridge starts: it follows the ports, and falls to 1500 when the
    last one goes. One that is set afterwards, with ``set_link``, stays (unless it is what the bridge has already).
    """
    parts = [
        _UP_HEADER if up else _UNCHANGED_HEADER,
        attr.interface_name(ifla.NAME, name),
        information("bridge", *([attr.u8(ifla.BRIDGE_VLAN_FILTERING, 1)] if vlan_filtering else [])),
    ]
    if address is not None:
        parts.append(attr.attribute(ifla.ADDRESS, attr.link_address(address)))
    if mtu is not None:
        parts.append(attr.u32(ifla.MTU, mtu))
    return Message(_NEW_LINK, _CREATE, b"".join(parts), f"create the bridge {name}")


def create_vxlan(
    *,
    name: str,
    vni: int,
    port: int,
    local: IPv4Address | IPv6Address,
    underlay_index: int,
    mtu: int,
    address: str | bytes,
    learning: bool = False,
    up: bool = True,
) -> Message:
    """A VXLAN device without a default destination: it sends where forwarding entries say (RFC 7348).

    ``port`` is the UDP port, ``local`` the address that packets leave with, ``mtu`` the inner one in bytes; the
    kernel lowers one that leaves no room for the outer headers, and does not say so.
    """
    data = [
        attr.u32(ifla.VXLAN_VNI, vni),
        attr.attribute(ifla.VXLAN_PORT, struct.pack("!H", port)),
        attr.attribute(ifla.VXLAN_LOCAL if local.version == 4 else ifla.VXLAN_LOCAL6, local.packed),
        attr.u32(ifla.VXLAN_LINK, underlay_index),
        attr.u8(ifla.VXLAN_LEARNING, learning),
    ]
    parts = [
        _UP_HEADER if up else _UNCHANGED_HEADER,
        attr.interface_name(ifla.NAME, name),
        attr.attribute(ifla.ADDRESS, attr.link_address(address)),
        attr.u32(ifla.MTU, mtu),
        information("vxlan", *data),
    ]
    return Message(_NEW_LINK, _CREATE, b"".join(parts), f"create the VXLAN device {name}")


def set_link(
    *,
    index: int | None = None,
    name: str | None = None,
    up: bool | None = None,
    master: int | None = None,
    mtu: int | None = None,
    group: int | None = None,
    address: str | bytes | None = None,
    new_name: str | None = None,
    link_local: bool | None = None,
    alias: str | None = None,
    promiscuous: bool | None = None,
    all_multicast: bool | None = None,
    transmit_queue_length: int | None = None,
    namespace_fd: int | None = None,
) -> Message:
    """Change what is given of one device; ``master=0`` takes it off its bridge.

    ``link_local=False`` keeps the kernel from giving it an IPv6 link-local address when it comes up.
    A new name needs the index: the kernel would take the name for the one to look up. An empty ``alias`` removes
    it. ``namespace_fd`` moves the device to another namespace, where it arrives down.
    """
    header, parts, shown = _identified(
        index, name, {ifla.FLAG_UP: up, ifla.FLAG_PROMISCUOUS: promiscuous, ifla.FLAG_ALL_MULTICAST: all_multicast}
    )
    if new_name is not None:
        if index is None:
            raise ValueError(f"renaming {name!r} to {new_name!r} needs its index instead of its name")
        parts.append(attr.interface_name(ifla.NAME, new_name))
    if address is not None:
        parts.append(attr.attribute(ifla.ADDRESS, attr.link_address(address)))
    if alias is not None:
        parts.append(attr.attribute(ifla.ALIAS, alias.encode()))
    for kind, value in (
        (ifla.MASTER, master),
        (ifla.MTU, mtu),
        (ifla.GROUP, group),
        (ifla.TRANSMIT_QUEUE_LENGTH, transmit_queue_length),
        (ifla.NAMESPACE_FD, namespace_fd),
    ):
        if value is not None:
            parts.append(attr.u32(kind, value))
    if link_local is not None:
        parts.append(_GENERATED_LINK_LOCAL if link_local else _NO_LINK_LOCAL)
    return Message(_NEW_LINK, REQUEST, b"".join((header, *parts)), f"change {shown}")


def set_bridge_port(
    index: int | None = None,
    *,
    name: str | None = None,
    hairpin: bool | None = None,
    isolated: bool | None = None,
    learning: bool | None = None,
    flood: bool | None = None,
    neighbour_suppression: bool | None = None,
    link_local: bool | None = None,
) -> Message:
    """Change what is given of a port. ``hairpin``: frames may leave by the port they came in.

    ``flood`` concerns frames for unknown MACs; ``link_local`` is that of ``set_link``, to spare a message.
    """
    header, parts, shown = _identified(index, name)
    given = (
        (ifla.PORT_HAIRPIN, hairpin),
        (ifla.PORT_ISOLATED, isolated),
        (ifla.PORT_LEARNING, learning),
        (ifla.PORT_UNICAST_FLOOD, flood),
        (ifla.PORT_NEIGHBOUR_SUPPRESSION, neighbour_suppression),
    )
    data = [attr.u8(kind, value) for kind, value in given if value is not None]
    parts.append(
        attr.nested(ifla.INFORMATION, attr.text(ifla.PORT_KIND, "bridge"), attr.nested(ifla.PORT_DATA, *data))
    )
    if link_local is not None:
        parts.append(_GENERATED_LINK_LOCAL if link_local else _NO_LINK_LOCAL)
    return Message(_NEW_LINK, REQUEST, b"".join((header, *parts)), f"change the bridge port {shown}")


def delete_link(index: int | None = None, *, name: str | None = None) -> Message:
    """Delete one device; of a pair, both ends. The kernel takes about 20 ms for it."""
    header, parts, shown = _identified(index, name)
    return Message(_DELETE_LINK, REQUEST, b"".join((header, *parts)), f"delete {shown}")


def delete_group(group: int) -> Message:
    """Delete all devices of a group, in about the time of one. ENODEV where there are none.

    Raises ValueError for group 0, which every device is in that was put in no other.
    """
    if group == 0:
        raise ValueError("group 0 holds every device that was put in no other group; delete devices one by one")
    payload = _UNCHANGED_HEADER + attr.u32(ifla.GROUP, group)
    return Message(_DELETE_LINK, REQUEST, payload, f"delete the devices of group {group:#x}")


def get_link(host: RouteSocket, *, index: int | None = None, name: str | None = None) -> Link:
    """One device. Raises NetlinkError: ENODEV where there is none."""
    header, parts, shown = _identified(index, name)
    payload = b"".join((header, *parts, _NO_STATISTICS))
    return parse_link(host.get(Message(_GET_LINK, REQUEST, payload, f"find {shown}")))


def find_index(host: RouteSocket, name: str) -> int:
    """The index of a device; a quarter of the time of ``get_link``. Raises NetlinkError: ENODEV for none."""
    try:
        answer = fcntl.ioctl(host, _GET_INDEX, _INDEX_REQUEST.pack(attr.packed_name(name), 0))
    except OSError as error:
        raise NetlinkError(error.errno or 0, "", f"find {name}") from None
    index: int = _INDEX_REQUEST.unpack(answer)[1]
    return index


def await_forwarding(
    host: RouteSocket, *, index: int | None = None, name: str | None = None, timeout: float = 1.0
) -> Link:
    """A bridge port, once its bridge takes frames from it; ``timeout`` in seconds.

    When the peer of a veth comes up, the kernel tells the bridge a little later, and until then frames are lost.
    Recent kernels settle that before they answer for a single device, so the first answer is mostly the last.
    Raises NetlinkError, and TimeoutError where the port is down or its peer is.
    """
    deadline = time.monotonic() + timeout
    while True:
        link = get_link(host, index=index, name=name)
        if link.port is not None and link.port.forwarding:
            return link
        if time.monotonic() >= deadline:
            state = f"up: {link.up}, peer up: {link.operational}, on a bridge: {link.port is not None}"
            raise TimeoutError(f"{link.name} forwards no frames after {timeout} s ({state})")
        time.sleep(_FORWARDING_POLL)


def dump_links(host: RouteSocket, kind: str | None = None) -> list[Link]:
    """All devices of the namespace, or those of a kind such as ``veth``. Raises NetlinkError."""
    parts = [_UNCHANGED_HEADER, _NO_STATISTICS]
    if kind is not None:
        parts.append(attr.nested(ifla.INFORMATION, attr.text(ifla.KIND, kind)))
    what = f"list the {kind} devices" if kind else "list the devices"
    found = map(parse_link, host.dump(Message(_GET_LINK, REQUEST, b"".join(parts), what)))
    # The kernel filters only by kinds that it knows.
    return [link for link in found if kind in (None, link.kind)]


def information(kind: str, *data: bytes) -> bytes:
    parts = [attr.text(ifla.KIND, kind)]
    if data:
        parts.append(attr.nested(ifla.DATA, *data))
    return attr.nested(ifla.INFORMATION, *parts)


def _identified(
    index: int | None, name: str | None, wanted: dict[int, bool | None] | None = None
) -> tuple[bytes, list[bytes], str]:
    """The header and attributes that say which device is meant, and how to call it in words."""
    if (index is None) == (name is None):
        raise ValueError(f"a device is meant by its index or its name, one of them: {index=}, {name=}")
    if index is not None and index <= 0:
        raise ValueError(f"{index} is no index of a device: they start at 1")
    flags = changed = 0
    for flag, value in (wanted or {}).items():
        if value is not None:
            changed |= flag
            flags |= flag if value else 0
    header = ifla.HEADER.pack(0, 0, index or 0, flags, changed)
    if name is None:
        return header, [], f"device {index}"
    return header, [attr.interface_name(ifla.NAME, name)], name
