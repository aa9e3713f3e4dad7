"""etcd is away, hangs, is full, is restored: calls end, watches go on."""

import shutil
import signal
import threading
import time
from collections.abc import Callable
from typing import TypeVar
from uuid import uuid4

import pytest

from tests.namespaces import path
from tests.store.etcd import HERE, PORT, Etcd, Opened, etcd
from weft.kernel.namespace import NetworkNamespace
from weft.store import (
    Compacted,
    Event,
    Store,
    StoreUnavailable,
    etcd_gateway,
    etcd_watch,
)

Answer = TypeVar("Answer")


def calls(store: Store, revision: int) -> list[Callable[[], object]]:
    return [
        lambda: store.get("nodes/a"),
        lambda: store.entries(""),
        lambda: store.create("blocks/a", b""),
        lambda: store.replace("nodes/a", b"", revision),
        lambda: store.delete("nodes/a", revision),
        lambda: next(store.watch("", revision, lambda: False)),
    ]


def eventually(call: Callable[[], Answer]) -> Answer:
    """What a call answers when the store is there again."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return call()
        except StoreUnavailable:
            assert time.monotonic() < deadline


@pytest.mark.parametrize("outage", [signal.SIGKILL, signal.SIGSTOP])
def test_every_call_ends_while_etcd_is_away_and_succeeds_afterwards(
    server: Etcd, opened: Opened, outage: signal.Signals
) -> None:
    store = opened(f"{HERE}?timeout=0.5")
    entry = store.create("nodes/a", b"1")
    if outage == signal.SIGKILL:
        server.kill()
    else:
        server.suspend()
    for call in calls(store, entry.revision):
        with pytest.raises(StoreUnavailable, match="etcd at 127.0.0.1:2379|no member serves a watch"):
            call()
    if outage == signal.SIGKILL:
        server.start()
        assert eventually(lambda: store.get("nodes/a")) == entry
    else:
        server.resume()
        # What was asked for while it hung may be done by now, in this order.
        left = {item.key for item in eventually(lambda: store.entries("")).entries}
        assert left <= {"nodes/a", "blocks/a"}


def test_a_watch_loses_nothing_when_etcd_is_killed_and_started_again(server: Etcd, opened: Opened) -> None:
    store, writer = opened(HERE), opened(HERE)
    begin = store.entries("").revision
    told: list[Event] = []
    done = threading.Event()

    def follow() -> None:
        # As an agent does: from what was seen last, whenever the store is there.
        revision = begin
        while not done.is_set():
            try:
                for event in store.watch("blocks/", revision, done.is_set):
                    told.append(event)
                    revision = event.revision
            except StoreUnavailable:
                continue

    thread = threading.Thread(target=follow)
    thread.start()
    written = []
    for round_ in range(3):
        written += [writer.create(f"blocks/{round_}-{number}", b"") for number in range(20)]
        server.kill()
        server.start()
    written += [writer.create(f"blocks/last-{number}", b"") for number in range(20)]
    deadline = time.monotonic() + 20
    while len(told) < len(written) and time.monotonic() < deadline:
        time.sleep(0.02)
    done.set()
    thread.join()
    assert [event.entry for event in told] == written


def test_a_full_database_takes_no_claims_and_loses_none(opened: Opened) -> None:
    quota = ("--quota-backend-bytes", str(256 << 10))
    with etcd(*quota) as server, NetworkNamespace.open(path(server.namespace)) as place, place.entered():
        store = opened(HERE)
        claimed = []
        with pytest.raises(StoreUnavailable, match="its database is full.*etcdctl alarm disarm"):
            for number in range(200):
                claimed.append(store.create(f"blocks/{number}", bytes(8 << 10)))
        assert claimed
        kept = {entry.key: entry for entry in store.entries("blocks/").entries}
        # etcd may carry out the one write that fills its database, and refuse it all the same.
        for key in kept.keys() - {entry.key for entry in claimed}:
            assert key == f"blocks/{len(claimed)}"
            del kept[key]
        assert kept == {entry.key: entry for entry in claimed}
        for entry in claimed[:-1]:
            store.delete(entry.key, entry.revision)
        server.control("compaction", "--physical", str(store.entries("").revision))
        server.control("defrag")
        server.control("alarm", "disarm")
        assert store.create(claimed[0].key, b"small").value == b"small"


def test_the_next_endpoint_serves_when_the_first_is_down(server: Etcd, opened: Opened) -> None:
    store = opened(f"etcd://127.0.0.1:1,127.0.0.3,127.0.0.1:{PORT}")
    entry = store.create("nodes/a", b"")
    assert next(store.watch("", 0, lambda: False)).entry == entry
    with pytest.raises(
        StoreUnavailable, match="127.0.0.1:1: Connection refused.*127.0.0.3:2379: Connection refused"
    ):
        opened("etcd://127.0.0.1:1,127.0.0.3?timeout=0.3").get("nodes/a")


def test_a_watch_moves_on_from_a_member_that_is_silent_and_loses_nothing(
    server: Etcd, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_gateway, "STREAM_IDLE", 0.2)
    monkeypatch.setattr(etcd_watch, "STEADY", 0.05)
    store = opened(f"{HERE}?timeout=1")
    begin = store.entries("").revision
    late = threading.Timer(2.5, lambda: store.create("blocks/a", b"late"))
    late.start()
    assert next(store.watch("", begin, lambda: False)).key == "blocks/a"
    late.join()


def test_a_watch_on_which_nothing_happens_outlives_a_compaction(opened: Opened) -> None:
    with (
        etcd("--experimental-watch-progress-notify-interval", "100ms") as server,
        NetworkNamespace.open(path(server.namespace)) as place,
        place.entered(),
    ):
        store, writer = opened(HERE), opened(HERE)
        begin = store.entries("").revision
        told: list[Event] = []
        watching = threading.Thread(target=lambda: told.append(next(store.watch("", begin, lambda: False))))
        watching.start()
        for number in range(20):
            server.control("put", f"/others/{number}", "")
        time.sleep(0.5)  # some words of progress
        server.control("compaction", str(begin + 20))
        server.kill()
        server.start()
        entry = writer.create("blocks/a", b"")
        watching.join(20)
        assert [event.entry for event in told] == [entry]


@pytest.mark.parametrize("asked_before", [False, True])
def test_a_watch_notices_that_etcd_was_restored(server: Etcd, opened: Opened, asked_before: bool) -> None:
    store = opened(HERE)
    kept = store.create("blocks/kept", b"")
    snapshot, data = server.folder / "snapshot", server.folder / "data"
    server.control("snapshot", "save", str(snapshot))
    gone = store.create("blocks/gone", b"")
    server.kill()
    shutil.rmtree(data)
    server.control("snapshot", "restore", str(snapshot), f"--data-dir={data}", "--initial-cluster-token=again")
    server.start()
    if asked_before:
        # By now the new history has as many revisions as the one that was seen.
        assert store.get("blocks/kept") == kept
        while store.create(f"blocks/{uuid4().hex}", b"").revision <= gone.revision:
            pass
    with pytest.raises(Compacted, match="restored"):
        next(store.watch("", gone.revision, lambda: False))
    listing = store.entries("blocks/")
    assert kept in listing.entries
    assert gone not in listing.entries
    entry = store.create("blocks/new", b"")
    assert next(store.watch("", listing.revision, lambda: False)).entry == entry
