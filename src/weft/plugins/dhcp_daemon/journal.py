"""The leases that a daemon has promised to keep: one SQLite file, written before the lease is used.

A daemon that dies at any line finds here what to go on with. Times are seconds since the epoch.
"""

import contextlib
import fcntl
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from weft.plugins.dhcp_daemon.keys import Wishes

_SCHEMA = """
CREATE TABLE IF NOT EXISTS leases (
    container_id TEXT NOT NULL,
    network TEXT NOT NULL,
    ifname TEXT NOT NULL,
    netns TEXT NOT NULL,
    device INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    handle BLOB NOT NULL,
    hardware_address BLOB NOT NULL,
    wishes BLOB NOT NULL,
    granted INTEGER NOT NULL,
    message BLOB NOT NULL,
    obtained REAL NOT NULL,
    way BLOB NOT NULL,
    PRIMARY KEY (container_id, network, ifname)
) WITHOUT ROWID;
PRAGMA user_version = 1;
"""
_FORMAT = 1


class JournalError(Exception):
    """The journal cannot be used; the message names the file and the reason."""


@dataclass(frozen=True, slots=True)
class Key:
    """Whose lease it is."""

    container_id: str
    network: str
    ifname: str

    def __str__(self) -> str:
        return f"{self.container_id}/{self.network}/{self.ifname}"


@dataclass(frozen=True, slots=True)
class Record:
    """A lease. ``granted`` is false from the request until the server's answer: then it is only given back.

    ``netns`` is the path that the runtime gave, ``identity`` device and inode of what it stood for, ``handle`` the
    kernel's own name for it, where there is one; ``way`` is the MAC from which the server's answer came.
    """

    key: Key
    netns: str
    identity: tuple[int, int]
    handle: bytes
    hardware_address: bytes
    wishes: Wishes
    granted: bool
    message: bytes
    obtained: float
    way: bytes


class Journal:
    """The journal of one daemon; holds a lock on it."""

    def __init__(self, path: Path) -> None:
        """Raises JournalError, also where another daemon has the journal."""
        self._path = path
        with self._explained():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = path.with_name(f"{path.name}.lock").open("w")
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._lock.close()
                raise JournalError(f"journal {path}: another DHCP daemon has it") from None
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            path.chmod(0o600)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
            if version > _FORMAT:
                raise JournalError(f"journal {path}: written by a newer Weft (format {version})")
            self._connection.executescript(_SCHEMA)

    def write(self, record: Record) -> None:
        """Write a lease down, in place of what was known of it. Raises JournalError."""
        key = record.key
        with self._explained():
            self._connection.execute(
                "INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    key.container_id,
                    key.network,
                    key.ifname,
                    record.netns,
                    *record.identity,
                    record.handle,
                    record.hardware_address,
                    msgspec.json.encode(record.wishes),
                    record.granted,
                    record.message,
                    record.obtained,
                    record.way,
                ),
            )

    def forget(self, key: Key) -> None:
        """Strike a lease out. Raises JournalError."""
        with self._explained():
            self._connection.execute(
                "DELETE FROM leases WHERE container_id = ? AND network = ? AND ifname = ?",
                (key.container_id, key.network, key.ifname),
            )

    def records(self) -> list[Record]:
        """All leases. Raises JournalError."""
        with self._explained():
            rows = self._connection.execute("SELECT * FROM leases").fetchall()
            return [
                Record(
                    Key(container_id, network, ifname),
                    netns,
                    (device, inode),
                    handle,
                    hardware_address,
                    msgspec.json.decode(wishes, type=Wishes),
                    bool(granted),
                    message,
                    obtained,
                    way,
                )
                for (
                    container_id,
                    network,
                    ifname,
                    netns,
                    device,
                    inode,
                    handle,
                    hardware_address,
                    wishes,
                    granted,
                    message,
                    obtained,
                    way,
                ) in rows
            ]

    def close(self) -> None:
        """Close the file and let the lock go."""
        self._connection.close()
        self._lock.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, msgspec.DecodeError) as error:
            raise JournalError(f"journal {self._path}: {error}") from error
