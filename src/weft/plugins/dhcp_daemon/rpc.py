"""What plugin and daemon say to each other: Go's net/rpc over HTTP on a unix socket, the reference's protocol.

The caller says ``CONNECT /_goRPC_``, the daemon answers 200, then both speak gob: a header and a body for each
call, a header and a body for each answer. With its first bytes our plugin also passes the pod's network namespace
as a descriptor (SCM_RIGHTS), so that the daemon need not see the path; Go's programs neither send nor notice one.
"""

import array
import contextlib
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from weft.plugins.dhcp_daemon.gob import BYTES, INT, STRING, UINT, Decoder, Encoder, GobError, Slice, Structure

_HELLO = b"CONNECT /_goRPC_ HTTP/1.0\n\n"
_WELCOME = b"HTTP/1.0 200 Connected to Go RPC\n\n"
_LONGEST_HELLO = 8 << 10
_CHUNK = 64 << 10

_REQUEST = Structure("Request", (("ServiceMethod", STRING), ("Seq", UINT)))
_RESPONSE = Structure("Response", (("ServiceMethod", STRING), ("Seq", UINT), ("Error", STRING)))
_NOTHING = Structure("", ())
_ARGUMENTS = Structure(
    "CmdArgs",
    (
        ("ContainerID", STRING),
        ("Netns", STRING),
        ("IfName", STRING),
        ("Args", STRING),
        ("Path", STRING),
        ("StdinData", BYTES),
    ),
)
_NETWORK = Structure("IPNet", (("IP", BYTES), ("Mask", BYTES)))
_ADDRESS = Structure("IPConfig", (("Address", _NETWORK), ("Gateway", BYTES)))
_ROUTE = Structure("Route", (("Dst", _NETWORK), ("GW", BYTES), ("Priority", INT), ("Scope", INT)))
_TEXTS = Slice(STRING)
_DNS = Structure("DNS", (("Nameservers", _TEXTS), ("Domain", STRING), ("Search", _TEXTS), ("Options", _TEXTS)))
_RESULT = Structure("Result", (("IPs", Slice(_ADDRESS)), ("Routes", Slice(_ROUTE)), ("DNS", _DNS)))

#: Get a lease, or say what the one that is there gives; give it up; give up all but the valid attachments'.
ALLOCATE, RELEASE, COLLECT = "DHCP.Allocate", "DHCP.Release", "DHCP.Collect"


class RpcError(Exception):
    """The daemon refused; the message is its own."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """The call of a plugin (skel.CmdArgs of the CNI library); ``configuration`` as it came on standard input."""

    container_id: str
    netns: str
    ifname: str
    args: str
    configuration: bytes


@dataclass(frozen=True, slots=True)
class Call:
    """One call, to be answered with its number."""

    method: str
    number: int
    arguments: Arguments


class ServerConnection:
    """The daemon's side of one connection, without the socket."""

    def __init__(self) -> None:
        self._hello: bytearray | None = bytearray()
        self._decoder = Decoder()
        self._encoder = Encoder()
        self._header: Mapping[str, Any] | None = None
        #: Bytes to be sent.
        self.outgoing = bytearray()

    def feed(self, data: bytes) -> list[Call]:
        """Take what came; the calls that are whole now. Raises GobError where the caller speaks otherwise."""
        if self._hello is not None:
            data = self._greet(data)
        calls = []
        for value in self._decoder.feed(data) if data else ():
            if self._header is None:
                self._header = value
                continue
            header, self._header = self._header, None
            calls.append(_call(header, value))
        return calls

    def answer(self, call: Call, result: Mapping[str, Any] | None) -> None:
        """Answer a call with a result, or with the word that it is done."""
        self._respond({"ServiceMethod": call.method, "Seq": call.number})
        self.outgoing += self._encoder.encode(_NOTHING if result is None else _RESULT, result or {})

    def refuse(self, call: Call, message: str) -> None:
        """Answer a call with an error."""
        self._respond({"ServiceMethod": call.method, "Seq": call.number, "Error": message or "failed"})
        self.outgoing += self._encoder.encode(_NOTHING, {})

    def _respond(self, header: Mapping[str, Any]) -> None:
        self.outgoing += self._encoder.encode(_RESPONSE, header)

    def _greet(self, data: bytes) -> bytes:
        """Take the HTTP request; what came behind it."""
        hello = self._hello = (self._hello or bytearray()) + data
        for end in (b"\r\n\r\n", b"\n\n"):
            head, found, rest = bytes(hello).partition(end)
            if found:
                if not head.startswith(b"CONNECT "):
                    raise GobError("a caller that does not begin with CONNECT")
                self._hello = None
                self.outgoing += _WELCOME
                return rest
        if len(hello) > _LONGEST_HELLO:
            raise GobError("a caller that does not end its HTTP request")
        return b""


