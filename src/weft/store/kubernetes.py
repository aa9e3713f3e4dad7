"""The store for Kubernetes clusters: Node objects and Leases of the API server that every cluster has.

nodes/NAME     the annotation ``weft.dev/node`` of the Node object NAME; empty, or without the object: no such key
any other key  a Lease ``weft-KEY`` in the agents' namespace: creating it is atomic, so it is the claim

Of nodes only metadata is read, for an API server tells of every node's status all the time. A revision is a
resource version; both collections are of one etcd, so that their versions can be compared (KEP-5504).
"""

import logging
import queue
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from weft.kubernetes import ApiError, Change, Client, ConfigurationError, Ended, Stream, Unreachable
from weft.kubernetes.client import METADATA_ONLY, METADATA_ONLY_LIST, Object, service_account_namespace
from weft.store.protocol import (
    Compacted,
    Conflict,
    Entry,
    Event,
    ForeignKey,
    KeyExists,
    Listing,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)

_log = logging.getLogger(__name__)

NODE_ANNOTATION = "weft.dev/node"
KEY_ANNOTATION = "weft.dev/key"
VALUE_ANNOTATION = "weft.dev/value"
#: What all our Leases carry, and no other.
LABELS = {"app.kubernetes.io/managed-by": "weft"}
LEASE_PREFIX = "weft-"

_SELECTOR = ",".join(f"{key}={value}" for key, value in LABELS.items())
_NODES_PREFIX = "nodes/"
_NODES = "/api/v1/nodes"
#: Times that a node's annotation is written against the kubelet, which writes its status all the time.
_ATTEMPTS = 8
#: Seconds between two looks of a watch at whether it is to stop.
_STOP_INTERVAL = 0.25
#: Seconds that a watch waits before it begins anew after it failed; doubled each time, with chance.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 15.0


