"""Pods, namespaces and policies of a Kubernetes cluster, as its API server tells them."""

import logging
import queue
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from weft.kubernetes import ApiError, Change, Client, Ended, Stream, Unreachable
from weft.npc.source import Batch
from weft.policy.objects import Namespace, Pod, Policy
from weft.policy.parsing import ParseError, parse_namespace, parse_pod, parse_policy
from weft.troubles import Troubles

_log = logging.getLogger(__name__)

#: By collection: where it is, and what reads its objects.
_COLLECTIONS: dict[str, tuple[str, Callable[[Any], Pod | Namespace | Policy]]] = {
    "namespaces": ("/api/v1/namespaces", parse_namespace),
    "pods": ("/api/v1/pods", parse_pod),
    "networkpolicies": ("/apis/networking.k8s.io/v1/networkpolicies", parse_policy),
}
#: Seconds between two looks at ``stopped``, and that changes are gathered once one has come.
_INTERVAL = 0.25
_GATHERING = 0.02
#: Seconds before a failed request is tried again; doubled each time.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 15.0

_Queue = queue.SimpleQueue[Change | Ended]


class ClusterSource:
    """``weft.npc.source.Source`` of an API server. What was told stays in force while the server is away."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._pause = 0.0
        self._away = Troubles().about("pods and policies are not told", "pods and policies are told again")

    @property
    def trouble(self) -> str:
        """What the server, or the way to it, refuses."""
        return self._away.trouble.why if self._away.trouble else ""

    def batches(self, stopped: Callable[[], bool]) -> Iterator[Batch]:
        """All there is, then what changes; all of it again where the server has forgotten what changed."""
        while not stopped():
            try:
                batch, versions = self._everything()
            except (ApiError, Unreachable) as error:
                self._wait(stopped, error)
                continue
            self._pause = 0.0
            yield batch
            yield from self._changes(versions, stopped)

    def _everything(self) -> tuple[Batch, dict[str, int]]:
        versions: dict[str, int] = {}
        objects: list[Pod | Namespace | Policy] = []
        for name, (path, _) in _COLLECTIONS.items():
            # Read part by part: ten thousand pods as they come take ten times the memory of what counts of them.
            for page in self._client.pages(path):
                objects += _parsed(name, page.items)
                versions[name] = page.version
        return replace(_batch(objects, whole=True), revision=revision_of(versions)), versions

    def _changes(self, versions: dict[str, int], stopped: Callable[[], bool]) -> Iterator[Batch]:
        """What changes, until a version is forgotten or ``stopped()``."""
        told: _Queue = queue.SimpleQueue()
        streams = {name: self._stream(name, version, told) for name, version in versions.items()}
        try:
            while not stopped():
                changes = _gathered(told)
                for change in changes:
                    if isinstance(change, Change):
                        versions[change.source] = change.version
                        self._pause = 0.0
                        self._away.over()
                if batch := _changed([change for change in changes if isinstance(change, Change)]):
                    yield replace(batch, revision=revision_of(versions))
                for ended in (change for change in changes if isinstance(change, Ended)):
                    if isinstance(ended.error, ApiError) and ended.error.expired:
                        return
                    self._wait(stopped, ended.error)
                    streams[ended.source] = self._stream(ended.source, versions[ended.source], told)
        finally:
            for stream in streams.values():
                stream.close()

    def _stream(self, name: str, version: int, told: _Queue) -> Stream:
        return Stream(self._client, name, _COLLECTIONS[name][0], version, told)

    def _wait(self, stopped: Callable[[], bool], error: ApiError | Unreachable) -> None:
        self._away.note(str(error), "what is known stays in force", refused=error.refused)
        asked = error.retry_after if isinstance(error, ApiError) else 0.0
        self._pause = max(asked, min(_LONGEST_PAUSE, self._pause * 2 or _FIRST_PAUSE))
        ending = time.monotonic() + self._pause
        while not stopped() and time.monotonic() < ending:
            time.sleep(min(_INTERVAL, max(0.0, ending - time.monotonic())))


def revision_of(versions: Mapping[str, int]) -> str:
    """How the state after a batch is named: the resource version up to which each collection was told."""
    return " ".join(f"{name}={version}" for name, version in sorted(versions.items()))


def reached(revision: str, versions: Mapping[str, int]) -> bool:
    """Whether a state named by ``revision_of`` holds what was written at these resource versions.

    Versions are compared as numbers, which etcd's revisions are (Kubernetes API concepts: resource versions).
    """
    told = {name: int(version) for name, _, version in (word.partition("=") for word in revision.split())}
    return all(told.get(name, -1) >= version for name, version in versions.items())


def _gathered(told: _Queue) -> list[Change | Ended]:
    """What came, with what follows at once; nothing where nothing came for a while."""
    try:
        found = [told.get(timeout=_INTERVAL)]
    except queue.Empty:
        return []
    ending = time.monotonic() + _GATHERING
    while (left := ending - time.monotonic()) > 0:
        try:
            found.append(told.get(timeout=left))
        except queue.Empty:
            break
    return found


def _changed(changes: Iterable[Change]) -> Batch | None:
    """The changes as one batch: of each object what was said last."""
    last = {
        (change.source, change.item["metadata"]["uid"]): change for change in changes if change.kind != "BOOKMARK"
    }
    present: list[Pod | Namespace | Policy] = []
    gone: list[Pod | Namespace | Policy] = []
    for change in last.values():
        (gone if change.kind == "DELETED" else present).extend(_parsed(change.source, [change.item]))
    if not present and not gone:
        return None
    return _batch(present, gone)


def _batch(
    present: Iterable[Pod | Namespace | Policy],
    gone: Iterable[Pod | Namespace | Policy] = (),
    *,
    whole: bool = False,
) -> Batch:
    present, gone = list(present), list(gone)
    # One that was deleted and made anew has its name still.
    names = {item.name for item in present if isinstance(item, Namespace)}
    keys = {item.key for item in present if isinstance(item, Policy)}
    return Batch(
        pods=tuple(item for item in present if isinstance(item, Pod)),
        namespaces=tuple(item for item in present if isinstance(item, Namespace)),
        policies=tuple(item for item in present if isinstance(item, Policy)),
        gone_pods=tuple(item.uid for item in gone if isinstance(item, Pod)),
        gone_namespaces=tuple(
            item.name for item in gone if isinstance(item, Namespace) and item.name not in names
        ),
        gone_policies=tuple(item.key for item in gone if isinstance(item, Policy) and item.key not in keys),
        whole=whole,
    )


def _parsed(name: str, items: Iterable[Any]) -> Iterator[Pod | Namespace | Policy]:
    for item in items:
        if name == "networkpolicies":
            item.setdefault("apiVersion", "networking.k8s.io/v1")  # the items of a list come without
        try:
            yield _COLLECTIONS[name][1](item)
        except ParseError as error:
            _log.error("%s: %s", name, error)
