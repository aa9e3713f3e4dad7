"""This node's pods as the API server has them: one watch of a few objects."""

import queue
import random
import threading
from collections.abc import Mapping
from typing import Any, Protocol

from weft.kubernetes import ApiError, Change, Client, Ended, Stream, Unreachable
from weft.troubles import Concern

_PODS = "/api/v1/pods"
#: A pod that the kubelet made of a file on its node; the object has another UID than the pod (kubelet/types).
_MIRROR = "kubernetes.io/config.mirror"
#: Kubernetes' default for a pod that says nothing.
_USUAL_GRACE = 30
#: Seconds before a watch that failed is begun anew: doubled each time, from and to.
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
_STOP_INTERVAL = 1.0


class NodePods(Protocol):
    """Which pods of this node there are."""

    def known(self) -> Mapping[str, int] | None:
        """Seconds that each has to end, by UID; None where that is not known now."""

    def follow(self, stopping: threading.Event, concern: Concern) -> None:
        """Keep ``known`` true until told to stop; ``concern`` is told where it cannot."""


class NobodyTells:
    """On plain hosts."""

    def known(self) -> Mapping[str, int] | None:
        return None

    def follow(self, stopping: threading.Event, concern: Concern) -> None:
        """There is nobody to listen to."""


class PodsOfNode:
    """The pods that the API server has on this node. Mirror pods are left out: their UIDs are no sandbox's."""

    def __init__(self, client: Client, node: str) -> None:
        self._client = client
        self._query = {"fieldSelector": f"spec.nodeName={node}"}
        self._lock = threading.Lock()
        self._pods: dict[str, int] | None = None

    def known(self) -> Mapping[str, int] | None:
        with self._lock:
            return None if self._pods is None else dict(self._pods)

    def follow(self, stopping: threading.Event, concern: Concern) -> None:
        pause = _FIRST_PAUSE
        try:
            while not stopping.is_set():
                try:
                    self._list_and_watch(stopping, concern)
                    pause = _FIRST_PAUSE
                except (ApiError, Unreachable) as error:
                    if not (isinstance(error, ApiError) and error.expired):
                        concern.note(str(error), "nothing counts as gone", refused=error.refused)
                    # From here on nobody can say which pods there are.
                    with self._lock:
                        pause = _FIRST_PAUSE if self._pods is not None else min(pause * 2, _LONGEST_PAUSE)
                        self._pods = None
                    stopping.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311  # spreads load
        finally:
            self._client.close()

    def _list_and_watch(self, stopping: threading.Event, concern: Concern) -> None:
        told: queue.SimpleQueue[Change | Ended] = queue.SimpleQueue()
        # Any server's cache will do: the watch tells what it lacks, long before anybody's patience ends.
        page = self._client.list(_PODS, {**self._query, "resourceVersion": "0"})
        pods = dict(filter(None, map(_uid_and_grace, page.items)))
        with self._lock:
            self._pods = pods
        stream = Stream(self._client, "pods", _PODS, page.version, told, params=self._query)
        try:
            while not stopping.is_set():
                concern.over()
                try:
                    change = told.get(timeout=_STOP_INTERVAL)
                except queue.Empty:
                    continue
                if isinstance(change, Ended):
                    raise change.error
                self._take(change)
        finally:
            stream.close()

    def _take(self, change: Change) -> None:
        found = None if change.kind == "BOOKMARK" else _uid_and_grace(change.item)
        if found is None:
            return
        uid, grace = found
        with self._lock:
            pods = self._pods if self._pods is not None else {}
            if change.kind == "DELETED":
                pods.pop(uid, None)
            else:
                pods[uid] = grace


def _uid_and_grace(pod: dict[str, Any]) -> tuple[str, int] | None:
    metadata, spec = pod.get("metadata") or {}, pod.get("spec") or {}
    if _MIRROR in (metadata.get("annotations") or {}) or not metadata.get("uid"):
        return None
    told = spec.get("terminationGracePeriodSeconds"), metadata.get("deletionGracePeriodSeconds")
    return metadata["uid"], max([seconds for seconds in told if isinstance(seconds, int)] or [_USUAL_GRACE])


def open_node_pods(store: str, node: str) -> NodePods:
    """Who is asked with this store. Raises ConfigurationError."""
    if not store.startswith("kubernetes://"):
        return NobodyTells()
    return PodsOfNode(Client.from_url(store, "namespace")[0], node)
