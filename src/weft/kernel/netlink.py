"""The rtnetlink socket: messages out, acknowledgements and tables back.

Source: rtnetlink(7), https://docs.kernel.org/userspace-api/netlink/intro.html. The kernel carries out what is sent
before ``send`` returns; a batch in one ``send`` saves the round trips. It is no transaction: after a message that
failed, the next ones are carried out all the same.
"""

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import ClassVar, NamedTuple, Self

from weft.kernel.attributes import MalformedMessage, as_i32, as_text, decode
from weft.kernel.namespace import NetworkNamespace

# Flags of a message (include/uapi/linux/netlink.h).
REQUEST = 0x1
ACK = 0x4
DUMP = 0x300
REPLACE = 0x100
EXCLUSIVE = 0x200
CREATE = 0x400
APPEND = 0x800
_DUMP_INTERRUPTED = 0x10
_CAPPED = 0x100
_ACK_ATTRIBUTES = 0x200

_ERROR = 2
_DONE = 3

_SOL_NETLINK = 270
_CAP_ACK = 10
_EXT_ACK = 11
_STRICT_CHECK = 12

_MESSAGE_ATTRIBUTE = 1

_HEADER = struct.Struct("=IHHII")
_LOST = "the kernel's answer was lost, the outcome is unknown"
_SEQUENCE_MASK = 0xFFFFFFFF
#: More than the kernel ever puts into one datagram of a dump (32 KiB).
_RECEIVE = 1 << 16
# Acknowledgements wait in the socket while the kernel works through a send: about 270 fit its usual buffer.
_MESSAGES_PER_SEND = 100
_BYTES_PER_SEND = 1 << 16
#: MAX_ERRNO of include/linux/err.h.
_LARGEST_ERROR = 4095
#: How often a dump starts anew because the table changed under it.
_DUMP_ATTEMPTS = 50


class Message(NamedTuple):
    """One request, without the header that the socket adds. ``doing`` says in words what it is to do."""

    kind: int
    flags: int
    payload: bytes
    doing: str


class NetlinkError(OSError):
    """The kernel refused a message.

    ``errno`` is its error, ``explanation`` its own words where it has some, ``doing`` what was asked, ``index``
    the message's place in the batch.
    """

    def __init__(self, number: int, explanation: str, doing: str, index: int = 0) -> None:
        super().__init__(number, os.strerror(number))
        self.explanation = explanation
        self.doing = doing
        self.index = index

    @property
    def unknown_kind(self) -> bool:
        """Whether the kernel has no devices of the kind that was asked for."""
        return self.errno == errno.EOPNOTSUPP and self.explanation in ("", "Unknown device type")

    def __str__(self) -> str:
        said = f" ({self.explanation.rstrip('.')})" if self.explanation else ""
        return f"cannot {self.doing}: {self.strerror}{said}"


class Received(NamedTuple):
    """One message from the kernel."""

    kind: int
    flags: int
    sequence: int
    payload: bytes


