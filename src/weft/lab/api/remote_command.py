"""kubectl exec and attach: the streams of one command over one WebSocket (Kubernetes: remotecommand).

In the subprotocols ``v5.channel.k8s.io`` and ``v4.channel.k8s.io`` every message begins with the number of its
channel: 0, 1 and 2 are standard input, output and error, 3 tells how it ended, 4 the size of the terminal, and 255
(v5) that a channel is over.
"""

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import ssl
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.message import Message as HttpMessage
from typing import IO, Any

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Message, Ping
from wsproto.utilities import ProtocolError, generate_accept_token

from weft.lab.api.errors import ApiError

_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_STDIN, _STDOUT, _STDERR, _ENDED, _SIZE, _OVER = 0, 1, 2, 3, 4, 255
#: Bytes that are read at a time, and that may wait to be written to a command.
_PART = 32768
#: Seconds that a client gets to take what it is sent, and to take leave.
_PATIENCE, _LEAVE = 300.0, 5.0
#: Seconds of silence after a command has ended, when others still have its output open.
_SILENCE = 0.2


@dataclass(frozen=True, slots=True)
class Streams:
    """Which of a command's streams the client asks for."""

    stdin: bool
    tty: bool
    #: Whether its exit status is one of them: who attaches reads that in the pod's status.
    status: bool = True

    @classmethod
    def of(cls, query: Mapping[str, str], *, status: bool) -> "Streams":
        """As a query says."""
        stdin, tty = (query.get(name, "") in ("1", "true") for name in ("stdin", "tty"))
        return cls(stdin, tty, status)


def handshake(headers: HttpMessage) -> dict[str, str]:
    """The headers that answer a client's (RFC 6455). Raises ApiError for one that speaks something else."""
    offered = [word.strip() for word in headers.get("Sec-WebSocket-Protocol", "").split(",")]
    agreed = next((name for name in _PROTOCOLS if name in offered), None)
    if headers.get("Upgrade", "").lower() != "websocket" or agreed is None:
        raise ApiError(
            "BadRequest",
            "a lab speaks WebSocket here, as kubectl does from 1.31 on: take that, or 'weft lab exec POD -- …'",
        )
    return {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Accept": generate_accept_token(headers["Sec-WebSocket-Key"].encode()).decode(),
        "Sec-WebSocket-Protocol": agreed,
    }


def run(
    connection: socket.socket, command: Sequence[str], environment: Mapping[str, str], streams: Streams
) -> int:
    """Run a command until it ends or the client goes; its exit status, -1 where it was cut off."""
    session = _Session(connection, command, environment, streams)
    try:
        return session.run()
    except (OSError, ProtocolError):
        return -1  # the client is gone
    finally:
        session.close()


