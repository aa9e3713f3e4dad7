"""One watch of one collection, read by a thread of its own into a queue."""

import contextlib
import queue
import random
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from weft.kubernetes.client import ApiError, Client, Object, Unreachable

#: Seconds after which a server is asked to end a watch; up to as much again, so that agents do not come together.
WATCH_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Change:
    """``kind`` is ADDED, MODIFIED, DELETED or BOOKMARK; ``version`` is the collection's after it."""

    source: str
    kind: str
    item: Object
    version: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A watch that is over; ``error`` says why."""

    source: str
    error: ApiError | Unreachable


class _Event(msgspec.Struct):
    type: str
    object: Object


class Stream:
    """Watches a collection from a version, and begins anew where the server ends it in good order.

    Changes go to ``into``, and ``Ended`` as the last thing where it fails. ``source`` is told with each.
    """

    def __init__(
        self,
        client: Client,
        source: str,
        path: str,
        version: int,
        into: "queue.SimpleQueue[Change | Ended]",
        *,
        params: Mapping[str, str] | None = None,
        accept: str = "application/json",
    ) -> None:
        self._client = client
        self._source = source
        self._path = path
        self._version = version
        self._into = into
        self._params = dict(params or {})
        self._accept = accept
        self._stopping = threading.Event()
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name=f"watch-{source}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it; a read that is under way too."""
        self._stopping.set()
        with contextlib.suppress(OSError, AttributeError):
            self._socket.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._read()
        except (ApiError, Unreachable) as error:
            if not self._stopping.is_set():
                self._into.put(Ended(self._source, error))

    def _read(self) -> None:
        params = self._params | {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": str(self._version),
            "timeoutSeconds": str(WATCH_SECONDS + random.randrange(WATCH_SECONDS)),  # noqa: S311  # spreads load
        }
        with self._client.stream(self._path, params, self._accept) as answer:
            self._socket = _socket_of(answer)
            if self._stopping.is_set():
                return
            for line in answer.iter_lines():
                if line.strip():
                    self._tell(line)
                if self._stopping.is_set():
                    return

    def _tell(self, line: str) -> None:
        try:
            event = msgspec.json.decode(line, type=_Event)
            if event.type == "ERROR":
                raise ApiError.of(int(event.object.get("code") or 500), msgspec.json.encode(event.object))
            version = int(event.object["metadata"]["resourceVersion"])
        except (msgspec.MsgspecError, KeyError, ValueError) as error:
            raise Unreachable(f"API server {self._client.server}: a watch broke off: {error}") from None
        self._version = version
        self._into.put(Change(self._source, event.type, event.object, version))


def _socket_of(answer: Any) -> socket.socket | None:
    stream = answer.extensions.get("network_stream")
    found: socket.socket | None = stream.get_extra_info("socket") if stream is not None else None
    return found
