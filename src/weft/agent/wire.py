"""The wire between launcher and agent, version 1 (docs/launcher-protocol.md)."""

import array
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass

MAGIC = b"WFT1"
LARGEST_ENVIRONMENT = 64 << 10
LARGEST_CONFIGURATION = 1 << 20
LARGEST_OUTPUT = 4 << 20

_REQUEST = struct.Struct("<4sIII")
_ANSWER = struct.Struct("<4sII")
_WITH_NAMESPACE = 1
_CHUNK = 64 << 10
_DESCRIPTORS = 4


class WireError(Exception):
    """The other end does not speak this protocol, or stopped in the middle."""


@dataclass(frozen=True, slots=True)
class Request:
    """One call of a plugin. ``namespace`` is an open descriptor that the receiver owns, or None."""

    plugin: str
    environment: Mapping[str, str]
    configuration: bytes
    namespace: int | None = None


def encode_request(request: Request) -> bytes:
    """The bytes of a request; its descriptor travels beside them. Raises WireError beyond the bounds."""
    strings = [request.plugin, *(f"{name}={value}" for name, value in request.environment.items())]
    environment = b"".join(os.fsencode(text) + b"\0" for text in strings)
    if any("\0" in text for text in strings):
        raise WireError("a NUL in the environment")
    flags = 0 if request.namespace is None else _WITH_NAMESPACE
    _check_sizes(len(environment), len(request.configuration))
    return (
        _REQUEST.pack(MAGIC, len(environment), len(request.configuration), flags)
        + environment
        + request.configuration
    )


def decode_request(data: bytes, namespace: int | None = None) -> Request:
    """A whole request, as it came over the socket or lies in a file. Raises WireError."""
    environment, configuration, flags = _header(data)
    if len(data) != _REQUEST.size + environment + configuration:
        raise WireError(f"a request of {len(data)} bytes that announces {environment} and {configuration}")
    if bool(flags & _WITH_NAMESPACE) != (namespace is not None):
        raise WireError("the namespace's descriptor and its announcement do not agree")
    block = data[_REQUEST.size : _REQUEST.size + environment]
    if not block.endswith(b"\0"):
        raise WireError("an environment without an end")
    plugin, *variables = (os.fsdecode(text) for text in block[:-1].split(b"\0"))
    if not all("=" in variable for variable in variables):
        raise WireError("a variable without a value")
    pairs = dict(variable.split("=", 1) for variable in variables)
    return Request(plugin, pairs, data[_REQUEST.size + environment :], namespace)


def receive_request(connection: socket.socket) -> Request:
    """Read one request; mostly one system call. The caller owns the request's descriptor.

    Raises WireError, and OSError where the connection breaks or the socket's timeout passes; descriptors that
    came are closed then.
    """
    descriptors: list[int] = []
    try:
        data = bytearray()
        wanted = _REQUEST.size
        while len(data) < wanted:
            part, ancillary, flags, _ = connection.recvmsg(
                _CHUNK, socket.CMSG_SPACE(4 * _DESCRIPTORS), socket.MSG_CMSG_CLOEXEC
            )
            for level, kind, payload in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    descriptors += array.array("i", payload[: len(payload) // 4 * 4])
            if not part:
                raise WireError(f"the caller stopped after {len(data)} bytes")
            if flags & socket.MSG_CTRUNC or len(descriptors) > 1:
                raise WireError("more than one descriptor")
            data += part
            if len(data) >= _REQUEST.size:
                environment, configuration, _ = _header(data)
                wanted = _REQUEST.size + environment + configuration
        return decode_request(bytes(data), descriptors[0] if descriptors else None)
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise


def encode_answer(status: int, output: bytes) -> bytes:
    """The bytes of an answer: exit status and what goes to standard output."""
    if not 0 <= status < 256 or len(output) > LARGEST_OUTPUT:
        raise WireError(f"an answer of status {status} and {len(output)} bytes")
    return _ANSWER.pack(MAGIC, status, len(output)) + output


def decode_answer(data: bytes) -> tuple[int, bytes]:
    """Exit status and output. Raises WireError."""
    if len(data) < _ANSWER.size:
        raise WireError(f"an answer of {len(data)} bytes")
    magic, status, length = _ANSWER.unpack_from(data)
    if magic != MAGIC or status > 255 or length != len(data) - _ANSWER.size:
        raise WireError("not an answer")
    return status, data[_ANSWER.size :]


def _header(data: bytes | bytearray) -> tuple[int, int, int]:
    if len(data) < _REQUEST.size:
        raise WireError(f"a request of {len(data)} bytes")
    magic, environment, configuration, flags = _REQUEST.unpack_from(data)
    if magic != MAGIC:
        raise WireError(f"not a request: it begins with {bytes(data[:4])!r}")
    if flags & ~_WITH_NAMESPACE:
        raise WireError(f"unknown flags {flags:#x}")
    _check_sizes(environment, configuration)
    return environment, configuration, flags


def _check_sizes(environment: int, configuration: int) -> None:
    if not 0 < environment <= LARGEST_ENVIRONMENT:
        raise WireError(f"an environment of {environment} bytes (at most {LARGEST_ENVIRONMENT})")
    if configuration > LARGEST_CONFIGURATION:
        raise WireError(f"a configuration of {configuration} bytes (at most {LARGEST_CONFIGURATION})")
