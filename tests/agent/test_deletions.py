"""Deferred DELs: in order, once, before what comes after them, and nothing is lost that fails."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from weft.agent import deletions
from weft.agent.deletions import Deletions
from weft.agent.turns import Turns
from weft.agent.wire import Request, encode_request


def put(folder: Path, name: str, container: str, command: str = "DEL") -> None:
    environment = {"CNI_COMMAND": command, "CNI_CONTAINERID": container, "CNI_IFNAME": "eth0"}
    (folder / name).write_bytes(encode_request(Request("weave-net", environment, b"{}")))


def made(folder: Path, delete: Callable[[str], None]) -> Deletions:
    """``delete`` is given the container."""
    return Deletions(folder, lambda request: delete(request.environment["CNI_CONTAINERID"]), Turns())


def test_all_are_done_in_order_and_removed(tmp_path: Path) -> None:
    for number in (3, 1, 2):
        put(tmp_path, f"100.00000000{number}-7", f"c{number}")
    put(tmp_path, ".100.000000009-7", "half-written")
    seen: list[str] = []
    assert made(tmp_path, seen.append).replay() == 3
    assert seen == ["c1", "c2", "c3"]
    assert [path.name for path in tmp_path.iterdir()] == [".100.000000009-7"]


def fail(container: str) -> None:
    if container == "bad":
        raise RuntimeError("not now")


def test_what_fails_is_kept_for_the_next_time(tmp_path: Path) -> None:
    put(tmp_path, "1", "bad")
    put(tmp_path, "2", "good")
    assert made(tmp_path, fail).replay() == 1
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_what_has_failed_for_a_day_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletions, "PATIENCE", -1.0)
    put(tmp_path, "1", "bad")
    some = made(tmp_path, fail)
    assert some.replay() == 0
    assert [path.name for path in tmp_path.iterdir()] == ["1.bad"]
    assert some.replay() == 0


def test_what_is_no_deletion_is_put_aside_and_never_run(tmp_path: Path) -> None:
    (tmp_path / "1").write_bytes(b"something else")
    put(tmp_path, "2", "c", command="ADD")
    (tmp_path / "folder").mkdir()
    done: list[str] = []
    assert made(tmp_path, done.append).replay() == 0
    assert done == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.bad", "2.bad", "folder"]


def test_no_folder_is_nothing_to_do(tmp_path: Path) -> None:
    none = made(tmp_path / "none", fail)
    assert none.replay() == 0
    none.settle(("c", "eth0"))


def test_only_those_of_one_container_are_settled(tmp_path: Path) -> None:
    for name, container in (("1", "a"), ("2", "b"), ("3", "a")):
        put(tmp_path, name, container)
    seen: list[str] = []
    made(tmp_path, seen.append).settle(("a", "eth0"))
    assert seen == ["a", "a"]
    assert [path.name for path in tmp_path.iterdir()] == ["2"]


def test_one_that_was_settled_while_it_waited_for_its_turn_is_not_done_again(tmp_path: Path) -> None:
    """What has the container's name by then was added after it."""
    put(tmp_path, "1", "a")
    turns, done = Turns(), list[Request]()
    some = Deletions(tmp_path, done.append, turns)
    key = ("a", "eth0")
    with turns.turn(key):
        replaying = threading.Thread(target=some.replay)
        replaying.start()
        # It has read the folder once it waits in the line, or reads it when all is settled.
        some.settle(key)
    replaying.join(20)
    assert len(done) == 1
