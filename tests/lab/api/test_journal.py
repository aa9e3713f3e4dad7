"""What the API server keeps on disk: all that it answered for, and nothing that it did not."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.lab.api.errors import ApiError
from weft.lab.api.journal import Journal
from weft.lab.api.kinds import KINDS
from weft.lab.api.storage import Object, Selection, Storage

LEASE = next(kind for kind in KINDS if kind.name == "Lease")
NAMESPACE = next(kind for kind in KINDS if kind.name == "Namespace")


def contents(storage: Storage) -> list[Object]:
    return [item for kind in KINDS for item in storage.list(Selection(kind))[0]]


def numbered(number: int) -> Callable[[Object], Object]:
    return lambda old: old | {"spec": {"n": number}}


@settings(max_examples=30, deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["create", "change", "delete"]))))
def test_a_start_finds_what_was_there(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("journal") / "objects.jsonl"
    storage = Storage(Journal(path))
    for number, (name, verb) in enumerate(steps):
        try:
            if verb == "create":
                storage.create(LEASE, "default", {"metadata": {"name": name}})
            elif verb == "change":
                storage.change(LEASE, "default", name, numbered(number))
            else:
                storage.delete(LEASE, "default", name)
        except ApiError:
            pass
    for again in (Storage(Journal(path)), Storage(Journal(path))):
        assert contents(again) == contents(storage)
        assert again.version == storage.version
        # Watches from before the start must begin anew.
        assert again.forgotten == again.version


def test_a_line_that_was_cut_off_was_never_answered_for(tmp_path: Path) -> None:
    path = tmp_path / "objects.jsonl"
    storage = Storage(Journal(path))
    before = contents(storage)
    storage.create(LEASE, "default", {"metadata": {"name": "half"}})
    path.write_bytes(path.read_bytes()[:-5])
    again = Storage(Journal(path))
    assert contents(again) == before
    assert again.create(LEASE, "default", {"metadata": {"name": "half"}})


def test_a_namespace_that_was_deleted_stays_so_with_what_was_in_it(tmp_path: Path) -> None:
    path = tmp_path / "objects.jsonl"
    storage = Storage(Journal(path))
    storage.create(NAMESPACE, "", {"metadata": {"name": "shop"}})
    storage.create(LEASE, "shop", {"metadata": {"name": "a"}})
    storage.delete(NAMESPACE, "", "shop")
    assert contents(Storage(Journal(path))) == contents(storage)


def test_the_file_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft.lab.api.journal._SPARE_LINES", 20)
    path = tmp_path / "objects.jsonl"
    storage = Storage(Journal(path))
    storage.create(LEASE, "default", {"metadata": {"name": "busy"}})
    for number in range(200):
        storage.change(LEASE, "default", "busy", numbered(number))
    assert len(path.read_bytes().splitlines()) < 40
    assert contents(Storage(Journal(path))) == contents(storage)
