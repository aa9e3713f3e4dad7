"""A watch that outlives the member that serves it.

A thread reads, so that the one who watches can look up twice a second. When the stream ends, the next one begins
behind the last revision that was seen: by an event, or by a word of progress, which says that there was none until
then.
"""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator

import msgspec
import urllib3
from urllib3.exceptions import HTTPError

from weft.store.etcd_gateway import Gateway
from weft.store.etcd_messages import Message, WatchAnswer, WatchEvent, WatchLine, after, decode
from weft.store.etcd_settings import Endpoint
from weft.store.protocol import Compacted, StoreUnavailable

_log = logging.getLogger(__name__)

#: Seconds between two looks at ``stopped``.
LOOK_INTERVAL = 0.4
#: Seconds before a stream that ended is taken up again.
PAUSE = 0.1
#: Seconds for which a stream must have stood to count as one that served.
STEADY = 1.0
#: What a stream ends with where etcd has forgotten the token; the first also where a role is missing.
_OF_FORGOTTEN_TOKENS = ("permission denied", "invalid auth token")

_WATCH = "/v3/watch"
_LARGEST_READ = 1 << 16

#: Member, its cluster's ID, its revision, the revision that was seen: whether the histories are the same.
IsSameHistory = Callable[[Endpoint, int, int, int], bool]


class _Ended(Exception):
    """The stream is over; the message says why."""


class _Stream:
    """One watch at one member. What was read waits until it is taken."""

    def __init__(self, gateway: Gateway, message: Message) -> None:
        self._gateway = gateway
        self._message = message
        self._read: queue.SimpleQueue[WatchLine | Exception] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._response: urllib3.BaseHTTPResponse | None = None
        self._closed = False
        self.endpoint: Endpoint | None = None
        threading.Thread(target=self._run, name="etcd-watch", daemon=True).start()

    def next(self) -> WatchAnswer | None:
        """The next word, or None where there is none for now. Raises _Ended, StoreUnavailable."""
        try:
            line = self._read.get(timeout=LOOK_INTERVAL)
        except queue.Empty:
            return None
        if isinstance(line, Exception):
            raise line
        if line.error is not None:
            raise _Ended(line.error.message or "no reason given")
        return line.result

    def close(self) -> None:
        """End it. The thread ends on its own, at the latest when its attempt to connect does."""
        with self._lock:
            self._closed = True
            response = self._response
        if response is not None:
            _shut(response)

    def _run(self) -> None:
        try:
            response, self.endpoint = self._gateway.open_stream(_WATCH, self._message)
            with self._lock:
                self._response = response
                closed = self._closed
            try:
                if not closed:
                    self._read_lines(response)
            finally:
                response.close()
        except Exception as error:
            self._read.put(error)

    def _read_lines(self, response: urllib3.BaseHTTPResponse) -> None:
        rest = b""
        try:
            while chunk := response.read1(_LARGEST_READ):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line:
                        self._read.put(decode(line, WatchLine))
        except (HTTPError, OSError, ValueError, msgspec.MsgspecError) as error:
            raise _Ended(str(error)) from None
        raise _Ended("the member ended it")


def follow(
    gateway: Gateway,
    patience: float,
    prefix: bytes,
    revision: int,
    stopped: Callable[[], bool],
    is_same_history: IsSameHistory,
) -> Iterator[WatchEvent]:
    """Changes of keys that begin with the prefix, after a revision, in order, until ``stopped()``.

    Raises Compacted, and StoreUnavailable where no member serves for ``patience`` seconds.
    """
    failing_since: float | None = None
    created: float | None
    while not stopped():
        stream, created = _Stream(gateway, _create_request(prefix, revision)), None
        try:
            while not stopped():
                answer = stream.next()
                if answer is None:
                    continue
                _check(answer, stream, revision, is_same_history)
                created = created or time.monotonic()
                for event in answer.events:
                    # A new stream must not tell again what the last one told.
                    if event.kv.mod_revision > revision:
                        yield event
                revision = _progress(answer, revision)
        except _Ended as ended:
            now = time.monotonic()
            if failing_since is None or (created is not None and now - created > STEADY):
                failing_since = now
            if now - failing_since > patience:
                raise StoreUnavailable(f"etcd: no member serves a watch: {ended}") from None
            _log.debug("etcd: a watch ended (%s); going on behind revision %d", ended, revision)
            if any(said in str(ended) for said in _OF_FORGOTTEN_TOKENS):
                gateway.forget_token()
            if stream.endpoint is not None:
                gateway.leave(stream.endpoint)
            time.sleep(PAUSE)
        finally:
            stream.close()


def _create_request(prefix: bytes, revision: int) -> Message:
    return {
        "create_request": {
            "key": prefix,
            "range_end": after(prefix),
            "start_revision": revision + 1,
            "progress_notify": True,
        }
    }


def _check(answer: WatchAnswer, stream: _Stream, revision: int, is_same_history: IsSameHistory) -> None:
    """Raise what an answer says has gone wrong."""
    if answer.compact_revision:
        raise Compacted(
            f"etcd has forgotten the changes since revision {revision}: it keeps those from "
            f"{answer.compact_revision} on"
        )
    if answer.canceled:
        raise _Ended(answer.cancel_reason or "the member canceled it")
    if (
        answer.created
        and stream.endpoint is not None
        and not is_same_history(stream.endpoint, answer.header.cluster_id, answer.header.revision, revision)
    ):
        raise Compacted(f"etcd's history is another one than that of revision {revision}: it was restored")


def _progress(answer: WatchAnswer, revision: int) -> int:
    """The revision up to which everything has been told."""
    if answer.events:
        return max(revision, answer.events[-1].kv.mod_revision)
    # The header of "created" is the member's revision; what came before it may still be on its way.
    return revision if answer.created else max(revision, answer.header.revision)


def _shut(response: urllib3.BaseHTTPResponse) -> None:
    with contextlib.suppress(ValueError, OSError, RuntimeError):  # it may end by itself meanwhile
        response.shutdown()
