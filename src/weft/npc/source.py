"""Where pods, namespaces and policies come from, behind one small interface."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from weft.policy.objects import Key, Namespace, Pod, Policy


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes that belong together. ``whole``: all there is, and what it does not name is gone.

    ``revision`` is the source's own name for the state after it; ``problems`` are what could not be read.
    """

    pods: tuple[Pod, ...] = ()
    namespaces: tuple[Namespace, ...] = ()
    policies: tuple[Policy, ...] = ()
    gone_pods: tuple[str, ...] = ()
    gone_namespaces: tuple[str, ...] = ()
    gone_policies: tuple[Key, ...] = ()
    whole: bool = False
    revision: str = ""
    problems: tuple[str, ...] = ()


class Source(Protocol):
    """A source of objects. It goes on through failures of its own, and says them in the log."""

    @property
    def trouble(self) -> str:
        """Why nothing is told at present; empty where that is not so."""

    def batches(self, stopped: Callable[[], bool]) -> Iterator[Batch]:
        """A whole batch first, then what changes, until ``stopped()``, which is asked at least twice a second."""
