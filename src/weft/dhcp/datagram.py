"""The IPv4 and UDP headers around a message that leaves before the interface has an address (RFC 791, RFC 768)."""

import struct
from ipaddress import IPv4Address

SERVER_PORT = 67
CLIENT_PORT = 68
EVERYBODY = IPv4Address("255.255.255.255")

_IP = struct.Struct("!BBHHHBBH4s4s")
_UDP = struct.Struct("!HHHH")
_PSEUDO_HEADER = struct.Struct("!4s4sBBH")
_VERSION_AND_LENGTH = 0x45
_TTL = 64
_PROTOCOL = 17
_FRAGMENT = 0x3FFF  # more fragments, or not the first one


def wrap(payload: bytes, source: IPv4Address, destination: IPv4Address) -> bytes:
    """A packet from the client's port to the server's."""
    length = _UDP.size + len(payload)
    pseudo = _PSEUDO_HEADER.pack(source.packed, destination.packed, 0, _PROTOCOL, length)
    udp = _UDP.pack(CLIENT_PORT, SERVER_PORT, length, 0)
    # A sum of zero is sent as all ones: zero means that there is none.
    udp = _UDP.pack(CLIENT_PORT, SERVER_PORT, length, _checksum(pseudo + udp + payload) or 0xFFFF)

    def header(checksum: int) -> bytes:
        return _IP.pack(
            _VERSION_AND_LENGTH,
            0,
            _IP.size + length,
            0,
            0,
            _TTL,
            _PROTOCOL,
            checksum,
            source.packed,
            destination.packed,
        )

    return header(_checksum(header(0))) + udp + payload


def unwrap(packet: bytes) -> bytes | None:
    """The payload of a whole UDP packet to the client's port, None of anything else.

    The UDP checksum is not looked at: where sender and receiver share a kernel it is left to a network card that
    is not there.
    """
    if len(packet) < _IP.size:
        return None
    first, _, total, _, fragment, _, protocol, *_ = _IP.unpack_from(packet)
    size = (first & 0xF) * 4
    if first >> 4 != 4 or size < _IP.size or protocol != _PROTOCOL or fragment & _FRAGMENT:
        return None
    if not size + _UDP.size <= total <= len(packet) or _checksum(packet[:size]) != 0:
        return None
    _, port, length, _ = _UDP.unpack_from(packet, size)
    if port != CLIENT_PORT or not _UDP.size <= length <= total - size:
        return None
    return packet[size + _UDP.size : size + length]


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
