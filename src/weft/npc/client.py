"""Asks a node's policy controller over its socket."""

import errno
import os
import socket
import time
from pathlib import Path
from typing import Any

import msgspec

from weft.npc.admissions import Admission
from weft.npc.gate import Unavailable

SOCKET = "policy.sock"
#: Seconds that an answer may take: an ADD waits for labels in it, a look whether there is a controller does not.
TIMEOUT, LOOK_TIMEOUT = 30.0, 1.0
#: Seconds that an ADD waits for a controller that is about to start again, and between two tries.
PATIENCE, _PAUSE = 10.0, 0.05
#: No controller has read the question: nobody listens, or whoever did closed the connection with it unread.
_UNREAD = (errno.ENOENT, errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE)


class Refused(ValueError):
    """The controller has no answer; the message says why."""


def ask(path: Path, verb: str, timeout: float = TIMEOUT, **question: Any) -> Any:
    """The answer. Raises OSError where nobody answers within ``timeout`` seconds, Refused."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        connection.connect(os.fspath(path))
        connection.sendall(msgspec.json.encode({"verb": verb, **question}) + b"\n")
        with connection.makefile("rb") as stream:
            line = stream.readline()
    if not line:
        raise ConnectionResetError(f"{path}: no answer")
    answer = msgspec.json.decode(line, type=dict[str, Any])
    if "error" in answer:
        raise Refused(answer["error"])
    return answer["answer"]


class RemoteEnforcer:
    """``weft.npc.gate.Enforcer`` of a controller in a process of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def admit(self, admission: Admission) -> bool:
        """Waits for a controller that is away for a moment. Raises Unavailable."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return bool(self._ask("admit", **msgspec.to_builtins(admission)))
            except Unavailable as error:
                unread = isinstance(error.__cause__, OSError) and error.__cause__.errno in _UNREAD
                if not unread or time.monotonic() >= deadline:
                    raise
            time.sleep(_PAUSE)

    def dismiss(self, container_id: str, ifname: str) -> None:
        """Raises Unavailable."""
        self._ask("dismiss", container_id=container_id, ifname=ifname)

    def retain(self, valid: frozenset[tuple[str, str]]) -> None:
        """Raises Unavailable."""
        self._ask("retain", valid=sorted(valid))

    def why_closed(self) -> str:
        """Asks for a moment only: runtimes ask for it every few seconds, and wait."""
        try:
            return str(ask(self._path, "closed", LOOK_TIMEOUT))
        except Refused:
            return ""  # an older controller, which does not know the question
        except OSError as error:
            return f"no controller answers at {self._path}: {error.strerror or error}"

    def _ask(self, verb: str, **question: Any) -> Any:
        try:
            return ask(self._path, verb, **question)
        except (OSError, Refused) as error:
            raise Unavailable(f"the policy controller at {self._path}: {error}") from error
