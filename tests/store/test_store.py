"""What every store must do, on every store there is."""

import multiprocessing
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.store.engines import Engine
from weft.store import Compacted, Conflict, Entry, Event, KeyExists, Store, StoreUnavailable, open_store
from weft.store import sqlite as sqlite_store


def test_create_succeeds_once(store: Store) -> None:
    entry = store.create("blocks/a", b"one")
    with pytest.raises(KeyExists, match="blocks/a"):
        store.create("blocks/a", b"two")
    assert store.get("blocks/a") == entry
    assert entry.value == b"one"


def test_replace_and_delete_need_the_present_revision(store: Store) -> None:
    first = store.create("nodes/a", b"1")
    second = store.replace("nodes/a", b"2", first.revision)
    for change in (
        lambda: store.replace("nodes/a", b"3", first.revision),
        lambda: store.delete("nodes/a", first.revision),
        lambda: store.delete("nodes/b", first.revision),
    ):
        with pytest.raises(Conflict, match="nodes/"):
            change()
    assert store.get("nodes/a") == second
    store.delete("nodes/a", second.revision)
    assert store.get("nodes/a") is None


def test_a_listing_holds_one_prefix_in_order_and_knows_its_revision(store: Store) -> None:
    for key in ("nodes/b", "nodes/a", "blocks/x", "nodes%"):
        newest = store.create(key, key.encode())
    listing = store.entries("nodes/")
    assert [entry.key for entry in listing.entries] == ["nodes/a", "nodes/b"]
    assert listing.revision == newest.revision


def collect(store: Store, prefix: str, revision: int, count: int) -> list[Event]:
    events: list[Event] = []
    deadline = time.monotonic() + 10
    for event in store.watch(prefix, revision, lambda: time.monotonic() > deadline):
        events.append(event)
        if len(events) == count:
            break
    return events


def test_a_watch_tells_every_change_after_its_revision_in_order(url: str, store: Store) -> None:
    before = store.create("nodes/a", b"0")
    other = open_store(url)

    def write() -> None:
        other.replace("nodes/a", b"1", before.revision)
        other.create("blocks/x", b"")
        other.delete("nodes/b", other.create("nodes/b", b"2").revision)

    writer = threading.Thread(target=write)
    writer.start()
    events = collect(store, "nodes/", before.revision, 3)
    writer.join()
    other.close()
    assert [(event.key, event.entry and event.entry.value) for event in events] == [
        ("nodes/a", b"1"),
        ("nodes/b", b"2"),
        ("nodes/b", None),
    ]


def test_a_watch_ends_when_told(store: Store) -> None:
    assert list(store.watch("", 0, lambda: True)) == []


def test_a_watch_from_a_forgotten_revision_says_so(engine: Engine, store: Store) -> None:
    first = store.create("blocks/0", b"")
    for number in range(1, 5):
        store.create(f"blocks/{number}", b"")
    engine.forget()
    with pytest.raises(Compacted):
        collect(store, "", first.revision, 1)
    before = store.entries("").revision
    store.create("blocks/5", b"")
    assert [event.key for event in collect(store, "blocks/", before, 1)] == ["blocks/5"]


def test_sqlite_keeps_as_many_changes_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_store, "KEPT_CHANGES", 5)
    store = open_store(f"sqlite://{tmp_path}/store.db")
    for number in range(12):
        store.create(f"k{number}", b"")
    with pytest.raises(Compacted, match="revision 2"):
        collect(store, "", 2, 1)
    assert len(collect(store, "", 7, 5)) == 5
    store.close()


def test_threads_may_share_a_store(store: Store) -> None:
    won: list[int] = []

    def claim() -> None:
        for block in range(30):
            try:
                store.create(f"blocks/{block}", b"the same value")
            except KeyExists:
                continue
            won.append(block)

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == list(range(30))


_KEYS = st.sampled_from(["cluster", "blocks/10.32.0.0-24", "blocks/10.32.1.0-24"])
_VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20).map(str.encode)
_CHANGES = st.lists(
    st.tuples(st.sampled_from(["create", "replace", "delete", "stale"]), _KEYS, _VALUES),
    max_size=25,
)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=_CHANGES)
def test_any_changes_leave_what_a_dictionary_would_and_a_watch_tells_them_all(
    store: Store, changes: list[tuple[str, str, bytes]]
) -> None:
    for entry in store.entries("").entries:
        store.delete(entry.key, entry.revision)
    begin = store.entries("").revision
    model: dict[str, Entry] = {}
    told: list[tuple[str, Entry | None]] = []
    for verb, key, value in changes:
        present = model.get(key)
        revision = present.revision if present else 1
        if verb == "create" and present is None:
            model[key] = store.create(key, value)
        elif verb == "create":
            with pytest.raises(KeyExists):
                store.create(key, value)
            continue
        elif present is None or verb == "stale":
            with pytest.raises(Conflict):
                store.replace(key, value, revision - 1)
            with pytest.raises(Conflict):
                store.delete(key, revision - 1)
            continue
        elif verb == "replace":
            model[key] = store.replace(key, value, revision)
        else:
            store.delete(key, revision)
            del model[key]
        if model.get(key) != present:  # to an API server, the same value again is no change
            told.append((key, model.get(key)))
    listing = store.entries("")
    assert {entry.key: entry for entry in listing.entries} == model
    assert [entry.key for entry in listing.entries] == sorted(model, key=str.encode)
    assert all(store.get(key) == entry for key, entry in model.items())
    if told:
        assert [(event.key, event.entry) for event in collect(store, "", begin, len(told))] == told


def _claim_all(url: str, name: str, blocks: int, results: "multiprocessing.Queue[tuple[str, list[int]]]") -> None:
    store = open_store(url)
    won = []
    for block in range(blocks):
        try:
            store.create(f"blocks/{block}", name.encode())
        except KeyExists:
            continue
        won.append(block)
    store.close()
    results.put((name, won))


def test_processes_that_race_for_a_key_never_both_win(url: str) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    names = ["a", "b", "c"]
    processes = [context.Process(target=_claim_all, args=(url, name, 100, results)) for name in names]
    for process in processes:
        process.start()
    won = dict(results.get(timeout=60) for _ in names)
    for process in processes:
        process.join()
    assert sorted(block for blocks in won.values() for block in blocks) == list(range(100))
    store = open_store(url)
    for name, blocks in won.items():
        assert all(store.get(f"blocks/{block}").value == name.encode() for block in blocks)  # type: ignore[union-attr]
    store.close()


def test_a_file_that_is_no_store_is_unavailable_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"not a database, but somebody's file" * 100)
    content = path.read_bytes()
    with pytest.raises(StoreUnavailable, match="store.db"):
        open_store(f"sqlite://{path}")
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("/var/lib/store.db", "not a URL"),
        ("sqlite://relative.db", "absolute"),
        ("redis://127.0.0.1", "not known"),
    ],
)
def test_a_bad_url_is_named(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        open_store(url)
