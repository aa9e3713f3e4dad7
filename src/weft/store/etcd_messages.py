"""The messages of etcd's JSON gateway that Weft uses.

Source: https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/ and etcdserverpb/rpc.proto. Keys and values are
base64, 64-bit numbers are strings, fields with their zero value are left out; msgspec decodes all three by type
(``decode`` is not strict for that reason).
"""

from typing import Any, TypeVar

import msgspec


class Header(msgspec.Struct, frozen=True):
    """What every answer begins with; ``revision`` is the store's at that time."""

    cluster_id: int = 0
    revision: int = 0


class KeyValue(msgspec.Struct, frozen=True):
    """A key with its history: when it was created, when it was changed last."""

    key: bytes = b""
    value: bytes = b""
    create_revision: int = 0
    mod_revision: int = 0


class RangeAnswer(msgspec.Struct, frozen=True):
    """The keys of a range."""

    header: Header = Header()
    kvs: tuple[KeyValue, ...] = ()


class OperationAnswer(msgspec.Struct, frozen=True):
    """What one operation of a transaction gave; puts and deletions say nothing that we need."""

    response_range: RangeAnswer | None = None

    @property
    def kvs(self) -> tuple[KeyValue, ...]:
        """The keys that a range gave."""
        return self.response_range.kvs if self.response_range else ()


class TxnAnswer(msgspec.Struct, frozen=True):
    """Which branch was taken, and what its operations gave."""

    header: Header = Header()
    succeeded: bool = False
    responses: tuple[OperationAnswer, ...] = ()


class WatchEvent(msgspec.Struct, frozen=True):
    """One change: PUT or DELETE."""

    kv: KeyValue
    type: str = "PUT"


class WatchAnswer(msgspec.Struct, frozen=True):
    """One word of a watch: that it is there, that it is over, or changes; nothing but a header is progress."""

    header: Header = Header()
    created: bool = False
    canceled: bool = False
    compact_revision: int = 0
    cancel_reason: str = ""
    events: tuple[WatchEvent, ...] = ()


class StreamError(msgspec.Struct, frozen=True):
    """Why a stream ended; etcd up to 3.5 says ``grpc_code``, later ones ``code``."""

    message: str = ""
    grpc_code: int = 0
    code: int = 0


class WatchLine(msgspec.Struct, frozen=True):
    """A line of a watch."""

    result: WatchAnswer | None = None
    error: StreamError | None = None


class ErrorAnswer(msgspec.Struct, frozen=True):
    """What comes with an HTTP status other than 200; the code is gRPC's."""

    message: str = ""
    code: int = 0


class AuthenticateAnswer(msgspec.Struct, frozen=True):
    """A token for the Authorization header."""

    token: str = ""


class LeaseAnswer(msgspec.Struct, frozen=True, rename={"lease": "ID", "seconds": "TTL"}):
    """A lease and how long it lives from now; 0 seconds where it is gone."""

    lease: int = 0
    seconds: int = 0


class KeepAliveAnswer(msgspec.Struct, frozen=True):
    """The one line of a keep-alive that we read."""

    result: LeaseAnswer = LeaseAnswer()


_Answer = TypeVar("_Answer")

Message = dict[str, Any]


def decode(data: bytes, kind: type[_Answer]) -> _Answer:
    """An answer of etcd. Raises msgspec.MsgspecError where it is none."""
    return msgspec.json.decode(data, type=kind, strict=False)


def encode(message: Message) -> bytes:
    """A request; bytes become base64."""
    return msgspec.json.encode(message)


def after(prefix: bytes) -> bytes:
    """The end of the range of keys that begin with a prefix: the first key behind them all."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def get(key: bytes) -> Message:
    """The operation that reads a key."""
    return {"request_range": {"key": key}}


def value_is(key: bytes, value: bytes) -> Message:
    """The condition that a key has this value."""
    return {"key": key, "target": "VALUE", "result": "EQUAL", "value": value}


def is_absent(key: bytes, end: bytes | None = None) -> Message:
    """The condition that there is no such key, or none in the range up to ``end``."""
    condition: Message = {"key": key, "target": "CREATE", "result": "EQUAL", "create_revision": 0}
    return {**condition, "range_end": end} if end else condition


def is_at(key: bytes, revision: int) -> list[Message]:
    """The conditions that a key is there and was changed last at this revision (0 is that of an absent key)."""
    return [
        {"key": key, "target": "CREATE", "result": "GREATER", "create_revision": 0},
        {"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": revision},
    ]
