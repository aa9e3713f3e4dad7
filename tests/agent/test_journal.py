"""The journal: one holder per address and interface, the order of release, and what outlives a process."""

import signal
import sqlite3
import subprocess
import sys
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_network
from pathlib import Path

import pytest

from weft.agent.journal import Journal, JournalError, State


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.db"


def address(last: int) -> IPv4Address:
    return IPv4Address(f"10.32.0.{last}")


def test_an_address_and_an_interface_have_one_holder(path: Path) -> None:
    journal = Journal(path)
    journal.reserve("a", "eth0", "weave", "vethwepla", address(2))
    for container, ifname, taken in (("a", "eth0", address(3)), ("b", "eth0", address(2))):
        with pytest.raises(JournalError, match="UNIQUE"):
            journal.reserve(container, ifname, "weave", "vethweplb", taken)
    assert [kept.container_id for kept in journal.attachments()] == ["a"]


def test_a_retiring_attachment_keeps_its_address_but_not_its_name(path: Path) -> None:
    journal = Journal(path)
    first = journal.reserve("a", "eth0", "weave", "vethwepla", address(2))
    journal.set_state(first, State.ATTACHED)
    journal.set_state(first, State.RETIRING)
    assert journal.find("a", "eth0") is None
    again = journal.reserve("a", "eth0", "weave", "vethwepla", address(3))
    with pytest.raises(JournalError, match="UNIQUE"):
        journal.reserve("b", "eth0", "weave", "vethweplb", address(2))
    journal.forget([first])
    journal.reserve("b", "eth0", "weave", "vethweplb", address(2))
    assert journal.find("a", "eth0") == again


def test_released_addresses_come_longest_unused_first(path: Path) -> None:
    journal = Journal(path)
    for last in (5, 3, 4, 3):
        journal.forget([journal.reserve("a", "eth0", "weave", "v", address(last))])
    assert journal.released() == [address(5), address(4), address(3)]
    journal.drop_block(IPv4Network("10.32.0.4/31"))
    assert journal.released() == [address(3)]


def test_what_was_written_outlives_a_killed_process(path: Path) -> None:
    program = (
        "import sys, os, signal; from pathlib import Path; from ipaddress import IPv4Address;"
        "from weft.agent.journal import Journal, State\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "kept = journal.reserve('a', 'eth0', 'weave', 'v', IPv4Address('10.32.0.2'))\n"
        "journal.set_state(kept, State.ATTACHED); journal.set_fact('gateway', '10.32.0.1')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    journal = Journal(path)
    found = journal.find("a", "eth0")
    assert found is not None
    assert (found.state, found.address) == (State.ATTACHED, address(2))
    assert journal.fact("gateway") == "10.32.0.1"


def test_only_root_may_read_it(path: Path) -> None:
    Journal(path).close()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_foreign_or_newer_file_is_refused_and_kept(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"something else entirely" * 50)
    with pytest.raises(JournalError, match=str(path)):
        Journal(path)
    assert path.read_bytes().startswith(b"something else")
    path.unlink()
    newer = Journal(path)
    newer._connection.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(
        JournalError, match=r"newer Weft \(format 99, this one reads up to \d+\): start that one again"
    ):
        Journal(path)


def test_a_journal_of_the_first_format_is_taken_over_without_loss(path: Path) -> None:
    path.parent.mkdir()
    old = sqlite3.connect(path)
    old.executescript(
        "CREATE TABLE attachments (id INTEGER PRIMARY KEY AUTOINCREMENT, container_id TEXT NOT NULL, "
        "ifname TEXT NOT NULL, network TEXT NOT NULL, host_interface TEXT NOT NULL, address TEXT, "
        "state TEXT NOT NULL, created REAL NOT NULL);"
        "CREATE UNIQUE INDEX one_per_interface ON attachments (container_id, ifname) WHERE state != 'retiring';"
        "CREATE UNIQUE INDEX one_per_address ON attachments (address) WHERE address IS NOT NULL;"
        "CREATE TABLE released (address TEXT PRIMARY KEY, sequence INTEGER NOT NULL) WITHOUT ROWID;"
        "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;"
        "INSERT INTO attachments VALUES (7, 'c', 'eth0', 'weave', 'v', '10.32.0.2', 'attached', 1.5);"
        "INSERT INTO released VALUES ('10.32.0.9', 1); INSERT INTO facts VALUES ('gateway', '10.32.0.1');"
        "PRAGMA user_version = 1;"
    )
    old.close()
    for _ in range(2):
        journal = Journal(path)
        (kept,) = journal.attachments()
        assert (kept.id, kept.container_id, kept.state, kept.created) == (7, "c", State.ATTACHED, 1.5)
        assert kept.addresses == (address(2),)
        assert journal.released() == [address(9)]
        assert journal.fact("gateway") == "10.32.0.1"
        journal.close()
    journal = Journal(path)
    both = journal.reserve("d", "eth0", "weave", "w", address(3), IPv6Address("fd00::3"), pod="default/web")
    assert journal.find("d", "eth0") == both
    assert both.holder == "pod default/web (container d)"
    with pytest.raises(JournalError, match="UNIQUE"):
        journal.reserve("e", "eth0", "weave", "x", address(4), IPv6Address("fd00::3"))
    journal.forget([both])
    assert journal.released() == [address(9), address(3), IPv6Address("fd00::3")]


def test_a_journal_of_an_earlier_format_is_taken_over_too(path: Path) -> None:
    journal = Journal(path)
    kept = journal.reserve("c", "eth0", "weave", "v", address(2))
    journal._connection.executescript(
        "ALTER TABLE attachments DROP COLUMN pod_uid; ALTER TABLE attachments DROP COLUMN termination_grace;"
        "PRAGMA user_version = 3;"
    )
    journal.close()
    assert Journal(path).attachments() == [kept]
    journal = Journal(path)
    journal._connection.executescript(
        "ALTER TABLE attachments DROP COLUMN pod_uid; ALTER TABLE attachments DROP COLUMN termination_grace;"
        "ALTER TABLE attachments DROP COLUMN pod; PRAGMA user_version = 2;"
    )
    journal.close()
    for _ in range(2):
        assert Journal(path).attachments() == [kept]
    journal = Journal(path)
    journal.reserve("d", "eth0", "weave", "w", address(3), pod="a/b", pod_uid="1-2")
    journal.note_termination_grace(journal.attachments()[1], 45)
    assert [(item.pod, item.pod_uid, item.termination_grace) for item in journal.attachments()] == [
        ("", "", None),
        ("a/b", "1-2", 45),
    ]


def test_who_retires_an_attachment_first_is_told_so(path: Path) -> None:
    journal = Journal(path)
    made = journal.reserve("a", "eth0", "weave", "v", address(2))
    assert journal.set_state(made, State.ATTACHED)
    assert journal.set_state(made, State.RETIRING)
    assert not journal.set_state(made, State.RETIRING)
    assert not journal.set_state(made, State.ATTACHED)
    journal.forget([made])
    assert not journal.set_state(made, State.ATTACHED)


def test_blocks_are_remembered_in_their_order_until_they_are_dropped(path: Path) -> None:
    journal = Journal(path)
    blocks = [ip_network(text) for text in ("10.32.1.0/26", "10.32.0.0/26", "fd00::/120")]
    for block in (*blocks, blocks[0]):
        journal.add_block(block)
    assert Journal(path).blocks() == blocks
    journal.drop_block(blocks[1])
    assert Journal(path).blocks() == [blocks[0], blocks[2]]
