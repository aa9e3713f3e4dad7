"""DHCP messages on the wire (RFC 2131 section 2; long and repeated options RFC 3396)."""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv4Address
from typing import Self

from weft.dhcp.options import Option

NOWHERE = IPv4Address(0)

#: op, htype, hlen, hops, xid, secs, flags, ciaddr, yiaddr, siaddr, giaddr, chaddr, sname, file, magic cookie.
_HEADER = struct.Struct("!4BIHH4s4s4s4s16s64s128s4s")
_COOKIE = b"\x63\x82\x53\x63"
_REQUEST, _REPLY = 1, 2
_ETHERNET = 1
_BROADCAST = 0x8000
_LONGEST_OPTION = 255
#: Bytes of the shortest message that all relays and servers take: BOOTP's.
_SHORTEST = 300
#: Bits of option 52: which of the header's text fields hold options, too.
_IN_FILE, _IN_SERVER_NAME = 1, 2


class MalformedMessage(ValueError):
    """Not a DHCP message; the message says why."""


class MessageType(IntEnum):
    """Option 53."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8


@dataclass(frozen=True, slots=True)
class Message:
    """One message.

    ``client``, ``yours``, ``server`` and ``relay`` are ciaddr, yiaddr, siaddr and giaddr; ``seconds`` since the
    client began. ``options`` are by code, without the message's type.
    """

    kind: MessageType
    transaction: int
    hardware_address: bytes
    options: Mapping[int, bytes] = field(default_factory=dict)
    seconds: int = 0
    broadcast: bool = False
    client: IPv4Address = NOWHERE
    yours: IPv4Address = NOWHERE
    server: IPv4Address = NOWHERE
    relay: IPv4Address = NOWHERE

    @property
    def is_reply(self) -> bool:
        """Whether a server sends it."""
        return self.kind in (MessageType.OFFER, MessageType.ACK, MessageType.NAK)

    def encode(self) -> bytes:
        """The message as UDP carries it, at least 300 bytes."""
        header = _HEADER.pack(
            _REPLY if self.is_reply else _REQUEST,
            _ETHERNET,
            len(self.hardware_address),
            0,
            self.transaction,
            min(self.seconds, 0xFFFF),
            _BROADCAST if self.broadcast else 0,
            self.client.packed,
            self.yours.packed,
            self.server.packed,
            self.relay.packed,
            self.hardware_address,
            b"",
            b"",
            _COOKIE,
        )
        options = [_option(Option.MESSAGE_TYPE, bytes((self.kind,)))]
        options += (_option(code, value) for code, value in self.options.items())
        return (header + b"".join(options) + bytes((Option.END,))).ljust(_SHORTEST, b"\0")

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read a message. Raises MalformedMessage."""
        if len(data) < _HEADER.size:
            raise MalformedMessage(f"{len(data)} bytes are too few for a DHCP message")
        (_, _, length, _, transaction, seconds, flags, *addresses, hardware, name, file, cookie) = (
            _HEADER.unpack_from(data)
        )
        if cookie != _COOKIE:
            raise MalformedMessage(f"a message with the cookie {cookie.hex()}")
        options = _read_options(data[_HEADER.size :], file, name)
        kind = options.pop(Option.MESSAGE_TYPE, b"")
        try:
            (number,) = kind
            message_type = MessageType(number)
        except ValueError:
            raise MalformedMessage(f"a message of the type {kind.hex() or 'BOOTP'}") from None
        client, yours, server, relay = map(IPv4Address, addresses)
        return cls(
            message_type,
            transaction,
            hardware[: min(length, len(hardware))],
            options,
            seconds,
            bool(flags & _BROADCAST),
            client,
            yours,
            server,
            relay,
        )


def _option(code: int, value: bytes) -> bytes:
    """An option; one that is too long is split, and joined by the reader."""
    parts = [value[start : start + _LONGEST_OPTION] for start in range(0, len(value), _LONGEST_OPTION)] or [b""]
    return b"".join(bytes((code, len(part))) + part for part in parts)


def _read_options(data: bytes, file: bytes, name: bytes) -> dict[int, bytes]:
    """All options of a message, the parts of one in the order that RFC 3396 section 5 gives."""
    options: dict[int, bytes] = {}
    _collect(options, data)
    overload = options.pop(Option.OVERLOAD, b"\0")
    if len(overload) == 1:
        if overload[0] & _IN_FILE:
            _collect(options, file)
        if overload[0] & _IN_SERVER_NAME:
            _collect(options, name)
    return options


def _collect(options: dict[int, bytes], data: bytes) -> None:
    for code, value in _split(data):
        options[code] = options.get(code, b"") + value


def _split(data: bytes) -> Iterator[tuple[int, bytes]]:
    place = 0
    while place < len(data):
        code = data[place]
        if code == Option.END:
            return
        place += 1
        if code == Option.PAD:
            continue
        if place >= len(data) or place + 1 + data[place] > len(data):
            raise MalformedMessage(f"option {code} reaches beyond the message's end")
        length = data[place]
        yield code, data[place + 1 : place + 1 + length]
        place += 1 + length