def call(
    path: str, method: str, arguments: Arguments, timeout: float, namespace: int | None = None
) -> dict[str, Any]:
    """Call the daemon that listens at ``path``; what it answers, empty where that is nothing.

    ``timeout`` in seconds for each step; ``namespace`` is the pod's, an open descriptor. Raises RpcError, OSError
    where there is no daemon or it goes away, TimeoutError, GobError.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        _greet(connection, path, timeout, namespace)
        encoder, decoder = Encoder(), Decoder()
        body = {
            "ContainerID": arguments.container_id,
            "Netns": arguments.netns,
            "IfName": arguments.ifname,
            "Args": arguments.args,
            "StdinData": arguments.configuration,
        }
        connection.sendall(encoder.encode(_REQUEST, {"ServiceMethod": method}) + encoder.encode(_ARGUMENTS, body))
        answers: list[Any] = []
        while len(answers) < 2:
            data = connection.recv(_CHUNK)
            if not data:
                raise ConnectionResetError("the daemon went away before it answered")
            answers += decoder.feed(data)
    header, result = answers[:2]
    if header.get("Error"):
        raise RpcError(str(header["Error"]))
    return dict(result)


def probe(path: str, timeout: float) -> None:
    """Whether a daemon answers at ``path``. Raises OSError and GobError where none does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        _greet(connection, path, timeout, None)


def _greet(connection: socket.socket, path: str, timeout: float, namespace: int | None) -> None:
    connection.settimeout(timeout)
    connection.connect(path)
    rights = [] if namespace is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [namespace]))]
    connection.sendmsg([_HELLO], rights)
    said = bytearray()
    # Go waits with its first byte of gob until it has read this, and so do we: its server drops what comes before.
    while not said.endswith((b"\n\n", b"\r\n\r\n")):
        data = connection.recv(1)
        if not data or len(said) > _LONGEST_HELLO:
            raise GobError(f"not a DHCP daemon: it says {bytes(said[:100])!r}")
        said += data
    if b" 200 " not in said.partition(b"\n")[0]:
        raise GobError(f"not a DHCP daemon: it says {bytes(said[:100])!r}")


def receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    """What came on a daemon's connection, and descriptors, which the caller owns. Raises OSError."""
    data, ancillary, _, _ = connection.recvmsg(_CHUNK, socket.CMSG_SPACE(4 * 4), socket.MSG_CMSG_CLOEXEC)
    descriptors: list[int] = []
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors += array.array("i", payload[: len(payload) // 4 * 4])
    return data, descriptors


def close_all(descriptors: list[int]) -> None:
    """Close descriptors that nobody wants."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def _call(header: Any, body: Any) -> Call:
    if not isinstance(header, dict) or not isinstance(body, dict):
        raise GobError("a call that is no structure")

    def text(name: str) -> str:
        return str(body.get(name, ""))

    data = body.get("StdinData", b"")
    return Call(
        str(header.get("ServiceMethod", "")),
        int(header.get("Seq", 0)),
        Arguments(
            text("ContainerID"),
            text("Netns"),
            text("IfName"),
            text("Args"),
            data if isinstance(data, bytes) else b"",
        ),
    )
