"""Who had which address when, by the answers that a runtime got. Pure but for its lock."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby, pairwise


@dataclass
class Life:
    """A pod from the answer to its ADD to the call of its DEL, in monotonic seconds; ``until`` is None before."""

    node: str
    container: str
    sandbox: str
    address: str
    since: float
    until: float | None = None


class Ledger:
    """The lives of all pods. Safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lives: list[Life] = []

    def begin(self, life: Life) -> None:
        with self._lock:
            self._lives.append(life)

    def end(self, container: str, now: float) -> None:
        """A DEL is about to be called, or the pod's node was removed from the cluster."""
        with self._lock:
            for life in self._lives:
                if life.container == container and life.until is None:
                    life.until = now

    def alive(self) -> list[Life]:
        with self._lock:
            return [life for life in self._lives if life.until is None]

    def shared_addresses(self) -> list[tuple[Life, Life]]:
        """Pods that had the same address at the same time."""
        with self._lock:
            return overlaps(self._lives)


def overlaps(lives: Iterable[Life]) -> list[tuple[Life, Life]]:
    """Lives that follow each other at one address, where the second began before the first was over."""
    ordered = sorted(lives, key=lambda life: (life.address, life.since))
    return [
        (first, second)
        for _, same in groupby(ordered, key=lambda life: life.address)
        for first, second in pairwise(same)
        if first.until is None or second.since < first.until
    ]
