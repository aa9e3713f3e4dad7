"""The Kubernetes store where it is more than a store: other people's objects, a server's ways to fail."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import certificate, tls_context
from tests.store.engines import KubernetesEngine, kubeconfig, kubernetes
from weft.lab.api import ApiServer
from weft.lab.api.errors import ApiError
from weft.lab.api.kinds import Kind, find
from weft.store import Compacted, Event, ForeignKey, NodeStore, Store, StoreError, StoreUnavailable, open_store
from weft.store.kubernetes import NODE_ANNOTATION


def kind(group: str, plural: str) -> Kind:
    found = find(group, "v1", plural)
    assert found is not None
    return found


NODES = kind("", "nodes")
LEASES = kind("coordination.k8s.io", "leases")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[KubernetesEngine]:
    with kubernetes(tmp_path) as made:
        yield made


@pytest.fixture
def store(engine: KubernetesEngine) -> Iterator[Store]:
    opened = open_store(engine.url)
    yield opened
    opened.close()


class Watch:
    """A watch in a thread, which begins anew as an agent does."""

    def __init__(self, store: Store, revision: int, prefix: str = "") -> None:
        self.events: list[Event] = []
        self.errors: list[StoreError] = []
        self._store, self._revision, self._prefix = store, revision, prefix
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                for event in self._store.watch(self._prefix, self._revision, self._stopping.is_set):
                    self._revision = event.revision
                    self.events.append(event)
            except StoreError as error:
                self.errors.append(error)
                if isinstance(error, Compacted):
                    return

    def await_keys(self, *keys: str) -> None:
        wait_for(lambda: [event.key for event in self.events] == list(keys), lambda: self.events)

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()


def wait_for(true: Callable[[], object], shown: Callable[[], object] = str) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline, shown()
        time.sleep(0.02)


def annotate(engine: KubernetesEngine, name: str, text: str | None) -> None:
    def edit(item: dict[str, Any]) -> dict[str, Any]:
        annotations = item["metadata"].setdefault("annotations", {})
        annotations.pop(NODE_ANNOTATION, None)
        if text is not None:
            annotations[NODE_ANNOTATION] = text
        return item

    engine.server.storage.change(NODES, "", name, edit)


def heartbeat(engine: KubernetesEngine, name: str) -> None:
    """What a kubelet does all the time."""

    def edit(item: dict[str, Any]) -> dict[str, Any]:
        beats = item.get("status", {}).get("beats", 0)
        return item | {"status": {"beats": beats + 1}}

    engine.server.storage.change(NODES, "", name, edit, status=True)


def test_a_claim_is_a_lease_that_names_its_holder(engine: KubernetesEngine, store: Store) -> None:
    store.create("blocks/10.32.0.0-24", b'{"owner":"node01"}')
    lease = engine.server.storage.get(LEASES, "kube-system", "weft-blocks-10.32.0.0-24")
    assert lease["spec"]["holderIdentity"] == "node01"
    assert lease["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "weft"}


def test_a_foreign_lease_of_our_name_is_named_and_left_alone(engine: KubernetesEngine, store: Store) -> None:
    name = "weft-blocks-10.32.0.0-24"
    made = engine.server.storage.create(LEASES, "kube-system", {"metadata": {"name": name}, "spec": {}})
    said = f"lease {name} in namespace kube-system is not Weft's.*delete it"
    with pytest.raises(ForeignKey, match=said):
        store.create("blocks/10.32.0.0-24", b"{}")
    with pytest.raises(StoreError, match=said):
        store.get("blocks/10.32.0.0-24")
    assert engine.server.storage.get(LEASES, "kube-system", name) == made
    assert store.entries("").entries == ()


def test_a_lease_with_our_label_only_is_passed_over(engine: KubernetesEngine, store: Store) -> None:
    labels = {"app.kubernetes.io/managed-by": "weft"}
    engine.server.storage.create(LEASES, "kube-system", {"metadata": {"name": "other", "labels": labels}})
    store.create("blocks/x", b"{}")
    assert [entry.key for entry in store.entries("").entries] == ["blocks/x"]


def test_a_node_that_kubernetes_does_not_know_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="no Node object 'nowhere'.*kubectl get nodes"):
        store.create("nodes/nowhere", b"{}")


def test_a_kubelets_heartbeats_hinder_no_write_and_are_no_events(engine: KubernetesEngine, store: Store) -> None:
    first = store.create("nodes/a", b"1")
    for _ in range(5):
        heartbeat(engine, "a")
    store.replace("nodes/a", b"2", first.revision)
    with Watch(store, store.entries("").revision) as watch:
        for _ in range(5):
            heartbeat(engine, "a")
        store.create("blocks/x", b"")
        watch.await_keys("blocks/x")


def test_a_node_is_gone_when_its_object_is_and_not_before(engine: KubernetesEngine, store: Store) -> None:
    store.create("nodes/a", b"1")
    assert isinstance(store, NodeStore)
    with Watch(store, store.entries("").revision) as watch:
        # Taken away by hand: no record, and not the end of the node.
        annotate(engine, "a", None)
        heartbeat(engine, "a")
        watch.await_keys("nodes/a")
        assert store.is_kept("nodes/a")
        again = store.create("nodes/a", b"1")
        watch.await_keys("nodes/a", "nodes/a")
        store.delete("nodes/a", again.revision)
        assert not store.is_kept("nodes/a")
        engine.server.storage.delete(NODES, "", "a")
        watch.await_keys("nodes/a", "nodes/a", "nodes/a", "nodes/a")
    assert [event.entry and event.entry.value for event in watch.events] == [b"", b"1", None, None]
    assert store.get("nodes/a") is None
    assert not store.is_kept("nodes/a")


def test_a_watch_costs_no_requests(engine: KubernetesEngine, store: Store) -> None:
    with Watch(store, store.entries("").revision) as watch:
        store.create("blocks/0", b"")
        watch.await_keys("blocks/0")
        before = len(engine.server.requests)
        for number in range(1, 20):
            engine.server.storage.change(NODES, "", "a", lambda item, n=number: changed(item, n))  # type: ignore[misc]
        wait_for(lambda: len(watch.events) == 20)
        assert len(engine.server.requests) == before


def changed(item: dict[str, Any], number: int) -> dict[str, Any]:
    item["metadata"].setdefault("annotations", {})[NODE_ANNOTATION] = str(number)
    return item


def test_a_watch_that_is_cut_leaves_nothing_out(engine: KubernetesEngine, store: Store) -> None:
    with Watch(store, store.entries("").revision) as watch:
        for number in range(6):
            store.create(f"blocks/{number}", b"")
            if number == 0:
                watch.await_keys("blocks/0")  # what has not begun cannot be cut
            if number % 2:
                engine.server.faults.cuts += 1
        wait_for(
            lambda: {event.key for event in watch.events} == {f"blocks/{n}" for n in range(6)},
            lambda: watch.events,
        )
        wait_for(lambda: any(isinstance(error, StoreUnavailable) for error in watch.errors))


def test_bookmarks_keep_a_silent_watch_from_being_forgotten(engine: KubernetesEngine, store: Store) -> None:
    """A hundred changes of nodes that are nobody's business, then the history is cut: the watch goes on."""
    with Watch(store, store.entries("").revision, "blocks/") as watch:
        for _ in range(100):
            heartbeat(engine, "b")
        time.sleep(3 * engine.server.bookmark_interval)
        engine.server.storage.compact()
        engine.server.faults.cuts += 1
        store.create("blocks/x", b"")
        watch.await_keys("blocks/x")
        assert not [error for error in watch.errors if isinstance(error, Compacted)]


