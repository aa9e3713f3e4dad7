"""What this node has promised: attachments and the order in which addresses were given back.

One SQLite file in WAL mode, written before the kernel is touched, so that an agent that dies at any line
finds at its next start what it was about. ``synchronous = NORMAL``: a commit outlives the process's death; a
power failure may take the last ones, but it takes every pod's namespace with it.
"""

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

_SCHEMA = """
CREATE TABLE IF NOT EXISTS attachments (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    container_id TEXT NOT NULL,
    ifname TEXT NOT NULL,
    network TEXT NOT NULL,
    host_interface TEXT NOT NULL,
    address TEXT,
    state TEXT NOT NULL,
    created REAL NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS one_per_interface ON attachments (container_id, ifname)
    WHERE state != 'retiring';
CREATE UNIQUE INDEX IF NOT EXISTS one_per_address ON attachments (address) WHERE address IS NOT NULL;
CREATE TABLE IF NOT EXISTS released (address TEXT PRIMARY KEY, sequence INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
PRAGMA user_version = 1;
"""

_COLUMNS = "id, container_id, ifname, network, host_interface, address, state, created"


class JournalError(Exception):
    """The journal cannot be read or written; the message names the file and the reason."""


class State(StrEnum):
    """The life of an attachment."""

    RESERVED = "reserved"  # the kernel may know parts of it, the runtime has no answer yet
    ATTACHED = "attached"  # the runtime was told
    RETIRING = "retiring"  # the runtime was told that it is gone; the interface may still exist


@dataclass(frozen=True, slots=True)
class Attachment:
    """One interface of one container. ``address`` is None where another IPAM plugin keeps it.

    ``created`` is in seconds since the epoch.
    """

    id: int
    container_id: str
    ifname: str
    network: str
    host_interface: str
    address: IPv4Address | None
    state: State
    created: float


class Journal:
    """The journal of one node. Safe for several threads; one process at a time (see ``daemon``)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            path.chmod(0o600)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
            if version > 1:
                raise JournalError(f"journal {path}: written by a newer Weft (format {version})")
            self._connection.executescript(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise JournalError(f"journal {path}: {error}") from error

    def reserve(
        self, container_id: str, ifname: str, network: str, host_interface: str, address: IPv4Address | None
    ) -> Attachment:
        """Write down an attachment that is about to be made."""
        created = time.time()
        with self._transaction() as connection:
            cursor = connection.execute(
                "INSERT INTO attachments (container_id, ifname, network, host_interface, address, state, created)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    container_id,
                    ifname,
                    network,
                    host_interface,
                    None if address is None else str(address),
                    State.RESERVED,
                    created,
                ),
            )
        row = cursor.lastrowid or 0
        return Attachment(row, container_id, ifname, network, host_interface, address, State.RESERVED, created)

    def set_state(self, attachment: Attachment, state: State) -> None:
        """Move an attachment on in its life."""
        with self._transaction() as connection:
            connection.execute("UPDATE attachments SET state = ? WHERE id = ?", (state, attachment.id))

    def forget(self, attachments: Iterable[Attachment]) -> None:
        """Attachments whose interfaces are gone: their addresses go to the end of the queue."""
        with self._transaction() as connection:
            for attachment in attachments:
                connection.execute("DELETE FROM attachments WHERE id = ?", (attachment.id,))
                if attachment.address is not None:
                    connection.execute(
                        "INSERT OR REPLACE INTO released SELECT ?, coalesce(max(sequence), 0) + 1 FROM released",
                        (str(attachment.address),),
                    )

    def find(self, container_id: str, ifname: str, adopted_id: str = "") -> Attachment | None:
        """The attachment that is reserved or attached under this container and interface.

        ``adopted_id`` is the name under which it was adopted if the journal had been lost.
        """
        row = self._read(
            f"SELECT {_COLUMNS} FROM attachments WHERE state != 'retiring'"  # noqa: S608  # a constant
            " AND (container_id, ifname) IN (VALUES (?, ?), (?, ''))",
            (container_id, ifname, adopted_id),
        )
        return _attachment(row[0]) if row else None

    def attachments(self) -> list[Attachment]:
        """Everything in the journal, oldest first."""
        rows = self._read(f"SELECT {_COLUMNS} FROM attachments ORDER BY id")  # noqa: S608  # a constant
        return [_attachment(row) for row in rows]

    def released(self) -> list[IPv4Address]:
        """Addresses that were used once and are free, longest-unused first."""
        rows = self._read("SELECT address FROM released ORDER BY sequence")
        return [IPv4Address(address) for (address,) in rows]

    def forget_released(self, addresses: Iterable[IPv4Address]) -> None:
        """The addresses belong to another node now."""
        with self._transaction() as connection:
            connection.executemany(
                "DELETE FROM released WHERE address = ?", [(str(address),) for address in addresses]
            )

    def fact(self, name: str) -> str | None:
        """A fact about this node that must outlive the agent."""
        rows = self._read("SELECT value FROM facts WHERE name = ?", (name,))
        return rows[0][0] if rows else None

    def set_fact(self, name: str, value: str) -> None:
        """Write such a fact down."""
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def close(self) -> None:
        """Close the file; its write-ahead log is folded in."""
        with self._lock:
            self._connection.close()

    def _read(self, query: str, values: Sequence[str] = ()) -> list[Any]:
        """One question, which is a transaction of its own."""
        with self._lock:
            try:
                return self._connection.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise JournalError(f"journal {self._path}: {error}") from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._connection.execute("BEGIN")
                try:
                    yield self._connection
                except BaseException:
                    self._connection.execute("ROLLBACK")
                    raise
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                raise JournalError(f"journal {self._path}: {error}") from error


def _attachment(row: tuple[int, str, str, str, str, str | None, str, float]) -> Attachment:
    number, container_id, ifname, network, host_interface, address, state, created = row
    return Attachment(
        number,
        container_id,
        ifname,
        network,
        host_interface,
        None if address is None else IPv4Address(address),
        State(state),
        created,
    )
