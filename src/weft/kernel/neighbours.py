"""Neighbours (which MAC an IP address has) and forwarding entries (where a VXLAN device or bridge sends a MAC).

Source: rtnetlink(7), bridge(8), include/uapi/linux/neighbour.h. Both are one table to netlink; forwarding entries
are those of the family AF_BRIDGE.
"""

import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from weft.kernel import attributes as attr
from weft.kernel.attributes import MalformedMessage
from weft.kernel.netlink import CREATE, EXCLUSIVE, REPLACE, REQUEST, Message, RouteSocket

_NEW_NEIGHBOUR = 28
_DELETE_NEIGHBOUR = 29
_GET_NEIGHBOUR = 30

#: struct ndmsg: family, index, state, flags, type.
_HEADER = struct.Struct("=BxxxiHBB")
_FAMILY_BRIDGE = 7

_ADDRESS = 1
_LINK_ADDRESS = 2
_INDEX = 8
_MASTER = 9

#: The entry is the device's own, not its bridge's.
_SELF = 0x02

#: State bits of an entry; those in use are set by the kernel but for PERMANENT, which never ages, and STALE, which
#: is used and then checked.
REACHABLE = 0x02
STALE = 0x04
FAILED = 0x20
NO_ARP = 0x40
PERMANENT = 0x80


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An IP address on the device ``index`` and its MAC, None where that is unknown. ``state`` is made of bits."""

    index: int
    address: IPv4Address | IPv6Address
    link_address: str | None
    state: int

    @property
    def permanent(self) -> bool:
        """Whether the entry was set by hand and never ages."""
        return bool(self.state & PERMANENT)


@dataclass(frozen=True, slots=True)
class ForwardingEntry:
    """Frames for a MAC: on a VXLAN device ``index``, to the node at the underlay address ``destination``.

    ``destination`` is None in the table of a bridge (its index is ``master``): there frames leave by ``index``.
    """

    index: int
    link_address: str
    destination: IPv4Address | IPv6Address | None
    master: int
    permanent: bool


def add_neighbour(
    index: int, address: IPv4Address | IPv6Address, link_address: str | bytes, *, state: int = PERMANENT
) -> Message:
    """A new neighbour; EEXIST where the address has an entry."""
    payload = encode_neighbour(index, address, link_address, state)
    doing = f"add the neighbour {address} to device {index}"
    return Message(_NEW_NEIGHBOUR, REQUEST | CREATE | EXCLUSIVE, payload, doing)


def replace_neighbour(
    index: int, address: IPv4Address | IPv6Address, link_address: str | bytes, *, state: int = PERMANENT
) -> Message:
    """Like ``add_neighbour``; takes the place of the address's entry."""
    payload = encode_neighbour(index, address, link_address, state)
    doing = f"set the neighbour {address} of device {index}"
    return Message(_NEW_NEIGHBOUR, REQUEST | CREATE | REPLACE, payload, doing)


def delete_neighbour(index: int, address: IPv4Address | IPv6Address) -> Message:
    """Delete an entry; ENOENT where there is none."""
    payload = _HEADER.pack(_family(address), index, 0, 0, 0) + attr.attribute(_ADDRESS, address.packed)
    return Message(_DELETE_NEIGHBOUR, REQUEST, payload, f"delete the neighbour {address} of device {index}")


def dump_neighbours(host: RouteSocket, index: int | None = None) -> list[Neighbour]:
    """All neighbours, or those on one device. Raises NetlinkError."""
    filtered = b"" if index is None else attr.u32(_INDEX, index)
    payload = _HEADER.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + filtered
    payloads = host.dump(Message(_GET_NEIGHBOUR, REQUEST, payload, "list the neighbours"))
    return [
        neighbour
        for neighbour in map(parse_neighbour, payloads)
        if neighbour is not None and index in (None, neighbour.index)
    ]


def add_forwarding_entry(index: int, link_address: str | bytes, destination: IPv4Address | IPv6Address) -> Message:
    """A new permanent entry of a VXLAN device; EEXIST where the MAC has one."""
    payload = encode_forwarding_entry(index, link_address, destination)
    doing = f"add the forwarding entry of {link_address!r} to {destination} to device {index}"
    return Message(_NEW_NEIGHBOUR, REQUEST | CREATE | EXCLUSIVE, payload, doing)


