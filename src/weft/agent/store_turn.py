"""Whose turn it is to ask the store for what a request needs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from weft.store import StoreUnavailable


class StoreTurn:
    """Requests that need the store ask it one after the other; those that waited find what was got.

    While it is away, one asks and the others are refused at once, since their callers come again. Otherwise all
    workers would wait for it, and requests that need no store, such as DELs that free addresses, for them.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._busy = False
        #: What was said when it was asked last and did not answer, and how often that was.
        self._away = ""
        self._failures = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Wait for the turn and have it. Raises StoreUnavailable where the store has turned out to be away."""
        with self._changed:
            seen = self._failures
            while self._busy:
                if self._away:
                    raise StoreUnavailable(self._away)
                self._changed.wait()
                if self._failures != seen:
                    raise StoreUnavailable(self._away)
            self._busy = True
        try:
            yield
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    @property
    def away(self) -> str:
        """What was said when the store was asked last and did not answer; empty where it did."""
        return self._away

    @contextmanager
    def asking(self) -> Iterator[None]:
        """What is done in this block asks the store: note whether it answers. Only in ``held``."""
        try:
            yield
        except StoreUnavailable as error:
            with self._changed:
                self._away, self._failures = str(error) or "the store is away", self._failures + 1
                self._changed.notify_all()
            raise
        with self._changed:
            self._away = ""
