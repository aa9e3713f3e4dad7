"""What namespaces ask for their pods, as the API server tells: metadata alone, known before a pod comes.

It is kept on disk, so that it is known while the server is away, also after a start.
"""

import logging
import queue
import random
import threading
import time
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec

from weft.agent.requests.annotations import that_ask
from weft.kubernetes import ApiError, Change, Client, Ended, Stream, Unreachable
from weft.kubernetes.client import METADATA_ONLY, METADATA_ONLY_LIST
from weft.plugins.files import read_kept, write_kept
from weft.troubles import Concern

_log = logging.getLogger(__name__)

_PATH = "/api/v1/namespaces"
#: Seconds that a pod waits for its namespace to be told.
PATIENCE = 2.0
#: Seconds between two looks at whether to stop.
_INTERVAL = 0.25
#: Seconds before a server that failed is asked again; doubled each time, with chance.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 30.0


class _State(Enum):
    ASKING = "nothing has come yet"
    FOLLOWING = "what changes is told"
    AWAY = "the server does not answer"


class Namespaces:
    """Safe for several threads. ``path`` is the file that it is kept in."""

    def __init__(self, client: Client, path: Path) -> None:
        self._client = client
        self._path = path
        self._changed = threading.Condition()
        self._state = _State.ASKING
        #: Of every namespace what it asks for, which mostly is nothing.
        self._known: dict[str, Mapping[str, str]] = self._read()

    def of(self, name: str) -> Mapping[str, str] | None:
        """What a namespace asks for; None where it is not known, also not in a moment."""
        deadline = time.monotonic() + PATIENCE
        with self._changed:
            while self._may_come(name) and self._changed.wait(deadline - time.monotonic()):
                pass
            return self._known.get(name)

    def any_asks(self) -> bool:
        """Whether any of those that are known asks for something."""
        with self._changed:
            return any(self._known.values())

    def follow(self, stopping: threading.Event, concern: Concern) -> None:
        """Hear of namespaces until told to stop; what is known stays while the server is away, which is the
        concern."""
        pause = 0.0
        while not stopping.is_set():
            try:
                # Any server's cache will do: the watch tells what it lacks. All agents may come at the same time.
                page = self._client.list(_PATH, {"resourceVersion": "0"}, accept=METADATA_ONLY_LIST)
                self._replace({item["metadata"]["name"]: _asked(item) for item in page.items})
                pause = 0.0
                self._take_changes(page.version, stopping, concern)
            except (ApiError, Unreachable) as error:
                self._set(_State.AWAY)
                concern.note(str(error), "what is known counts", refused=error.refused)
                pause = min(_LONGEST_PAUSE, pause * 2 or _FIRST_PAUSE)
                stopping.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311  # spreads load

    def _take_changes(self, version: int, stopping: threading.Event, concern: Concern) -> None:
        """Until told to stop. Raises ApiError, Unreachable where the watch ends."""
        told: queue.SimpleQueue[Change | Ended] = queue.SimpleQueue()
        stream = Stream(self._client, "namespaces", _PATH, version, told, accept=METADATA_ONLY)
        try:
            while not stopping.is_set():
                concern.over()
                try:
                    change = told.get(timeout=_INTERVAL)
                except queue.Empty:
                    continue
                if isinstance(change, Ended):
                    if isinstance(change.error, ApiError) and change.error.expired:
                        stopping.wait(_FIRST_PAUSE)
                        return
                    raise change.error
                self._apply(change)
        finally:
            stream.close()

    def _apply(self, change: Change) -> None:
        if change.kind == "BOOKMARK":
            return
        known = dict(self._known)
        name = change.item["metadata"]["name"]
        if change.kind == "DELETED":
            known.pop(name, None)
        else:
            known[name] = _asked(change.item)
        self._replace(known)

    def _replace(self, known: dict[str, Mapping[str, str]]) -> None:
        with self._changed:
            same = known == self._known
            self._known, self._state = known, _State.FOLLOWING
            self._changed.notify_all()
        if not same:
            try:
                write_kept(self._path, msgspec.json.encode(known))
            except OSError as error:
                _log.warning("what namespaces ask for cannot be kept: %s", error)

    def _set(self, state: _State) -> None:
        with self._changed:
            self._state = state
            self._changed.notify_all()

    def _may_come(self, name: str) -> bool:
        return self._state is _State.ASKING or (self._state is _State.FOLLOWING and name not in self._known)

    def _read(self) -> dict[str, Mapping[str, str]]:
        try:
            return msgspec.json.decode(read_kept(self._path) or b"{}", type=dict[str, Mapping[str, str]])
        except (OSError, msgspec.MsgspecError) as error:
            _log.warning("%s cannot be used (%s); namespaces are unknown until they are told", self._path, error)
            return {}


def _asked(item: Mapping[str, Any]) -> Mapping[str, str]:
    return that_ask(item["metadata"].get("annotations") or {})
