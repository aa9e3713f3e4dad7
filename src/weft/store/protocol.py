"""What Weft asks of an engine that holds the cluster's state.

Five verbs and a watch, the common ground of SQLite, etcd and the Kubernetes API. Ownership of a block is
``create``: it succeeds once, whoever asks. Everything else that changes goes by compare-and-swap on the
entry's revision.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Entry:
    """A key's value. Revisions grow with every change of the store, never within an entry only."""

    key: str
    value: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Listing:
    """The entries below a prefix, in key order, as they were at one revision of the store."""

    entries: tuple[Entry, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class Event:
    """One change: the entry as it became, or None where the key was deleted."""

    key: str
    entry: Entry | None
    revision: int


class StoreError(Exception):
    """What every error of a store is. ``refused``: nobody but an operator mends it."""

    refused = False


class KeyExists(StoreError):
    """``create`` found the key taken."""


class ForeignKey(KeyExists):
    """``create`` found something there that is not ours; the message names it and the mend."""


class Conflict(StoreError):
    """The key is not at the expected revision: somebody else changed or deleted it."""


class Compacted(StoreError):
    """The store has forgotten the changes since that revision: list anew, then watch."""


class StoreUnavailable(StoreError):
    """The engine cannot be reached or refuses to work; the same call may succeed later."""


class StoreRefused(StoreUnavailable):
    """The engine answers, and will not work for this node: a right is missing, or who it is was not believed."""

    refused = True


class Store(Protocol):
    """A store may be used by several threads at once. Every call may raise StoreUnavailable."""

    def get(self, key: str) -> Entry | None:
        """The entry, or None where there is no such key."""

    def entries(self, prefix: str) -> Listing:
        """Everything whose key begins with the prefix."""

    def create(self, key: str, value: bytes) -> Entry:
        """Write a key that must not exist. Raises KeyExists."""

    def replace(self, key: str, value: bytes, revision: int) -> Entry:
        """Write a key that must be at this revision. Raises Conflict."""

    def delete(self, key: str, revision: int) -> None:
        """Delete a key that must be at this revision. Raises Conflict."""

    def watch(self, prefix: str, revision: int, stopped: Callable[[], bool]) -> Iterator[Event]:
        """Changes below the prefix after the revision, in order, until ``stopped()`` is true.

        It asks ``stopped`` at least twice a second. Raises Compacted.
        """

    def close(self) -> None:
        """Let go of the engine; the store cannot be used afterwards."""


@runtime_checkable
class NodeStore(Store, Protocol):
    """A store whose nodes are somebody else's objects, on which their records lie."""

    def is_kept(self, key: str) -> bool:
        """Whether a node is there although its record is not: somebody took the record away by hand."""


@runtime_checkable
class PresenceStore(Store, Protocol):
    """A store that can also tell who is alive. It never decides who owns a block: a node that cannot be reached
    keeps its blocks, because its pods may still run.
    """

    @property
    def presence(self) -> int:
        """Seconds that a sign of life lasts."""

    def keep_present(self, key: str, value: bytes) -> Entry:
        """Have a key with this value that vanishes by itself ``presence`` seconds after the last such call.

        To be called at least three times in that time; each call may be the first.
        """
