"""A store that is opened by the first call that can."""

import threading
from collections.abc import Callable, Iterator

from weft.store.protocol import Entry, Event, Listing, Store


class ReopeningStore:
    """``weft.store.Store`` over one that may not be there yet: every call tries to open it first.

    Whoever uses it can start while the engine is away, and needs nothing but to call again.
    """

    def __init__(self, opener: Callable[[], Store]) -> None:
        """``opener`` raises StoreUnavailable where the engine cannot be reached."""
        self._opener = opener
        self._lock = threading.Lock()
        self._store: Store | None = None

    def get(self, key: str) -> Entry | None:
        return self._open().get(key)

    def entries(self, prefix: str) -> Listing:
        return self._open().entries(prefix)

    def create(self, key: str, value: bytes) -> Entry:
        return self._open().create(key, value)

    def replace(self, key: str, value: bytes, revision: int) -> Entry:
        return self._open().replace(key, value, revision)

    def delete(self, key: str, revision: int) -> None:
        self._open().delete(key, revision)

    def watch(self, prefix: str, revision: int, stopped: Callable[[], bool]) -> Iterator[Event]:
        yield from self._open().watch(prefix, revision, stopped)

    def close(self) -> None:
        with self._lock:
            if self._store is not None:
                self._store.close()

    def _open(self) -> Store:
        with self._lock:
            if self._store is None:
                self._store = self._opener()
            return self._store
