"""Answers that are lost on their way, and answers that are not etcd's."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.store.etcd import HERE, Etcd, Opened
from tests.store.thief import Thief, read_request
from weft.store import Conflict, KeyExists, StoreUnavailable


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
                    read_request(stream)
                client.sendall(answer)
                # Where more is to come, it does not.
                kept.append(client) if b"9999" in answer else client.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with pytest.raises(StoreUnavailable, match=said):
            opened(f"etcd://127.0.0.1:{listener.getsockname()[1]}?timeout=0.5").entries("")
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
