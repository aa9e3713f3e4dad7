"""What this node has promised: attachments, the order in which addresses were given back, the blocks it owns.

One SQLite file in WAL mode, written before the kernel is touched, so that an agent that dies at any line
finds at its next start what it was about. ``synchronous = NORMAL``: a commit outlives the process's death; a
power failure may take the last ones, but it takes every pod's namespace with it.
"""

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

from weft.ipam.ranges import IPAddress, IPNetwork

#: The format of the file, in its user_version. 2 added the second address and the blocks, 3 the pods' names, 4
#: their UIDs and graces.
_FORMAT = 4
_MIGRATIONS = {
    1: "ALTER TABLE attachments ADD COLUMN address6 TEXT;",
    2: "ALTER TABLE attachments ADD COLUMN pod TEXT NOT NULL DEFAULT '';",
    3: "ALTER TABLE attachments ADD COLUMN pod_uid TEXT NOT NULL DEFAULT '';"
    "ALTER TABLE attachments ADD COLUMN termination_grace INTEGER;",
}
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS attachments (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    container_id TEXT NOT NULL,
    ifname TEXT NOT NULL,
    network TEXT NOT NULL,
    host_interface TEXT NOT NULL,
    address TEXT,
    state TEXT NOT NULL,
    created REAL NOT NULL,
    address6 TEXT,
    pod TEXT NOT NULL DEFAULT '',
    pod_uid TEXT NOT NULL DEFAULT '',
    termination_grace INTEGER
);
CREATE UNIQUE INDEX IF NOT EXISTS one_per_interface ON attachments (container_id, ifname)
    WHERE state != 'retiring';