def test_a_forgotten_revision_ends_a_watch_that_is_under_way(engine: KubernetesEngine, store: Store) -> None:
    start = store.entries("").revision
    for number in range(3):
        store.create(f"blocks/{number}", b"")
    engine.server.storage.compact()
    with Watch(store, start) as watch:
        wait_for(lambda: watch.errors)
    assert isinstance(watch.errors[-1], Compacted)


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (
            ApiError("Forbidden", "leases is forbidden"),
            "refuses \\(403\\): leases is forbidden; apply the Service",
        ),
        (ApiError("Unauthorized", "Unauthorized"), "refuses \\(401\\)"),
        (ApiError("InternalError", "etcdserver: request timed out"), "etcdserver: request timed out"),
        (ApiError("ServiceUnavailable", "starting"), "starting"),
    ],
)
def test_a_refusal_is_told_and_the_next_call_succeeds(
    engine: KubernetesEngine, store: Store, refusal: ApiError, said: str
) -> None:
    engine.server.faults.refusals.append(refusal)
    with pytest.raises(StoreUnavailable, match=said):
        store.create("blocks/x", b"")
    store.create("blocks/x", b"")


def test_a_throttled_request_waits_and_succeeds(engine: KubernetesEngine, store: Store) -> None:
    engine.server.faults.refusals += [ApiError("TooManyRequests", "slow down", retry_after=1)] * 2
    store.create("blocks/x", b"")
    assert store.get("blocks/x") is not None