class KubernetesStore:
    """``weft.store.Store`` over an API server. Leases are in ``namespace``."""

    def __init__(self, client: Client, namespace: str) -> None:
        self._client = client
        self._leases = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._namespace = namespace
        self._lock = threading.Lock()
        #: The annotation of every node as it was last told, to tell a change of it from one of the status.
        self._told: dict[str, str | None] = {}
        #: The node entries that callers know, so that a write is not refused for a change of the status.
        self._known: dict[str, Entry] = {}
        self._pause = 0.0
        #: How far the last watch of a prefix came, by the revision that its caller has: bookmarks move it on.
        self._reached: dict[str, tuple[int, dict[str, int]]] = {}

    def get(self, key: str) -> Entry | None:
        with _translated(key):
            try:
                if key.startswith(_NODES_PREFIX):
                    return self._remember(_node_entry(self._node(key)))
                return self._lease_entry(self._client.get(self._lease_path(key)), key)
            except ApiError as error:
                if error.code != 404:
                    raise
                return None

    def entries(self, prefix: str) -> Listing:
        with _translated(prefix):
            found: list[Entry] = []
            versions = []
            if _overlap(prefix, _NODES_PREFIX):
                # Any server's cache will do: the watch tells what it lacks. 5,000 agents start at the same time.
                page = self._client.list(_NODES, {"resourceVersion": "0"}, accept=METADATA_ONLY_LIST)
                versions.append(page.version)
                with self._lock:
                    self._told = {item["metadata"]["name"]: _annotation(item) for item in page.items}
                found += filter(None, map(_node_entry, page.items))
            if not prefix.startswith(_NODES_PREFIX):
                leases = self._client.list(self._leases, {"labelSelector": _SELECTOR})
                versions.append(leases.version)
                found += filter(None, map(self._readable, leases.items))
        entries = sorted((item for item in found if item.key.startswith(prefix)), key=lambda item: item.key)
        # The older of the two versions: a watch from there may tell again what is listed, but leaves nothing out.
        return Listing(tuple(entries), min(versions))

    def create(self, key: str, value: bytes) -> Entry:
        with _translated(key):
            if key.startswith(_NODES_PREFIX):
                return self._annotate(key, value, None)
            body = _lease(key, value)
            try:
                return self._lease_entry(self._client.create(self._leases, body), key)
            except ApiError as error:
                if error.reason != "AlreadyExists":
                    raise
            try:
                self._lease_entry(self._client.get(self._lease_path(key)), key)
            except StoreError as error:
                raise ForeignKey(str(error)) from None
            raise KeyExists(f"{key} exists")

    def replace(self, key: str, value: bytes, revision: int) -> Entry:
        with _translated(key):
            if key.startswith(_NODES_PREFIX):
                return self._annotate(key, value, revision)
            body = _lease(key, value)
            body["metadata"]["resourceVersion"] = str(revision)
            return self._lease_entry(self._client.replace(self._lease_path(key), body), key)

    def delete(self, key: str, revision: int) -> None:
        with _translated(key):
            if key.startswith(_NODES_PREFIX):
                self._annotate(key, b"", revision)
                return
            self._client.delete(self._lease_path(key), {"resourceVersion": str(revision)})

    def watch(self, prefix: str, revision: int, stopped: Callable[[], bool]) -> Iterator[Event]:
        if stopped() or self._waits(stopped):
            return
        changes: queue.SimpleQueue[Change | Ended] = queue.SimpleQueue()
        positions = self._positions(prefix, revision)
        streams = [self._stream(source, position, changes) for source, position in positions.items()]
        try:
            while not stopped():
                try:
                    change = changes.get(timeout=_STOP_INTERVAL)
                except queue.Empty:
                    continue
                with _translated(prefix):
                    if isinstance(change, Ended):
                        raise self._after(change.error)
                    self._pause = 0.0
                    positions[change.source] = change.version
                    event = None
                    if change.kind != "BOOKMARK":
                        event = self._event(change, min(positions.values()))
                if event is not None and event.key.startswith(prefix):
                    revision = event.revision
                    yield event
        finally:
            self._reached[prefix] = (revision, positions)
            for stream in streams:
                stream.close()

    def is_kept(self, key: str) -> bool:
        """``weft.store.NodeStore``: what ``delete`` leaves is an empty annotation, not none."""
        with _translated(key):
            try:
                return _annotation(self._node(key)) is None
            except ApiError as error:
                if error.code != 404:
                    raise
                return False

    def close(self) -> None:
        self._client.close()

    def _positions(self, prefix: str, revision: int) -> dict[str, int]:
        """Where to begin, by collection."""
        last, positions = self._reached.get(prefix, (-1, {}))
        if last == revision:
            return dict(positions)
        found = {}
        if _overlap(prefix, _NODES_PREFIX):
            found["nodes"] = revision
        if not prefix.startswith(_NODES_PREFIX):
            found["leases"] = revision
        return found

    def _stream(self, source: str, version: int, into: "queue.SimpleQueue[Change | Ended]") -> Stream:
        if source == "nodes":
            return Stream(self._client, source, _NODES, version, into, accept=METADATA_ONLY)
        params = {"labelSelector": _SELECTOR}
        return Stream(self._client, source, self._leases, version, into, params=params)

    def _after(self, error: ApiError | Unreachable) -> Exception:
        """What ended a watch; the next one waits, longer each time and as long as the server asks."""
        asked = error.retry_after if isinstance(error, ApiError) else 0.0
        self._pause = max(asked, min(_LONGEST_PAUSE, self._pause * 2 or _FIRST_PAUSE))
        return error

    def _waits(self, stopped: Callable[[], bool]) -> bool:
        """Wait after a failure, longer each time; whether it was told to stop meanwhile."""
        ending = time.monotonic() + self._pause * random.uniform(0.5, 1.0)  # noqa: S311  # spreads load
        while time.monotonic() < ending:
            if stopped():
                return True
            time.sleep(min(_STOP_INTERVAL, max(0.0, ending - time.monotonic())))
        return False

    def _event(self, change: Change, revision: int) -> Event | None:
        """What a change of an object means for a key; None for nothing."""
        gone = change.kind == "DELETED"
        if change.source == "leases":
            entry = self._readable(change.item)
            return None if entry is None else Event(entry.key, None if gone else entry, revision)
        name = change.item["metadata"]["name"]
        key = _NODES_PREFIX + name
        with self._lock:
            before, text = self._told.pop(name, None), _annotation(change.item)
            if not gone:
                self._told[name] = text
        if gone:
            return Event(key, None, revision)
        if text == before:
            return None
        if text is None:
            # Somebody took it away: neither the end of the Node object nor what ``delete`` writes.
            _log.warning("node %s has lost its annotation %s; its agent writes it anew", name, NODE_ANNOTATION)
            return Event(key, Entry(key, b"", revision), revision)
        return Event(key, _node_entry(change.item), revision)

    # nodes

    def _node(self, key: str) -> Object:
        return self._client.get(f"{_NODES}/{_node_name(key)}", accept=METADATA_ONLY)

    def _annotate(self, key: str, value: bytes, revision: int | None) -> Entry:
        """Write a node's annotation, in place of the one of a revision, None for of none; empty deletes it."""
        name = _node_name(key)
        for _ in range(_ATTEMPTS):
            try:
                item = self._node(key)
            except ApiError as error:
                if error.code == 404 and revision is None:
                    raise StoreError(
                        f"there is no Node object {name!r}: --node-name must be one that 'kubectl get nodes' shows"
                    ) from None
                raise
            self._expect(key, _node_entry(item), revision)
            metadata = {
                "resourceVersion": item["metadata"]["resourceVersion"],
                "annotations": {NODE_ANNOTATION: value.decode()},
            }
            try:
                # The right to write a node's status is enough: it is what Weave Net had.
                written = self._client.patch(f"{_NODES}/{name}/status", {"metadata": metadata})
            except ApiError as error:
                if error.reason != "Conflict":
                    raise
                continue  # most likely the kubelet wrote the status
            entry = self._remember(_node_entry(written))
            return entry or Entry(key, b"", int(written["metadata"]["resourceVersion"]))
        raise StoreUnavailable(f"{key}: the Node object changes faster than it can be written")

    def _expect(self, key: str, present: Entry | None, revision: int | None) -> None:
        if revision is None:
            if present is not None:
                raise KeyExists(f"{key} exists")
            return
        if present is None:
            raise Conflict(f"{key} is gone (expected revision {revision})")
        known = self._known.get(key)
        same = known is not None and known.revision == revision and known.value == present.value
        if present.revision != revision and not same:
            raise Conflict(f"{key} is at revision {present.revision}, expected {revision}")

    def _remember(self, entry: Entry | None) -> Entry | None:
        if entry is not None:
            self._known[entry.key] = entry
        return entry

    # leases

    def _lease_path(self, key: str) -> str:
        return f"{self._leases}/{lease_name(key)}"

    def _lease_entry(self, item: Object, key: str) -> Entry:
        entry = _entry_of(item)
        if entry is None or entry.key != key:
            name = item["metadata"]["name"]
            raise StoreError(
                f"lease {name} in namespace {self._namespace} is not Weft's {key!r}: delete it, or rename it "
                f"(kubectl -n {self._namespace} describe lease {name})"
            )
        return entry

    def _readable(self, item: Object) -> Entry | None:
        entry = _entry_of(item)
        if entry is None:
            name = item["metadata"]["name"]
            _log.error(
                "lease %s in namespace %s carries our label but not our annotations: left alone; delete it or "
                "take the label %s away", name, self._namespace, _SELECTOR,
            )  # fmt: skip
        return entry