CREATE UNIQUE INDEX IF NOT EXISTS one_per_address ON attachments (address) WHERE address IS NOT NULL;
CREATE UNIQUE INDEX IF NOT EXISTS one_per_address6 ON attachments (address6) WHERE address6 IS NOT NULL;
CREATE TABLE IF NOT EXISTS blocks (block TEXT PRIMARY KEY, sequence INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS released (address TEXT PRIMARY KEY, sequence INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
PRAGMA user_version = {_FORMAT};
"""

_COLUMNS = (
    "id, container_id, ifname, network, host_interface, address, state, created, address6, pod, pod_uid,"
    " termination_grace"
)


class JournalError(Exception):
    """The journal cannot be read or written; the message names the file and the reason."""


class State(StrEnum):
    """The life of an attachment."""

    RESERVED = "reserved"  # the kernel may know parts of it, the runtime has no answer yet
    ATTACHED = "attached"  # the runtime was told
    RETIRING = "retiring"  # the runtime was told that it is gone; the interface may still exist


@dataclass(frozen=True, slots=True)
class Attachment:
    """One interface of one container. The addresses are None where another IPAM plugin keeps them, or where the
    cluster has no range of that family.

    ``created`` is in seconds since the epoch. ``pod`` is NAMESPACE/NAME and ``pod_uid`` the UID where the runtime
    named them; ``termination_grace`` the seconds that the API server gives the pod to end, None where it does not
    know one of this UID (yet, or ever: static pods).
    """

    id: int
    container_id: str
    ifname: str
    network: str
    host_interface: str
    address: IPv4Address | None
    state: State
    created: float
    address6: IPv6Address | None = None
    pod: str = ""
    pod_uid: str = ""
    termination_grace: int | None = None

    @property
    def holder(self) -> str:
        """Who this is, for messages."""
        return f"pod {self.pod} (container {self.container_id})" if self.pod else f"container {self.container_id}"

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        """The addresses that the node's own IPAM gave."""
        return tuple(address for address in (self.address, self.address6) if address is not None)


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
            if version > _FORMAT:
                raise JournalError(
                    f"journal {path}: written by a newer Weft (format {version}, this one reads up to {_FORMAT}): "
                    "start that one again"
                )
            self._migrate(version)
        except (sqlite3.Error, OSError) as error:
            raise JournalError(f"journal {path}: {error}") from error

    def reserve(
        self,
        container_id: str,
        ifname: str,
        network: str,
        host_interface: str,
        address: IPv4Address | None,
        address6: IPv6Address | None = None,
        *,
        pod: str = "",
        pod_uid: str = "",
    ) -> Attachment:
        """Write down an attachment that is about to be made."""
        made = Attachment(
            0,
            container_id,
            ifname,
            network,
            host_interface,
            address,
            State.RESERVED,
            time.time(),
            address6,
            pod,
            pod_uid,
        )
        with self._transaction() as connection:
            cursor = connection.execute(
                "INSERT INTO attachments (container_id, ifname, network, host_interface, address, state, created,"
                " address6, pod, pod_uid) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    container_id,
                    ifname,
                    network,
                    host_interface,
                    None if address is None else str(address),
                    made.state,
                    made.created,
                    None if address6 is None else str(address6),
                    pod,
                    pod_uid,
                ),
            )
        return replace(made, id=cursor.lastrowid or 0)

    def set_state(self, attachment: Attachment, state: State) -> bool:
        """Move an attachment on in its life; False where it is forgotten, or retiring, from where is no way back.

        So of two who retire the same one only the first frees its addresses.
        """
        with self._transaction() as connection:
            changed = connection.execute(
                "UPDATE attachments SET state = ? WHERE id = ? AND state != 'retiring'", (state, attachment.id)
            )
        return changed.rowcount > 0

    def note_termination_grace(self, attachment: Attachment, seconds: int) -> None:
        """The API server knows the attachment's pod, and gives it so long to end."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE attachments SET termination_grace = ? WHERE id = ?", (seconds, attachment.id)
            )

    def forget(self, attachments: Iterable[Attachment]) -> None:
        """Attachments whose interfaces are gone: their addresses go to the end of the queue."""
        with self._transaction() as connection:
            for attachment in attachments:
                connection.execute("DELETE FROM attachments WHERE id = ?", (attachment.id,))
                for address in attachment.addresses:
                    connection.execute(
                        "INSERT OR REPLACE INTO released SELECT ?, coalesce(max(sequence), 0) + 1 FROM released",
                        (str(address),),
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

    def released(self) -> list[IPAddress]:
        """Addresses that were used once and are free, longest-unused first."""
        rows = self._read("SELECT address FROM released ORDER BY sequence")
        return [ip_address(address) for (address,) in rows]

    def blocks(self) -> list[IPNetwork]:
        """This node's blocks, as far as it knows, in the order in which they came."""
        return [ip_network(block) for (block,) in self._read("SELECT block FROM blocks ORDER BY sequence")]

    def add_block(self, block: IPNetwork) -> None:
        """The block is this node's: the store has said so."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO blocks SELECT ?, coalesce(max(sequence), 0) + 1 FROM blocks", (str(block),)
            )

    def drop_block(self, block: IPNetwork) -> None:
        """The block is to be given back, or is another node's: no address of it is remembered."""
        gone = [(str(address),) for address in self.released() if address in block]
        with self._transaction() as connection:
            connection.execute("DELETE FROM blocks WHERE block = ?", (str(block),))
            connection.executemany("DELETE FROM released WHERE address = ?", gone)
        # Written to the disk before the store hears of it: a power failure must not bring the block back.
        self._read("PRAGMA wal_checkpoint(FULL)")

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

    def _migrate(self, version: int) -> None:
        """Bring the file to this format in one transaction, which a crash leaves undone or done."""
        steps = "".join(step for number, step in _MIGRATIONS.items() if 0 < version <= number)
        self._connection.executescript(f"BEGIN; {steps} {_SCHEMA} COMMIT;")

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


def _attachment(row: Any) -> Attachment:
    number, container_id, ifname, network, host_interface, address, state, created, address6, *of_pod = row
    return Attachment(
        number,
        container_id,
        ifname,
        network,
        host_interface,
        None if address is None else IPv4Address(address),
        State(state),
        created,
        None if address6 is None else IPv6Address(address6),
        *of_pod,
    )
