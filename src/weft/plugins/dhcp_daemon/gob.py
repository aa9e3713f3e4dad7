"""Go's encoding/gob, as far as net/rpc's messages and the reference daemon's need it (https://pkg.go.dev/encoding/gob).

A stream is a row of messages: definitions of types, and values. Values are read by whatever types the stream
defines, into dict, list, str, bytes, int, float and bool; they are written by types that the caller describes.
Fields that hold the zero of their type are not in the stream: who reads takes what is not there for zero.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class GobError(ValueError):
    """Not a gob stream, or one with what this module does not read."""


@dataclass(frozen=True, slots=True)
class Basic:
    """A type that needs no definition, by its number."""

    number: int


@dataclass(frozen=True, slots=True)
class Slice:
    """A row of elements."""

    element: "Type"


@dataclass(frozen=True, slots=True)
class Structure:
    """Named fields in order."""

    name: str
    fields: tuple[tuple[str, "Type"], ...]


Type = Basic | Slice | Structure

BOOL, INT, UINT, FLOAT, BYTES, STRING = map(Basic, range(1, 7))

#: A message at most, in bytes, and how deep its values may lie in one another.
LARGEST = 4 << 20
_DEEPEST = 32
_FIRST_OWN = 64

# Numbers of the types of which definitions are made (encoding/gob/type.go).
_WIRE_TYPE, _ARRAY, _COMMON, _SLICE, _STRUCT, _FIELD, _FIELDS, _MAP = range(16, 24)


@dataclass(frozen=True, slots=True)
class _Defined:
    """A type of the stream; elements and fields by number."""

    kind: str
    fields: tuple[tuple[str, int], ...] = ()
    element: int = 0
    key: int = 0


_BUILT_IN = {
    _WIRE_TYPE: _Defined("struct", (("array", _ARRAY), ("slice", _SLICE), ("struct", _STRUCT), ("map", _MAP))),
    _ARRAY: _Defined("struct", (("common", _COMMON), ("element", 2), ("length", 2))),
    _COMMON: _Defined("struct", (("name", 6), ("id", 2))),
    _SLICE: _Defined("struct", (("common", _COMMON), ("element", 2))),
    _STRUCT: _Defined("struct", (("common", _COMMON), ("fields", _FIELDS))),
    _FIELD: _Defined("struct", (("name", 6), ("id", 2))),
    _FIELDS: _Defined("slice", element=_FIELD),
    _MAP: _Defined("struct", (("common", _COMMON), ("key", 2), ("element", 2))),
}


class Decoder:
    """Reads one stream."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._types = dict(_BUILT_IN)

    def feed(self, data: bytes) -> list[Any]:
        """Take more of the stream; the values that are whole now. Raises GobError, after which it is of no use."""
        self._buffer += data
        values = []
        while (message := self._take()) is not None:
            reader = _Reader(message, self._types)
            number = reader.integer()
            if number < 0:
                self._types[-number] = _definition(reader.value(_WIRE_TYPE))
                continue
            defined = self._types.get(number)
            if defined is None or defined.kind != "struct":
                reader.unsigned()  # a zero before what is no structure
            values.append(reader.value(number))
        return values

    def _take(self) -> bytes | None:
        """The next whole message."""
        if not self._buffer:
            return None
        first = self._buffer[0]
        size = 1 if first < 0x80 else 1 + 256 - first
        if size > 9:
            raise GobError("a message's length of more than eight bytes")
        if len(self._buffer) < size:
            return None
        length = first if size == 1 else int.from_bytes(self._buffer[1:size], "big")
        if length > LARGEST:
            raise GobError(f"a message of {length} bytes; at most {LARGEST} are read")
        if len(self._buffer) < size + length:
            return None
        message = bytes(self._buffer[size : size + length])
        del self._buffer[: size + length]
        return message


def _definition(wire: Mapping[str, Any]) -> _Defined:
    if (given := wire.get("struct")) is not None:
        fields = ((field.get("name", ""), field.get("id", 0)) for field in given.get("fields", ()))
        return _Defined("struct", tuple(fields))
    if (given := wire.get("slice")) is not None:
        return _Defined("slice", element=given.get("element", 0))
    if (given := wire.get("array")) is not None:
        return _Defined("slice", element=given.get("element", 0))
    if (given := wire.get("map")) is not None:
        return _Defined("map", element=given.get("element", 0), key=given.get("key", 0))
    raise GobError("a type that writes itself")