def test_a_slow_server_is_waited_for(engine: KubernetesEngine, store: Store) -> None:
    engine.server.faults.delay = 0.5
    assert store.create("blocks/x", b"").key == "blocks/x"


def test_a_server_that_is_away_is_unavailable_and_comes_back(tmp_path: Path, engine: KubernetesEngine) -> None:
    store = open_store(engine.url)
    store.create("blocks/x", b"")
    address = ("127.0.0.1", int(engine.server.url.rpartition(":")[2]))
    with Watch(store, store.entries("").revision) as watch:
        engine.server.stop()
        with pytest.raises(StoreUnavailable, match="127.0.0.1"):
            store.create("blocks/y", b"")
        again = ApiServer(address, storage=engine.server.storage, bookmark_interval=0.3)
        again.start()
        try:
            store.create("blocks/y", b"")
            watch.await_keys("blocks/y")
        finally:
            again.stop()
    store.close()


def test_long_lists_come_in_parts(engine: KubernetesEngine, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft.kubernetes.client.PAGE_SIZE", 7)
    for number in range(20):
        store.create(f"blocks/{number:02}", b"")
    before = len(engine.server.requests)
    assert [entry.key for entry in store.entries("blocks/").entries] == [f"blocks/{n:02}" for n in range(20)]
    assert len([url for _, url in engine.server.requests[before:] if "/leases" in url]) == 3


def test_tls_with_the_right_authority_and_with_a_wrong_one(tmp_path: Path) -> None:
    authority = certificate(tmp_path)
    server = ApiServer(tls=tls_context(authority))
    server.start()
    try:
        path = tmp_path / "kubeconfig"
        path.write_text(kubeconfig(server.url, authority=str(authority)))
        trusting = open_store(f"kubernetes://{path}")
        trusting.create("blocks/x", b"")
        with Watch(trusting, 0, "blocks/") as watch:
            watch.await_keys("blocks/x")
        trusting.close()
        path.write_text(kubeconfig(server.url))
        strange = open_store(f"kubernetes://{path}")
        with pytest.raises(StoreUnavailable, match="certificate"):
            strange.get("blocks/x")
        strange.close()
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("kubernetes:///nowhere/kubeconfig", "/nowhere/kubeconfig"),
        ("kubernetes://relative", "absolute"),
        ("kubernetes:///x?colour=red", "unknown option 'colour'"),
        ("kubernetes://", "service account"),
    ],
)
def test_what_cannot_be_opened_is_named(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        open_store(url)
