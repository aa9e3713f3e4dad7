"""Deferred DELs: in order, once, and nothing is lost that fails."""

from pathlib import Path

import pytest

from weft.agent import deletions
from weft.agent.wire import Request, encode_request


def put(folder: Path, name: str, container: str, command: str = "DEL") -> None:
    request = Request("weave-net", {"CNI_COMMAND": command, "CNI_CONTAINERID": container}, b"{}")
    (folder / name).write_bytes(encode_request(request))


def test_all_are_done_in_order_and_removed(tmp_path: Path) -> None:
    for number in (3, 1, 2):
        put(tmp_path, f"100.00000000{number}-7", f"c{number}")
    put(tmp_path, ".100.000000009-7", "half-written")
    seen: list[str] = []
    assert deletions.replay(tmp_path, lambda request, _: seen.append(request.environment["CNI_CONTAINERID"])) == 3
    assert seen == ["c1", "c2", "c3"]
    assert [path.name for path in tmp_path.iterdir()] == [".100.000000009-7"]


def test_what_fails_is_kept_for_the_next_time(tmp_path: Path) -> None:
    put(tmp_path, "1", "bad")
    put(tmp_path, "2", "good")

    def delete(request: Request, written: float) -> None:
        assert written > 0
        if request.environment["CNI_CONTAINERID"] == "bad":
            raise RuntimeError("not now")

    assert deletions.replay(tmp_path, delete) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_what_has_failed_for_a_day_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletions, "PATIENCE", -1.0)
    put(tmp_path, "1", "bad")

    def delete(request: Request, written: float) -> None:
        raise RuntimeError("never")

    assert deletions.replay(tmp_path, delete) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["1.bad"]
    assert deletions.replay(tmp_path, delete) == 0


def test_what_is_no_deletion_is_put_aside_and_never_run(tmp_path: Path) -> None:
    (tmp_path / "1").write_bytes(b"something else")
    put(tmp_path, "2", "c", command="ADD")
    (tmp_path / "folder").mkdir()
    done: list[Request] = []
    assert deletions.replay(tmp_path, lambda request, _: done.append(request)) == 0
    assert done == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.bad", "2.bad", "folder"]


def test_no_folder_is_nothing_to_do(tmp_path: Path) -> None:
    assert deletions.replay(tmp_path / "none", lambda *_: None) == 0