class _Reader:
    """Reads the values of one message."""

    def __init__(self, data: bytes, types: Mapping[int, _Defined]) -> None:
        self._data = data
        self._types = types
        self._place = 0
        self._depth = 0
        self._basic: Mapping[int, Callable[[], Any]] = {
            BOOL.number: lambda: self.unsigned() != 0,
            INT.number: self.integer,
            UINT.number: self.unsigned,
            FLOAT.number: self._float,
            BYTES.number: self._bytes,
            STRING.number: lambda: self._bytes().decode("utf-8", "replace"),
        }

    def value(self, number: int) -> Any:
        """The value of a type, by its number."""
        if basic := self._basic.get(number):
            return basic()
        defined = self._types.get(number)
        if defined is None:
            raise GobError(f"a value of the unknown type {number}")
        self._depth += 1
        if self._depth > _DEEPEST:
            raise GobError("values that lie too deep in one another")
        try:
            match defined.kind:
                case "struct":
                    return self._structure(defined.fields)
                case "slice":
                    return [self.value(defined.element) for _ in range(self._count())]
                case _:
                    return {
                        str(self.value(defined.key)): self.value(defined.element) for _ in range(self._count())
                    }
        finally:
            self._depth -= 1

    def _structure(self, fields: Sequence[tuple[str, int]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        place = -1
        while step := self.unsigned():
            place += step
            if place >= len(fields):
                raise GobError(f"field {place} of a structure of {len(fields)}")
            name, number = fields[place]
            found[name] = self.value(number)
        return found

    def _count(self) -> int:
        count = self.unsigned()
        if count > len(self._data) - self._place:  # every element takes a byte
            raise GobError(f"{count} elements in a shorter message")
        return count

    def unsigned(self) -> int:
        first = self._byte()
        if first < 0x80:
            return first
        size = 256 - first
        if size > 8:
            raise GobError("a number of more than eight bytes")
        return int.from_bytes(self._raw(size), "big")

    def integer(self) -> int:
        number = self.unsigned()
        return ~(number >> 1) if number & 1 else number >> 1

    def _float(self) -> float:
        # Bytes in reverse, so that round numbers are short.
        (number,) = struct.unpack("<d", self.unsigned().to_bytes(8, "big"))
        return float(number)

    def _bytes(self) -> bytes:
        return self._raw(self.unsigned())

    def _byte(self) -> int:
        return self._raw(1)[0]

    def _raw(self, size: int) -> bytes:
        part = self._data[self._place : self._place + size]
        if len(part) != size:
            raise GobError("a message that ends too early")
        self._place += size
        return part


class Encoder:
    """Writes one stream."""

    def __init__(self) -> None:
        self._numbers: dict[Type, int] = {}

    def encode(self, kind: Structure, value: Mapping[str, Any]) -> bytes:
        """A structure, after the definitions that the stream has not yet. Keys that are missing are zero."""
        definitions: list[bytes] = []
        number = self._number(kind, definitions)
        return b"".join(definitions) + _message(_integer(number) + _encoded(kind, value))

    def _number(self, kind: Type, definitions: list[bytes]) -> int:
        if isinstance(kind, Basic):
            return kind.number
        known = self._numbers.get(kind)
        if known is not None:
            return known
        number = self._numbers[kind] = _FIRST_OWN + len(self._numbers)
        name = kind.name if isinstance(kind, Structure) else ""
        common = _fields(_text(name) if name else b"", _integer(number))
        if isinstance(kind, Slice):
            body = _fields(b"", _fields(common, _integer(self._number(kind.element, definitions))))
        else:
            fields = [
                _fields(_text(field), _integer(self._number(inner, definitions))) for field, inner in kind.fields
            ]
            body = _fields(b"", b"", _fields(common, _unsigned(len(fields)) + b"".join(fields) if fields else b""))
        definitions.append(_message(_integer(-number) + body))
        return number


def _encoded(kind: Type, value: Any) -> bytes:
    """A value; empty where it is the zero of its type, except for structures and what lies in a slice."""
    match kind:
        case Structure():
            parts = []
            for name, inner in kind.fields:
                given = value.get(name)
                parts.append(_encoded(inner, given) if given else b"")
            return _fields(*parts)
        case Slice():
            return _unsigned(len(value)) + b"".join(_encoded(kind.element, item) for item in value)
    if kind == STRING:
        return _text(value)
    if kind == BYTES:
        return _unsigned(len(value)) + bytes(value)
    if kind == BOOL:
        return _unsigned(int(value))
    return _unsigned(value) if kind == UINT else _integer(value)


def _fields(*values: bytes) -> bytes:
    """A structure's fields; those without a byte are left out."""
    parts, last = [], -1
    for place, value in enumerate(values):
        if value:
            parts += [_unsigned(place - last), value]
            last = place
    return b"".join(parts) + b"\0"


def _message(content: bytes) -> bytes:
    return _unsigned(len(content)) + content


def _text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogateescape")
    return _unsigned(len(data)) + data


def _integer(value: int) -> bytes:
    return _unsigned(~value << 1 | 1 if value < 0 else value << 1)


def _unsigned(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    size = (value.bit_length() + 7) // 8
    return bytes((256 - size,)) + value.to_bytes(size, "big")
