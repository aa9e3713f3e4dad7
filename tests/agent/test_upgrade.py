"""An agent that hangs, ends or is replaced by one of another version."""

import signal
import socket
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.agent.test_agent import address_of, eventually, reaches
from tests.namespaces import ip, path
from tests.nodes import Node, cluster, pod

_FORMAT_2 = (
    "ALTER TABLE attachments DROP COLUMN pod; ALTER TABLE attachments DROP COLUMN pod_uid;"
    "ALTER TABLE attachments DROP COLUMN termination_grace; PRAGMA user_version = 2;"
)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with cluster(tmp_path, ("worker",)) as (made,):
        made.start()
        yield made


def test_an_add_without_an_agent_is_served_by_the_next(node: Node) -> None:
    with pod() as sandbox, ThreadPoolExecutor(1) as threads:
        assert node.kill(signal.SIGTERM) == 0
        waiting = threads.submit(node.add, "a", str(path(sandbox)))
        node.start()
        assert reaches(node.namespace, address_of(waiting.result()))


def test_an_agent_that_hangs_answers_no_add_too_late(node: Node) -> None:
    with pod() as sandbox:
        assert node.agent is not None
        node.agent.send_signal(signal.SIGSTOP)
        threads = Path(f"/proc/{node.agent.pid}/task")
        assert eventually(lambda: all(") T " in (each / "stat").read_text() for each in threads.iterdir()))
        bounded = {"WEFT_DEADLINE": "1"}
        status, error = node.call("ADD", "a", str(path(sandbox)), environment=bounded)
        assert (status, error["code"]) == (1, 11)
        # As a runtime does whose ADD failed.
        node.delete("a", str(path(sandbox)), environment=bounded)
        node.agent.send_signal(signal.SIGCONT)
        assert eventually(lambda: "an ADD that nobody waits for any more" in node.log.read_text())
        deletions = node.folder / "state" / "deletions"
        assert eventually(lambda: not list(deletions.iterdir()))
        assert node.report()["ipam"]["attachments"] == 0
        assert "eth0" not in ip("link", namespace=sandbox)
        node.add("a", str(path(sandbox)))


def test_an_add_whose_caller_gave_up_meanwhile_is_undone(tmp_path: Path) -> None:
    # The policy controller that an ADD waits for never comes, or comes too late.
    with cluster(tmp_path, ("worker",), "--expect-npc", "true") as (node,), pod() as sandbox:
        node.start()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(node.folder / "run" / "policy.sock"))
        listener.listen(8)
        listener.settimeout(20)
        with listener, ThreadPoolExecutor(1) as threads:
            bounded = {"WEFT_DEADLINE": "1"}
            adding = threads.submit(node.call, "ADD", "a", str(path(sandbox)), environment=bounded)
            controller, _ = listener.accept()
            assert adding.result()[1]["code"] == 11
            controller.sendall(b'{"answer": true}\n')
            controller.close()
            dismissing, _ = listener.accept()
            dismissing.sendall(b'{"answer": null}\n')
            dismissing.close()
        assert eventually(lambda: "an ADD that nobody waits for any more is undone" in node.log.read_text())
        assert node.report()["ipam"]["attachments"] == 0
        assert eventually(lambda: "eth0" not in ip("link", namespace=sandbox))


def test_an_older_journal_is_taken_over_and_a_newer_one_refused(node: Node) -> None:
    journal = node.folder / "state" / "journal.db"
    with pod() as sandbox, pod() as other:
        result = node.add("a", str(path(sandbox)))
        node.kill()
        with sqlite3.connect(journal) as connection:
            connection.executescript(_FORMAT_2)
        node.start()
        assert reaches(node.namespace, address_of(result))
        assert address_of(node.add("b", str(path(other)))) != address_of(result)
        node.kill()
        with sqlite3.connect(journal) as connection:
            connection.executescript("PRAGMA user_version = 99")
        assert node.spawn().wait(timeout=30) == 1
        assert f"weft agent: journal {journal}: written by a newer Weft (format 99" in node.log.read_text()
        # Its pods go on.
        assert reaches(node.namespace, address_of(result))