def replace_forwarding_entry(
    index: int, link_address: str | bytes, destination: IPv4Address | IPv6Address
) -> Message:
    """Like ``add_forwarding_entry``; takes the place of the MAC's entry."""
    payload = encode_forwarding_entry(index, link_address, destination)
    doing = f"set the forwarding entry of {link_address!r} to {destination} of device {index}"
    return Message(_NEW_NEIGHBOUR, REQUEST | CREATE | REPLACE, payload, doing)


def delete_forwarding_entry(
    index: int, link_address: str | bytes, destination: IPv4Address | IPv6Address | None = None
) -> Message:
    """Delete a MAC's entry of a VXLAN device; ENOENT where the MAC has none.

    Where a destination is given and the entry has another, the entry stays, and the kernel says nothing.
    """
    parts = [
        _HEADER.pack(_FAMILY_BRIDGE, index, 0, _SELF, 0),
        attr.attribute(_LINK_ADDRESS, attr.link_address(link_address)),
    ]
    if destination is not None:
        parts.append(attr.attribute(_ADDRESS, destination.packed))
    doing = f"delete the forwarding entry of {link_address!r} of device {index}"
    return Message(_DELETE_NEIGHBOUR, REQUEST, b"".join(parts), doing)


def dump_forwarding_entries(host: RouteSocket, index: int | None = None) -> list[ForwardingEntry]:
    """The entries of all bridges and VXLAN devices, or those of one device. Raises NetlinkError."""
    payload = _HEADER.pack(_FAMILY_BRIDGE, index or 0, 0, 0, 0)
    payloads = host.dump(Message(_GET_NEIGHBOUR, REQUEST, payload, "list the forwarding entries"))
    return [
        entry
        for entry in map(parse_forwarding_entry, payloads)
        if entry is not None and index in (None, entry.index)
    ]


def encode_neighbour(
    index: int, address: IPv4Address | IPv6Address, link_address: str | bytes, state: int
) -> bytes:
    """What the kernel is told of a neighbour."""
    return b"".join(
        (
            _HEADER.pack(_family(address), index, state, 0, 0),
            attr.attribute(_ADDRESS, address.packed),
            attr.attribute(_LINK_ADDRESS, attr.link_address(link_address)),
        )
    )


def encode_forwarding_entry(
    index: int, link_address: str | bytes, destination: IPv4Address | IPv6Address
) -> bytes:
    """What the kernel is told of an entry of a VXLAN device."""
    return b"".join(
        (
            _HEADER.pack(_FAMILY_BRIDGE, index, PERMANENT, _SELF, 0),
            attr.attribute(_LINK_ADDRESS, attr.link_address(link_address)),
            attr.attribute(_ADDRESS, destination.packed),
        )
    )


def parse_neighbour(payload: bytes) -> Neighbour | None:
    """A neighbour from the kernel's message; None for another family than IP. Raises MalformedMessage."""
    family, index, state, _, found = _parsed(payload)
    if family not in (socket.AF_INET, socket.AF_INET6):
        return None
    link_address = found.get(_LINK_ADDRESS)
    return Neighbour(
        index=index,
        address=attr.as_ip_address(found.get(_ADDRESS, b"")),
        link_address=attr.as_link_address(link_address) if link_address else None,
        state=state,
    )


def parse_forwarding_entry(payload: bytes) -> ForwardingEntry | None:
    """A forwarding entry from the kernel's message; None for another family. Raises MalformedMessage."""
    family, index, state, _, found = _parsed(payload)
    if family != _FAMILY_BRIDGE:
        return None
    return ForwardingEntry(
        index=index,
        link_address=attr.as_link_address(found.get(_LINK_ADDRESS, b"")),
        destination=attr.as_ip_address(found[_ADDRESS]) if _ADDRESS in found else None,
        master=attr.as_u32(found[_MASTER]) if _MASTER in found else 0,
        permanent=bool(state & PERMANENT),
    )


def _parsed(payload: bytes) -> tuple[int, int, int, int, dict[int, bytes]]:
    if len(payload) < _HEADER.size:
        raise MalformedMessage(f"a neighbour's message of {len(payload)} bytes")
    family, index, state, flags, _ = _HEADER.unpack_from(payload)
    return family, index, state, flags, attr.decode(payload, _HEADER.size)


def _family(address: IPv4Address | IPv6Address) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6
