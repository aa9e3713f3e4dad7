"""Telling the neighbours that an address has a (new) MAC, so that none of them keeps an old one.

Source: RFC 5227 section 3 (ARP announcement), RFC 4861 section 7.2.6 (unsolicited neighbour advertisement).
"""

import socket
import struct
from ipaddress import IPv4Address, IPv6Address

from weft.kernel.attributes import link_address

_ETHERNET_ARP = 0x0806
_ETHERNET_IPV6 = 0x86DD
_EVERYBODY = b"\xff" * 6
_NOBODY = b"\0" * 6
#: Hardware Ethernet, protocol IPv4, address lengths, operation: request, as RFC 5227 wants it.
_ARP_REQUEST = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)

_ALL_NODES = IPv6Address("ff02::1").packed
_ALL_NODES_LINK_ADDRESS = b"\x33\x33\0\0\0\1"
_ICMPV6 = 58
_NEIGHBOUR_ADVERTISEMENT = 136
_OVERRIDE = 0x20000000


def open_packet_socket() -> socket.socket:
    """A socket for whole frames on any device of the calling thread's network namespace; it receives nothing.

    Keep it: closing one makes the kernel wait for all processors, 5 to 20 ms. One in the bridge's namespace serves
    all pods: what is sent on the bridge reaches every port.
    """
    # Protocol 0: the kernel hands no received frame to the socket.
    return socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)


def gratuitous_arp(packets: socket.socket, device: str, mac: str | bytes, address: IPv4Address) -> None:
    """Tell everybody on the device's segment that the address has this MAC. Raises OSError.

    The device's name is looked up in the socket's namespace. On a bridge it costs a few microseconds per port.
    """
    own = link_address(mac)
    frame = b"".join(
        (
            _EVERYBODY,
            own,
            struct.pack("!H", _ETHERNET_ARP),
            _ARP_REQUEST,
            own,
            address.packed,
            _NOBODY,
            address.packed,
        )
    )
    packets.sendto(frame, (device, 0))


def unsolicited_advertisement(packets: socket.socket, device: str, mac: str | bytes, address: IPv6Address) -> None:
    """The same for IPv6. Raises OSError."""
    own = link_address(mac)
    # Option 2 of one unit of eight bytes: the target's link-layer address.
    message = struct.pack("!BBHI", _NEIGHBOUR_ADVERTISEMENT, 0, 0, _OVERRIDE) + address.packed + b"\2\1" + own
    pseudo_header = address.packed + _ALL_NODES + struct.pack("!II", len(message), _ICMPV6)
    checksum = struct.pack("!H", _internet_checksum(pseudo_header + message))
    message = message[:2] + checksum + message[4:]
    # Version 6; hop limit 255 proves that no router forwarded it.
    header = struct.pack("!IHBB", 6 << 28, len(message), _ICMPV6, 255) + address.packed + _ALL_NODES
    frame = b"".join((_ALL_NODES_LINK_ADDRESS, own, struct.pack("!H", _ETHERNET_IPV6), header, message))
    packets.sendto(frame, (device, 0))


def _internet_checksum(data: bytes) -> int:
    """RFC 1071, of data of even length."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF
