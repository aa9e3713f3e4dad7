"""What is etcd's own: prefixes and marks, outages, lost answers, leases."""

import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import BinaryIO, TypeVar
from uuid import uuid4

import pytest

from tests.namespaces import ip, network_namespace, path
from tests.store.etcd import PORT, Etcd, etcd
from weft.kernel.namespace import NetworkNamespace
from weft.store import (
    Compacted,
    Conflict,
    Event,
    KeyExists,
    PresenceStore,
    Store,
    StoreUnavailable,
    etcd_gateway,
    etcd_watch,
)
from weft.store.etcd import EtcdStore


@pytest.fixture
def server() -> Iterator[Etcd]:
    """An etcd that the test may kill; the test runs in its namespace."""
    with etcd() as made, NetworkNamespace.open(path(made.namespace)) as place, place.entered():
        yield made


@pytest.fixture
def loopback() -> Iterator[None]:
    """The test runs in a namespace with nothing but loopback."""
    with network_namespace() as name, NetworkNamespace.open(path(name)) as place, place.entered():
        ip("link", "set", "lo", "up", namespace=name)
        yield


@pytest.fixture
def opened() -> Iterator[Callable[[str], EtcdStore]]:
    """Opens stores, which are closed after the test."""
    stores: list[EtcdStore] = []

    def opening(url: str) -> EtcdStore:
        stores.append(EtcdStore.open(url))
        return stores[-1]

    yield opening
    for store in stores:
        store.close()


Opened = Callable[[str], EtcdStore]
Answer = TypeVar("Answer")
HERE = f"etcd://127.0.0.1:{PORT}"


def everything(server: Etcd) -> str:
    return server.control("get", "--prefix", "/")


# Prefixes.


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


# Outages.


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
        assert list(store.entries("blocks/").entries) == sorted(claimed, key=lambda entry: entry.key)
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


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nweb\n", "this is not etcd .HTTP status 200: 'web'"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "etcd 3.4 or later with --enable-grpc-gateway"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{", "no answer in time"),
        (b"SSH-2.0-OpenSSH\r\n", "the connection broke"),
        (b"", "the connection broke"),
    ],
)
def test_what_is_not_etcd_is_named(loopback: None, opened: Opened, answer: bytes, said: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            kept = []
            while True:
                try:
                    client = listener.accept()[0]
                except OSError:
                    return
                with client.makefile("rb") as stream:
                    _request(stream)
                client.sendall(answer)
                # Where more is to come, it does not.
                kept.append(client) if b"9999" in answer else client.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with pytest.raises(StoreUnavailable, match=said):
            opened(f"etcd://127.0.0.1:{listener.getsockname()[1]}?timeout=0.5").entries("")
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


# Answers that are lost.


class Thief(threading.Thread):
    """Stands before etcd and swallows some answers: the request is carried out, the connection breaks."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.steals = 0
        #: What happens between a theft and the next attempt.
        self.meanwhile: Callable[[], object] = lambda: None

    def run(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", PORT)) as server, client.makefile("rb") as requests:
            while request := _request(requests):
                server.sendall(request)
                answer = server.recv(1 << 16)
                if self.steals and (b"request_put" in request or b"request_delete" in request):
                    self.steals -= 1
                    self.meanwhile()
                    return
                client.sendall(answer)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def _request(stream: BinaryIO) -> bytes:
    """One HTTP request, whole."""
    head = b""
    length = 0
    while (line := stream.readline()).strip():
        head += line
        name, _, value = line.partition(b":")
        length = int(value) if name.lower() == b"content-length" else length
    return head + line + stream.read(length)


@pytest.fixture
def thief(server: Etcd) -> Iterator[Thief]:
    thief = Thief()
    thief.start()
    with closing(thief):
        yield thief


def test_a_change_whose_answer_was_lost_is_found_to_be_ours(thief: Thief, opened: Opened) -> None:
    store = opened(f"etcd://127.0.0.1:{thief.port}")
    store.get("nodes/a")
    thief.steals = 2
    created = store.create("blocks/a", b"mine")
    assert (thief.steals, store.get("blocks/a")) == (0, created)
    thief.steals = 1
    replaced = store.replace("blocks/a", b"mine still", created.revision)
    assert store.get("blocks/a") == replaced
    with pytest.raises(KeyExists):
        store.create("blocks/a", b"mine still")
    thief.steals = 1
    store.delete("blocks/a", replaced.revision)
    assert store.get("blocks/a") is None


def test_what_another_wrote_meanwhile_is_not_taken_for_ours(thief: Thief, opened: Opened) -> None:
    store, rival = opened(f"etcd://127.0.0.1:{thief.port}"), opened(HERE)
    store.get("nodes/a")

    def take() -> None:
        entry = rival.get("blocks/a")
        assert entry is not None
        rival.delete("blocks/a", entry.revision)
        rival.create("blocks/a", b"the rival's")

    thief.steals, thief.meanwhile = 1, take
    with pytest.raises(KeyExists):
        store.create("blocks/a", b"mine")
    thief.steals, thief.meanwhile = 1, lambda: None
    with pytest.raises(Conflict):
        store.replace("blocks/a", b"mine", 1)


def test_a_claim_that_ended_in_doubt_is_settled_by_the_next_call(thief: Thief, opened: Opened) -> None:
    store, rival = opened(f"etcd://127.0.0.1:{thief.port}?timeout=0.3"), opened(HERE)
    store.get("nodes/a")
    thief.steals = 1000
    with pytest.raises(StoreUnavailable, match="the connection broke"):
        store.create("blocks/a", b"mine")
    thief.steals = 0
    with pytest.raises(KeyExists):
        rival.create("blocks/a", b"the rival's")
    assert store.create("blocks/a", b"mine") == rival.get("blocks/a")
    with pytest.raises(KeyExists):
        store.create("blocks/a", b"mine")


# Presence.


def test_presence_ends_by_itself_and_ownership_does_not(server: Etcd, opened: Opened) -> None:
    store, other = opened(HERE), opened(HERE)
    assert isinstance(store, PresenceStore)
    block = store.create("blocks/a", b"owner")
    first = store.keep_present("presence/a", b"here", 2)
    assert store.keep_present("presence/a", b"here", 2) == first
    moved = store.keep_present("presence/a", b"there", 2)
    assert other.get("presence/a") == moved
    deadline = time.monotonic() + 30
    events = other.watch("presence/", moved.revision, lambda: time.monotonic() > deadline)
    ended = next(events)
    events.close()  # type: ignore[attr-defined]
    assert (ended.key, ended.entry) == ("presence/a", None)
    assert other.get("blocks/a") == block
    assert store.keep_present("presence/a", b"back", 2) == other.get("presence/a")
