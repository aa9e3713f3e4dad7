"""IPv4 and UDP around a message."""

import struct
from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from weft.dhcp.datagram import unwrap, wrap

ADDRESSES = st.integers(0, 0xFFFFFFFF).map(IPv4Address)


def answered(packet: bytes) -> bytes:
    """The packet with its ports exchanged: no checksum changes."""
    return packet[:20] + packet[22:24] + packet[20:22] + packet[24:]


@given(st.binary(max_size=600), ADDRESSES, ADDRESSES)
def test_round_trip(payload: bytes, source: IPv4Address, destination: IPv4Address) -> None:
    packet = wrap(payload, source, destination)
    assert unwrap(packet) is None  # it goes to the server
    assert unwrap(answered(packet)) == payload
    assert unwrap(answered(packet) + b"padding of Ethernet") == payload


@given(st.binary(max_size=64), st.integers(0, 19), st.integers(1, 255))
def test_a_damaged_header_is_refused(payload: bytes, place: int, damage: int) -> None:
    packet = bytearray(answered(wrap(payload, IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2"))))
    packet[place] ^= damage
    assert unwrap(bytes(packet)) is None


@given(st.binary(max_size=100))
def test_garbage(data: bytes) -> None:
    unwrap(data)
    unwrap(struct.pack("!BBHHHBBH4s4s", 0x45, 0, len(data), 0, 0, 1, 17, 0, b"", b"") + data)