def batches(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """The messages in groups that one send and the socket's buffer can take."""
    start = size = 0
    for place, message in enumerate(messages):
        size += _HEADER.size + len(message.payload)
        if place > start and (place - start == _MESSAGES_PER_SEND or size > _BYTES_PER_SEND):
            yield messages[start:place]
            start, size = place, _HEADER.size + len(message.payload)
    if messages:
        yield messages[start:]


def split(datagram: bytes) -> Iterator[Received]:
    """The messages of a datagram. Raises MalformedMessage."""
    start, end = 0, len(datagram)
    while end - start >= _HEADER.size:
        length, kind, flags, sequence, _ = _HEADER.unpack_from(datagram, start)
        if length < _HEADER.size or length > end - start:
            raise MalformedMessage(f"a message of {length} bytes where {end - start} are left")
        yield Received(kind, flags, sequence, datagram[start + _HEADER.size : start + length])
        start += length + 3 & ~3
    if start < end:
        raise MalformedMessage(f"{end - start} bytes left over after the last message")


def refusal(reply: Received, doing: str, index: int = 0) -> NetlinkError | None:
    """What an acknowledgement or the end of a dump tells: None for success. Raises MalformedMessage."""
    if len(reply.payload) < 4:
        if reply.kind == _DONE:
            return None
        raise MalformedMessage(f"an acknowledgement of {len(reply.payload)} bytes")
    number = -as_i32(reply.payload[:4])
    if number == 0:
        return None
    if not 0 < number <= _LARGEST_ERROR:
        raise MalformedMessage(f"{number} is no error number")
    explanation = ""
    if reply.flags & _ACK_ATTRIBUTES:
        explanation = as_text(decode(reply.payload, _attributes_start(reply)).get(_MESSAGE_ATTRIBUTE, b""))
    return NetlinkError(number, explanation, doing, index)


def _attributes_start(reply: Received) -> int:
    """Between the error and its attributes an acknowledgement repeats the request, whole or only its header."""
    if reply.kind == _DONE:
        return 4
    if reply.flags & _CAPPED:
        return 4 + _HEADER.size
    if len(reply.payload) < 4 + _HEADER.size:
        raise MalformedMessage(f"an acknowledgement of {len(reply.payload)} bytes")
    length: int = struct.unpack_from("=I", reply.payload, 4)[0]
    return 4 + (length + 3 & ~3)


class NetlinkSocket:
    """A connection to one part of one namespace's kernel. Safe for several threads, which take turns."""

    #: The part, a number of include/uapi/linux/netlink.h.
    protocol: ClassVar[int]

    def __init__(self) -> None:
        """Open in the calling thread's network namespace, to which the socket then belongs for life."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, self.protocol)
        for option in (_CAP_ACK, _EXT_ACK, _STRICT_CHECK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._sequence = 0
        self._lock = threading.Lock()

    @classmethod
    def open_in(cls, namespace: NetworkNamespace) -> Self:
        """Open in another namespace. Raises OSError where that cannot be entered."""
        with namespace.entered():
            return cls()

    def execute(self, messages: Sequence[Message]) -> None:
        """Send a batch. Raises the first NetlinkError once all was answered; other messages may have worked."""
        for outcome in self.attempt(messages):
            if outcome is not None:
                raise outcome

    def attempt(self, messages: Sequence[Message]) -> list[NetlinkError | None]:
        """Send a batch; the outcome of each message, None for success."""
        outcomes: list[NetlinkError | None] = []
        with self._lock:
            for batch in batches(messages):
                outcomes += self._attempt_batch(batch, len(outcomes))
        return outcomes

    def get(self, message: Message) -> bytes:
        """The payload of the one reply to a question. Raises NetlinkError."""
        with self._lock:
            sequence = self._send([message], 0)
            while True:
                for reply in self._receive():
                    if reply.sequence != sequence:
                        continue
                    if reply.kind != _ERROR:
                        return reply.payload
                    if (error := refusal(reply, message.doing)) is not None:
                        raise error

    def dump(self, message: Message) -> list[bytes]:
        """The payloads of a whole table. Raises NetlinkError.

        Where the kernel says that the table changed while it was read, it is read anew.
        """
        with self._lock:
            for _ in range(_DUMP_ATTEMPTS):
                payloads = self._dump_once(message)
                if payloads is not None:
                    return payloads
        raise NetlinkError(errno.EAGAIN, f"changed during each of {_DUMP_ATTEMPTS} readings", message.doing)

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket. Closing twice is fine."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, messages: Sequence[Message], extra_flags: int) -> int:
        """Send all in one datagram; the sequence number of the first."""
        first = sequence = self._sequence + 1 & _SEQUENCE_MASK
        parts: list[bytes] = []
        for kind, flags, payload, _ in messages:
            # Payloads end on four bytes: every builder's header and attributes do.
            parts += (_HEADER.pack(16 + len(payload), kind, flags | extra_flags, sequence, 0), payload)
            sequence = sequence + 1 & _SEQUENCE_MASK
        self._sequence = sequence - 1 & _SEQUENCE_MASK
        self._socket.send(b"".join(parts))
        return first

    def _receive(self, flags: int = 0) -> Iterator[Received]:
        datagram, _, outcome, sender = self._socket.recvmsg(_RECEIVE, 0, flags)
        if outcome & socket.MSG_TRUNC:
            raise MalformedMessage(f"a datagram of more than {_RECEIVE} bytes")
        # Port 0 is the kernel; nobody else has anything to tell us.
        return split(datagram) if sender[0] == 0 else iter(())

    def _attempt_batch(self, batch: Sequence[Message], start: int) -> list[NetlinkError | None]:
        first = self._send(batch, ACK)
        outcomes: dict[int, NetlinkError | None] = {}
        flags = 0
        while len(outcomes) < len(batch):
            try:
                replies = self._receive(flags)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                # Answers were lost. What is left of them is here already: all was carried out when it was sent.
                flags = socket.MSG_DONTWAIT
                continue
            for reply in replies:
                place = reply.sequence - first & _SEQUENCE_MASK
                if reply.kind == _ERROR and place < len(batch):
                    outcomes[place] = refusal(reply, batch[place].doing, start + place)
        return [
            outcomes[place]
            if place in outcomes
            else NetlinkError(errno.ENOBUFS, _LOST, message.doing, start + place)
            for place, message in enumerate(batch)
        ]

    def _dump_once(self, message: Message) -> list[bytes] | None:
        """The payloads, or None where the table changed meanwhile."""
        sequence = self._send([message], DUMP)
        payloads: list[bytes] = []
        interrupted = 0
        while True:
            for reply in self._receive():
                if reply.sequence != sequence:
                    continue
                interrupted |= reply.flags & _DUMP_INTERRUPTED
                if reply.kind not in (_DONE, _ERROR):
                    payloads.append(reply.payload)
                    continue
                if (error := refusal(reply, message.doing)) is not None:
                    raise error
                return None if interrupted else payloads


class RouteSocket(NetlinkSocket):
    """rtnetlink: devices, addresses, routes, neighbours, rules, traffic control."""

    protocol = socket.NETLINK_ROUTE