def open_kubernetes(url: str) -> KubernetesStore:
    """The store of ``kubernetes://`` (in a pod) or ``kubernetes:///PATH/OF/KUBECONFIG``.

    Options behind a question mark: ``namespace`` of the leases, ``context``. Raises ValueError.
    """
    try:
        client, options = Client.from_url(url, "namespace")
    except ConfigurationError as error:
        raise ValueError(f"store {error}") from None
    return KubernetesStore(client, options.get("namespace") or service_account_namespace())


def lease_name(key: str) -> str:
    """The Lease of a key: ``blocks/10.32.0.0-24`` is ``weft-blocks-10.32.0.0-24``."""
    return LEASE_PREFIX + re.sub(r"[^a-z0-9.]+", "-", key.lower()).strip("-.")


def _lease(key: str, value: bytes) -> Object:
    spec: dict[str, Any] = {}
    try:
        holder = msgspec.json.decode(value, type=_Holder).owner
    except msgspec.MsgspecError:
        holder = ""
    if holder:
        spec["holderIdentity"] = holder  # what kubectl get leases shows
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": lease_name(key),
            "labels": dict(LABELS),
            "annotations": {KEY_ANNOTATION: key, VALUE_ANNOTATION: value.decode()},
        },
        "spec": spec,
    }


class _Holder(msgspec.Struct):
    owner: str = ""


def _entry_of(item: Object) -> Entry | None:
    annotations = item["metadata"].get("annotations") or {}
    key, value = annotations.get(KEY_ANNOTATION), annotations.get(VALUE_ANNOTATION)
    if key is None or value is None or item["metadata"]["name"] != lease_name(key):
        return None
    return Entry(key, value.encode(), int(item["metadata"]["resourceVersion"]))


def _annotation(item: Object) -> str | None:
    found: str | None = (item["metadata"].get("annotations") or {}).get(NODE_ANNOTATION)
    return found


def _node_entry(item: Object) -> Entry | None:
    text = _annotation(item)
    if not text:
        return None
    metadata = item["metadata"]
    return Entry(_NODES_PREFIX + metadata["name"], text.encode(), int(metadata["resourceVersion"]))


def _node_name(key: str) -> str:
    return key.removeprefix(_NODES_PREFIX)


def _overlap(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


@contextmanager
def _translated(key: str) -> Iterator[None]:
    """The API server's errors as a store's."""
    try:
        yield
    except Unreachable as error:
        raise StoreUnavailable(str(error)) from error
    except ApiError as error:
        if error.expired:
            raise Compacted(str(error)) from error
        if error.reason == "Conflict" or error.code == 404:
            raise Conflict(f"{key}: {error.message}") from error
        raise (StoreRefused if error.refused else StoreUnavailable)(str(error)) from error