class _Session:
    """One thread does all of it: a TLS connection is not for two at once."""

    def __init__(
        self, connection: socket.socket, command: Sequence[str], environment: Mapping[str, str], streams: Streams
    ) -> None:
        self._connection = connection
        self._protocol = Connection(ConnectionType.SERVER)
        self._message = b""
        self._input = bytearray()
        self._input_over = not streams.stdin
        self._tty = streams.tty
        self._tells_status = streams.status
        self._sources: dict[int, int] = {}
        self._sink: int | None = None
        self._process = self._start(command, environment)
        self._gone = False

    def _start(self, command: Sequence[str], environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        if self._tty:
            own, theirs = os.openpty()
            words = ["setsid", "--ctty", *command]
            process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
            os.close(theirs)
            self._sources, self._sink = {own: _STDOUT}, own
        else:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL if self._input_over else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
            self._sources = {_taken(process.stdout): _STDOUT, _taken(process.stderr): _STDERR}
            self._sink = _taken(process.stdin) if process.stdin else None
        if self._sink is not None:
            os.set_blocking(self._sink, False)
        return process

    def run(self) -> int:
        while not self._gone:
            # Asked first: what it said before it ended is there to be passed on.
            status = self._process.poll()
            heard = self._turn()
            if status is not None and (not heard or not self._sources):
                self._leave(status)
                return status
        return -1

    def _turn(self) -> bool:
        """Pass on what is there to be passed on; whether the command said anything."""
        # What a command does not read, its client does not send; that it is gone is seen all the same.
        room = len(self._input) < _PART
        client = self._connection.fileno()
        events = {client: select.POLLRDHUP | (select.POLLIN if room else 0)}
        events |= dict.fromkeys(self._sources, select.POLLIN)
        if self._sink is not None and self._input:
            events[self._sink] = events.get(self._sink, 0) | select.POLLOUT
        poll = select.poll()
        for number, event in events.items():
            poll.register(number, event)
        # What TLS has read already no poll tells.
        waiting = room and isinstance(self._connection, ssl.SSLSocket) and self._connection.pending() > 0
        ready = dict(poll.poll(0 if waiting else 1000 * _SILENCE))
        heard = False
        for number in [number for number in self._sources if ready.get(number, 0) & ~select.POLLOUT]:
            heard |= self._pass_on(number)
        if self._sink is not None and ready.get(self._sink, 0) & (select.POLLOUT | select.POLLERR):
            self._feed()
        if waiting or ready.get(client, 0) & select.POLLIN:
            self._hear()
        elif ready.get(client):
            self._gone = True
        return heard

    def _pass_on(self, number: int) -> bool:
        try:
            data = os.read(number, _PART)
        except BlockingIOError:
            return True
        except OSError:  # a terminal that nobody has open any more
            data = b""
        if not data:
            self._close(number)
            return False
        self._tell(self._sources[number], data)
        return True

    def _feed(self) -> None:
        assert self._sink is not None  # noqa: S101  # it was ready
        try:
            del self._input[: os.write(self._sink, self._input)]
        except BlockingIOError:
            return
        except OSError:  # it does not read any more
            self._input.clear()
            self._close(self._sink)
            return
        if self._input_over and not self._input and not self._tty:
            self._close(self._sink)

    def _hear(self) -> None:
        self._connection.settimeout(0)
        try:
            data = self._connection.recv(_PART)
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        if not data:
            self._gone = True
            return
        self._protocol.receive_data(data)
        for event in self._protocol.events():
            if isinstance(event, Ping):
                self._send(event.response())
            elif isinstance(event, CloseConnection):
                self._gone = True
            elif isinstance(event, BytesMessage):
                self._message += event.data
                if event.message_finished:
                    message, self._message = self._message, b""
                    self._take(message)

    def _take(self, message: bytes) -> None:
        channel, data = message[0] if message else -1, message[1:]
        if channel == _STDIN and not self._input_over:
            self._input += data
        elif channel == _SIZE and self._tty and self._sink is not None:
            size = json.loads(data)
            rows_and_columns = struct.pack("HHHH", size["Height"], size["Width"], 0, 0)
            fcntl.ioctl(self._sink, termios.TIOCSWINSZ, rows_and_columns)
        elif channel == _OVER and data[:1] == bytes([_STDIN]):
            self._input_over = True
            if self._tty:
                self._input += b"\x04"
            elif self._sink is not None and not self._input:
                self._close(self._sink)

    def _tell(self, channel: int, data: bytes) -> None:
        self._send(Message(data=bytes([channel]) + data))

    def _send(self, event: Any) -> None:
        self._connection.settimeout(_PATIENCE)
        self._connection.sendall(self._protocol.send(event))

    def _leave(self, status: int) -> None:
        """Tell how it ended, and wait for the client to go: what it has not read yet would be lost."""
        self._tell(_ENDED, json.dumps(ending(status if self._tells_status else 0)).encode())
        self._send(CloseConnection(1000))
        self._connection.settimeout(_LEAVE)
        with contextlib.suppress(OSError):
            while self._connection.recv(_PART):
                pass

    def _close(self, number: int) -> None:
        os.close(number)
        self._sources.pop(number, None)
        if number == self._sink:
            self._sink = None

    def close(self) -> None:
        """End a command that nobody listens to any more. What one has left running goes on, as in a container."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()
            self._process.wait()
        for number in {*self._sources, *([] if self._sink is None else [self._sink])}:
            self._close(number)


def ending(status: int) -> dict[str, Any]:
    """The Status that says how a command ended."""
    if status == 0:
        return {"metadata": {}, "status": "Success"}
    code = 128 - status if status < 0 else status
    return {
        "metadata": {},
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": f"command terminated with exit code {code}",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


def _taken(stream: IO[bytes] | None) -> int:
    """A stream's descriptor, which is the caller's from now on."""
    assert stream is not None  # noqa: S101  # asked for as PIPE
    number = os.dup(stream.fileno())
    stream.close()
    return number
