"""Netlink attributes: a length, a type, a value, padded to four bytes.

Source: https://docs.kernel.org/userspace-api/netlink/intro.html and include/uapi/linux/netlink.h. All numbers
are in the machine's byte order, except where a field says otherwise.
"""

import os
import struct
import sys
from ipaddress import IPv4Address, IPv6Address

#: Set in the type of an attribute that holds attributes.
NESTED = 0x8000
_TYPE_MASK = 0x3FFF
_LARGEST = 0xFFFF

_HEADER = struct.Struct("=HH")
_WITH_U8 = struct.Struct("=HHBxxx")
_WITH_U16 = struct.Struct("=HHHxx")
_WITH_U32 = struct.Struct("=HHI")
_U16 = struct.Struct("=H")
_U32 = struct.Struct("=I")
_I32 = struct.Struct("=i")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")

#: Bytes of an interface's name (IFNAMSIZ, less the closing NUL).
_LONGEST_NAME = 15
# dev_valid_name() takes these for separators or space; % would ask for a name made from a pattern.
_NOT_IN_NAMES = frozenset(b"/:%\0\t\n\v\f\r \xa0")


class MalformedMessage(ValueError):
    """What was received is not a netlink message of the expected shape."""


def attribute(kind: int, value: bytes) -> bytes:
    """Any value. Raises ValueError where it is longer than an attribute can be."""
    length = 4 + len(value)
    if length > _LARGEST:
        raise ValueError(f"attribute {kind} would take {length} bytes; an attribute holds at most {_LARGEST}")
    return _HEADER.pack(length, kind) + value + _PADDING[length % 4]


def nested(kind: int, *parts: bytes) -> bytes:
    """Attributes within an attribute."""
    return attribute(kind | NESTED, b"".join(parts))


def u8(kind: int, value: int) -> bytes:
    """An unsigned byte. Like the other numbers, raises ValueError where the value does not fit."""
    return _packed(_WITH_U8, 5, kind, value)


def u16(kind: int, value: int) -> bytes:
    """An unsigned number of two bytes."""
    return _packed(_WITH_U16, 6, kind, value)


def u32(kind: int, value: int) -> bytes:
    """An unsigned number of four bytes."""
    return _packed(_WITH_U32, 8, kind, value)


def text(kind: int, value: str) -> bytes:
    """Text, closed by NUL."""
    return attribute(kind, os.fsencode(value) + b"\0")


def packed_name(value: str) -> bytes:
    """The bytes of an interface's name. Raises ValueError where the kernel would refuse it or cut it short."""
    encoded = os.fsencode(value)
    if not 0 < len(encoded) <= _LONGEST_NAME or value in (".", "..") or not _NOT_IN_NAMES.isdisjoint(encoded):
        raise ValueError(
            f"{value!r} cannot name an interface: 1 to {_LONGEST_NAME} bytes without '/', ':', '%' and white space"
        )
    return encoded


def interface_name(kind: int, value: str) -> bytes:
    """The name of an interface, see ``packed_name``."""
    return attribute(kind, packed_name(value) + b"\0")


def link_address(value: str | bytes) -> bytes:
    """The six bytes of a MAC such as ``0a:58:0a:f4:00:01``. Raises ValueError for anything else."""
    try:
        packed = value if isinstance(value, bytes) else bytes.fromhex(value.replace(":", ""))
    except ValueError:
        packed = b""
    if len(packed) != 6:
        raise ValueError(f"{value!r} is not a MAC: six bytes, as in 0a:58:0a:f4:00:01")
    return packed


def decode(data: bytes, start: int = 0) -> dict[int, bytes]:
    """The attributes from ``start`` to the end; of a type that comes twice, the last, as in the kernel.

    Raises MalformedMessage.
    """
    found: dict[int, bytes] = {}
    end = len(data)
    unpack = _HEADER.unpack_from
    try:
        while start < end:
            length, kind = unpack(data, start)
            if not 4 <= length <= end - start:
                raise MalformedMessage(f"an attribute of {length} bytes where {end - start} are left")
            found[kind & _TYPE_MASK] = data[start + 4 : start + length]
            start += length + 3 & -4
    except struct.error:
        raise MalformedMessage(f"{end - start} bytes left over after the last attribute") from None
    return found


def decode_all(data: bytes) -> list[tuple[int, bytes]]:
    """The attributes in order, for lists in which a type comes more than once. Raises MalformedMessage."""
    found: list[tuple[int, bytes]] = []
    start = 0
    while start < len(data):
        one = decode(data[start : start + (int.from_bytes(data[start : start + 2], sys.byteorder) + 3 & -4)])
        if not one:
            raise MalformedMessage("an attribute without a length")
        found.extend(one.items())
        start += int.from_bytes(data[start : start + 2], sys.byteorder) + 3 & -4
    return found


def as_u8(value: bytes) -> int:
    """The value of an attribute of one byte."""
    if len(value) != 1:
        raise MalformedMessage(f"{len(value)} bytes where a number of 1 byte is expected")
    return value[0]


def as_u16(value: bytes) -> int:
    """The value of an attribute of two bytes."""
    return _number(_U16, value)


def as_u32(value: bytes) -> int:
    """The value of an attribute of four bytes."""
    return _number(_U32, value)


def as_i32(value: bytes) -> int:
    """The value of a signed attribute of four bytes."""
    return _number(_I32, value)


def as_text(value: bytes) -> str:
    """Text without its closing NUL. Bytes that are no UTF-8 survive, as in file names."""
    return os.fsdecode(value.partition(b"\0")[0])


def as_link_address(value: bytes) -> str:
    """A MAC in the usual spelling; tunnels have link addresses of other lengths."""
    return value.hex(":")


def as_ip_address(value: bytes) -> IPv4Address | IPv6Address:
    """An address of either family, told by its length."""
    if len(value) == 4:
        return IPv4Address(value)
    if len(value) == 16:
        return IPv6Address(value)
    raise MalformedMessage(f"{len(value)} bytes where an IPv4 or IPv6 address is expected")


def _packed(layout: struct.Struct, length: int, kind: int, value: int) -> bytes:
    try:
        return layout.pack(length, kind, value)
    except struct.error:
        largest = (1 << 8 * (length - 4)) - 1
        raise ValueError(f"{value} does not fit attribute {kind}: it takes 0 to {largest}") from None


def _number(layout: struct.Struct, value: bytes) -> int:
    if len(value) != layout.size:
        raise MalformedMessage(f"{len(value)} bytes where a number of {layout.size} bytes is expected")
    number: int = layout.unpack(value)[0]
    return number
