"""The store for agents on one machine: a SQLite file in WAL mode, safe for many processes.

A table holds the entries, a second one the latest changes, so that a watch can begin at any recent
revision. SQLite has no notification between processes; ``PRAGMA data_version`` tells in a few
microseconds whether another connection has written (https://www.sqlite.org/pragma.html#pragma_data_version).
"""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from weft.store.protocol import Compacted, Conflict, Entry, Event, KeyExists, Listing, StoreUnavailable

#: Changes that a watch can go back; older ones are forgotten.
KEPT_CHANGES = 10_000
#: Seconds between two looks of a watch.
WATCH_INTERVAL = 0.05
#: Seconds that a call waits for another process's transaction.
BUSY_TIMEOUT = 5.0

_AFTER_EVERY_CHARACTER = "\U0010ffff"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS changes (revision INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, value BLOB);
"""


class SqliteStore:
    """``weft.store.Store`` over one file."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        with _unavailable(path):
            Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._connection = self._connect()
            self._connection.executescript(_SCHEMA)
            Path(path).chmod(0o600)

    def get(self, key: str) -> Entry | None:
        with self._transaction("DEFERRED") as connection:
            row = connection.execute("SELECT key, value, revision FROM entries WHERE key = ?", (key,)).fetchone()
        return Entry(*row) if row else None

    def entries(self, prefix: str) -> Listing:
        with self._transaction("DEFERRED") as connection:
            rows = connection.execute(
                "SELECT key, value, revision FROM entries WHERE key >= ? AND key < ? ORDER BY key",
                (prefix, prefix + _AFTER_EVERY_CHARACTER),
            ).fetchall()
            revision = _newest_revision(connection)
        return Listing(tuple(Entry(*row) for row in rows), revision)

    def create(self, key: str, value: bytes) -> Entry:
        with self._transaction("IMMEDIATE") as connection:
            if connection.execute("SELECT 1 FROM entries WHERE key = ?", (key,)).fetchone():
                raise KeyExists(f"{key} exists")
            return self._write(connection, key, value)

    def replace(self, key: str, value: bytes, revision: int) -> Entry:
        with self._transaction("IMMEDIATE") as connection:
            self._expect(connection, key, revision)
            return self._write(connection, key, value)

    def delete(self, key: str, revision: int) -> None:
        with self._transaction("IMMEDIATE") as connection:
            self._expect(connection, key, revision)
            connection.execute("DELETE FROM entries WHERE key = ?", (key,))
            self._record(connection, key, None)

    def watch(self, prefix: str, revision: int, stopped: Callable[[], bool]) -> Iterator[Event]:
        with _unavailable(self._path):
            connection = self._connect()
        try:
            version = None
            while not stopped():
                with _unavailable(self._path):
                    newest = connection.execute("PRAGMA data_version").fetchone()[0]
                    events = [] if newest == version else self._changes(connection, revision)
                version = newest
                for event in events:
                    revision = event.revision
                    if event.key.startswith(prefix):
                        yield event
                if not events:
                    time.sleep(WATCH_INTERVAL)
        finally:
            connection.close()

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA journal_mode = WAL")
        # A claim must outlive a power failure: another node may already route by it.
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    @contextmanager
    def _transaction(self, kind: str) -> Iterator[sqlite3.Connection]:
        with self._lock, _unavailable(self._path):
            self._connection.execute(f"BEGIN {kind}")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    @staticmethod
    def _expect(connection: sqlite3.Connection, key: str, revision: int) -> None:
        row = connection.execute("SELECT revision FROM entries WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise Conflict(f"{key} is gone (expected revision {revision})")
        if row[0] != revision:
            raise Conflict(f"{key} is at revision {row[0]}, expected {revision}")

    @classmethod
    def _write(cls, connection: sqlite3.Connection, key: str, value: bytes) -> Entry:
        revision = cls._record(connection, key, value)
        connection.execute("INSERT OR REPLACE INTO entries VALUES (?, ?, ?)", (key, value, revision))
        return Entry(key, value, revision)

    @staticmethod
    def _record(connection: sqlite3.Connection, key: str, value: bytes | None) -> int:
        cursor = connection.execute("INSERT INTO changes (key, value) VALUES (?, ?)", (key, value))
        revision = cursor.lastrowid or 0
        connection.execute("DELETE FROM changes WHERE revision <= ?", (revision - KEPT_CHANGES,))
        return revision

    @staticmethod
    def _changes(connection: sqlite3.Connection, revision: int) -> list[Event]:
        rows = connection.execute(
            "SELECT key, value, revision FROM changes WHERE revision > ? ORDER BY revision", (revision,)
        ).fetchall()
        # Revisions have no holes: a first one that does not follow means that changes were forgotten.
        if rows and rows[0][2] != revision + 1 and _oldest_kept(connection) > revision + 1:
            raise Compacted(f"changes since revision {revision} are forgotten")
        return [
            Event(key, None if value is None else Entry(key, value, number), number) for key, value, number in rows
        ]


def _newest_revision(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'changes'").fetchone()
    return row[0] if row else 0


def _oldest_kept(connection: sqlite3.Connection) -> int:
    oldest: int = connection.execute("SELECT coalesce(min(revision), 0) FROM changes").fetchone()[0]
    return oldest


@contextmanager
def _unavailable(path: str) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StoreUnavailable(f"store {path}: {error}") from error
