"""Who works on which container's interface."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

Key = tuple[str, str]


class Turns:
    """Requests for the same container and interface take turns; all others run side by side."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turns: dict[Key, tuple[threading.Lock, int]] = {}

    @contextmanager
    def turn(self, key: Key) -> Iterator[None]:
        """Wait for the key's turn and hold it."""
        with self._line(key) as lock, lock:
            yield

    @contextmanager
    def attempt(self, key: Key) -> Iterator[bool]:
        """Hold the key's turn if nobody has it; whether it is held."""
        with self._line(key) as lock:
            mine = lock.acquire(blocking=False)
            try:
                yield mine
            finally:
                if mine:
                    lock.release()

    @contextmanager
    def _line(self, key: Key) -> Iterator[threading.Lock]:
        with self._lock:
            lock, waiting = self._turns.get(key, (threading.Lock(), 0))
            self._turns[key] = (lock, waiting + 1)
        try:
            yield lock
        finally:
            with self._lock:
                lock, waiting = self._turns.pop(key)
                if waiting > 1:
                    self._turns[key] = (lock, waiting - 1)
