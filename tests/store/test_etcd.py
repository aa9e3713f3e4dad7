"""What is etcd's own: prefixes and their marks, leases."""

import shutil
import threading
import time

import pytest

from tests.store.etcd import HERE, Etcd, Opened
from weft.store import KeyExists, PresenceStore, StoreUnavailable


def everything(server: Etcd) -> str:
    return server.control("get", "--prefix", "/")


def test_keys_of_others_are_not_touched(server: Etcd, opened: Opened) -> None:
    server.control("put", "/registry/pods/a", "theirs")
    server.control("put", "/weft", "not a mark")
    before = everything(server)
    with pytest.raises(
        StoreUnavailable, match="prefix /registry holds keys that are not Weft's, such as /registry/"
    ):
        opened(f"{HERE}/registry").create("blocks/a", b"")
    with pytest.raises(StoreUnavailable, match="key /weft is not Weft's: give another prefix"):
        opened(HERE).entries("")
    assert everything(server) == before


def test_a_prefix_belongs_to_one_cluster(server: Etcd, opened: Opened) -> None:
    opened(f"{HERE}/net?cluster=blue").create("blocks/a", b"blue's")
    before = everything(server)
    with pytest.raises(StoreUnavailable, match="belongs to the Weft cluster 'blue', not to 'green'"):
        opened(f"{HERE}/net?cluster=green").create("blocks/b", b"")
    with pytest.raises(StoreUnavailable, match="/net/green lies inside of /net, which belongs to another"):
        opened(f"{HERE}/net/green").create("blocks/b", b"")
    assert everything(server) == before
    opened(f"{HERE}/net").get("blocks/a")
    beside = opened(f"{HERE}/network")
    beside.create("blocks/a", b"another's")
    assert [entry.value for entry in beside.entries("").entries] == [b"another's"]


def test_a_cluster_begins_once(server: Etcd, opened: Opened) -> None:
    stores = [opened(HERE) for _ in range(6)]
    won: list[int] = []

    def begin(number: int) -> None:
        try:
            stores[number].create("cluster", str(number).encode())
        except KeyExists:
            return
        won.append(number)

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(len(stores))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert {store.get("cluster") for store in stores} == {stores[0].get("cluster")}


def test_a_wiped_etcd_is_not_an_empty_store(server: Etcd, opened: Opened) -> None:
    store = opened(f"{HERE}?timeout=2")
    entry = store.create("nodes/a", b"")
    server.kill()
    shutil.rmtree(server.folder / "data")
    server.start()
    for call in (
        lambda: store.entries(""),
        lambda: store.get("nodes/a"),
        lambda: store.create("blocks/a", b""),
        lambda: store.replace("nodes/a", b"", entry.revision),
        lambda: next(store.watch("", entry.revision, lambda: False)),
    ):
        with pytest.raises(StoreUnavailable, match="prefix /weft is not this cluster's there"):
            call()
    assert everything(server) == ""


def test_another_etcd_among_the_endpoints_is_never_written_to(server: Etcd, opened: Opened) -> None:
    stranger = Etcd(server.namespace, server.folder / "stranger", host="127.0.0.2")
    try:
        stranger.start()
        opened("etcd://127.0.0.2").create("blocks/a", b"the stranger's")
        before = everything(stranger)
        store = opened("etcd://127.0.0.1,127.0.0.2?timeout=1")
        store.create("nodes/a", b"")
        server.kill()
        with pytest.raises(StoreUnavailable, match="127.0.0.2:2379: prefix /weft is not this cluster's there"):
            store.create("blocks/b", b"")
        with pytest.raises(StoreUnavailable, match="127.0.0.2:2379: prefix /weft"):
            store.entries("")
        assert everything(stranger) == before
    finally:
        stranger.end()


def test_presence_ends_by_itself_and_ownership_does_not(server: Etcd, opened: Opened) -> None:
    store, other = opened(f"{HERE}?presence=3"), opened(HERE)
    assert isinstance(store, PresenceStore)
    block = store.create("blocks/a", b"owner")
    first = store.keep_present("presence/a", b"here")
    assert store.keep_present("presence/a", b"here") == first
    moved = store.keep_present("presence/a", b"there")
    assert other.get("presence/a") == moved
    deadline = time.monotonic() + 30
    events = other.watch("presence/", moved.revision, lambda: time.monotonic() > deadline)
    ended = next(events)
    events.close()  # type: ignore[attr-defined]
    assert (ended.key, ended.entry) == ("presence/a", None)
    assert other.get("blocks/a") == block
    assert store.keep_present("presence/a", b"back") == other.get("presence/a")
