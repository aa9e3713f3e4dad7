"""IP addresses of devices.

Source: rtnetlink(7), include/uapi/linux/if_addr.h.
"""

import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from weft.kernel import attributes as attr
from weft.kernel.attributes import MalformedMessage
from weft.kernel.netlink import CREATE, EXCLUSIVE, REPLACE, REQUEST, Message, RouteSocket

_NEW_ADDRESS = 20
_DELETE_ADDRESS = 21
_GET_ADDRESS = 22

#: struct ifaddrmsg: family, prefix length, flags, scope, index.
_HEADER = struct.Struct("=BBBBI")

_ADDRESS = 1
_LOCAL = 2
_LABEL = 3
_BROADCAST = 4
_FLAGS = 8
_TARGET_NAMESPACE_ID = 10

_NO_DAD = 0x02
_DAD_FAILED = 0x08
_TENTATIVE = 0x40
_NO_PREFIX_ROUTE = 0x200

SCOPE_GLOBAL = 0
SCOPE_LINK = 253
SCOPE_HOST = 254


@dataclass(frozen=True, slots=True)
class Address:
    """An address of the device ``index``, with its prefix length.

    ``peer`` is the other end's address on a point-to-point device. ``tentative``: duplicate address detection
    runs, the address cannot be used yet; ``duplicate``: another holder was found, it cannot be used at all.
    """

    index: int
    interface: IPv4Interface | IPv6Interface
    scope: int
    broadcast: IPv4Address | None
    peer: IPv4Address | IPv6Address | None
    label: str
    tentative: bool
    duplicate: bool


def add_address(
    index: int,
    interface: IPv4Interface | IPv6Interface,
    *,
    scope: int = SCOPE_GLOBAL,
    prefix_route: bool = True,
    detect_duplicates: bool = False,
) -> Message:
    """Give the device an address; EEXIST where it has it.

    The broadcast address is computed where the subnet has one (RFC 3021: a /31 has none); an IPv6 address is
    usable at once, unless ``detect_duplicates`` leaves that to the device's own accept_dad.
    ``prefix_route=False`` makes no route to the subnet.
    """
    payload = encode_address(index, interface, scope, prefix_route, detect_duplicates)
    doing = f"add the address {interface} to device {index}"
    return Message(_NEW_ADDRESS, REQUEST | CREATE | EXCLUSIVE, payload, doing)


def replace_address(
    index: int, interface: IPv4Interface | IPv6Interface, *, scope: int = SCOPE_GLOBAL, prefix_route: bool = True
) -> Message:
    """Like ``add_address``; fine where the device has the address."""
    payload = encode_address(index, interface, scope, prefix_route)
    doing = f"set the address {interface} of device {index}"
    return Message(_NEW_ADDRESS, REQUEST | CREATE | REPLACE, payload, doing)


def delete_address(index: int, interface: IPv4Interface | IPv6Interface) -> Message:
    """Take an address away; EADDRNOTAVAIL where the device does not have it."""
    header = _HEADER.pack(_family(interface), interface.network.prefixlen, 0, 0, index)
    payload = header + attr.attribute(_LOCAL, interface.packed) + attr.attribute(_ADDRESS, interface.packed)
    return Message(_DELETE_ADDRESS, REQUEST, payload, f"delete the address {interface} of device {index}")


def dump_addresses(
    host: RouteSocket, index: int | None = None, *, target_namespace_id: int | None = None
) -> list[Address]:
    """All addresses, or those of one device. Raises NetlinkError.

    ``target_namespace_id`` reads those of another namespace without entering it; the identifier is the one that a
    device with its other end there shows (``Link.peer_namespace_id``). ``index`` then counts there.
    """
    header = _HEADER.pack(socket.AF_UNSPEC, 0, 0, 0, index or 0)
    target = (
        b"" if target_namespace_id is None else struct.pack("=HHi", 8, _TARGET_NAMESPACE_ID, target_namespace_id)
    )
    payloads = host.dump(Message(_GET_ADDRESS, REQUEST, header + target, "list the addresses"))
    # Not every family filters by device.
    return [
        address
        for address in map(parse_address, payloads)
        if address is not None and index in (None, address.index)
    ]


def parse_address(payload: bytes) -> Address | None:
    """An address from the kernel's message; None for another family than IP. Raises MalformedMessage."""
    if len(payload) < _HEADER.size:
        raise MalformedMessage(f"an address's message of {len(payload)} bytes")
    family, length, flags, scope, index = _HEADER.unpack_from(payload)
    if family not in (socket.AF_INET, socket.AF_INET6):
        return None
    found = attr.decode(payload, _HEADER.size)
    other = attr.as_ip_address(found.get(_ADDRESS, b""))
    own = attr.as_ip_address(found[_LOCAL]) if _LOCAL in found else other
    broadcast = attr.as_ip_address(found[_BROADCAST]) if _BROADCAST in found else None
    if _FLAGS in found:
        flags = attr.as_u32(found[_FLAGS])
    return Address(
        index=index,
        interface=_interface(own, length),
        scope=scope,
        broadcast=broadcast if isinstance(broadcast, IPv4Address) else None,
        peer=other if other != own else None,
        label=attr.as_text(found.get(_LABEL, b"")),
        tentative=bool(flags & _TENTATIVE),
        duplicate=bool(flags & _DAD_FAILED),
    )


def encode_address(
    index: int,
    interface: IPv4Interface | IPv6Interface,
    scope: int,
    prefix_route: bool,
    detect_duplicates: bool = False,
) -> bytes:
    """What the kernel is told of an address."""
    network = interface.network
    parts = [
        _HEADER.pack(_family(interface), network.prefixlen, 0, scope, index),
        attr.attribute(_LOCAL, interface.packed),
        attr.attribute(_ADDRESS, interface.packed),
    ]
    more = 0 if prefix_route else _NO_PREFIX_ROUTE
    if isinstance(interface, IPv6Interface):
        more |= 0 if detect_duplicates else _NO_DAD
    elif network.prefixlen <= 30:
        parts.append(attr.attribute(_BROADCAST, network.broadcast_address.packed))
    if more:
        parts.append(attr.u32(_FLAGS, more))
    return b"".join(parts)


def _family(interface: IPv4Interface | IPv6Interface) -> int:
    return socket.AF_INET if interface.version == 4 else socket.AF_INET6


def _interface(address: IPv4Address | IPv6Address, length: int) -> IPv4Interface | IPv6Interface:
    if length > address.max_prefixlen:
        raise MalformedMessage(f"a prefix of {length} bits for {address}")
    if isinstance(address, IPv4Address):
        return IPv4Interface((int(address), length))
    return IPv6Interface((int(address), length))
