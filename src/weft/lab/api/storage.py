"""Objects in memory with one resource version for all of them, and the changes that watches read.

With a journal they are on disk too; what was changed before a start is forgotten, as after a compaction.

Versions grow by one with every write, as etcd's revisions do for the real server.
"""

import copy
import datetime
import re
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from weft.lab.api.deletion import grace_of, is_ending, marked
from weft.lab.api.errors import ApiError
from weft.lab.api.journal import Journal
from weft.lab.api.kinds import KINDS, Kind
from weft.lab.api.selectors import Selector

Object = dict[str, Any]

#: Changes that watches can go back; older ones are forgotten.
KEPT_CHANGES = 10_000
#: Seconds between two looks of a watch at whether it is to stop.
_WAIT = 0.2

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
#: What of an object's metadata no write changes.
_GIVEN = (
    "uid", "creationTimestamp", "resourceVersion", "name", "generation", "deletionTimestamp",
    "deletionGracePeriodSeconds",
)  # fmt: skip
_NAMESPACE = next(kind for kind in KINDS if kind.name == "Namespace")


@dataclass(frozen=True, slots=True)
class Change:
    """One write: the object before and after it; None where it was not there."""

    version: int
    kind: Kind
    before: Object | None
    after: Object | None


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects of a kind a list or a watch is about. An empty namespace is all of them."""

    kind: Kind
    namespace: str = ""
    selector: Selector = lambda item: True

    def __call__(self, item: Object | None) -> bool:
        if item is None or (self.namespace and item["metadata"].get("namespace") != self.namespace):
            return False
        return self.selector(item)


class Storage:
    """Safe for several threads. Objects that it hands out are the caller's own.

    With ``kubelets`` somebody ends the pods that are deleted; without, they go at once.
    """

    def __init__(self, journal: Journal | None = None, *, kubelets: bool = False) -> None:
        self._journal = None
        self._kubelets = kubelets
        self._changed = threading.Condition()
        self._objects: dict[tuple[Kind, str, str], Object] = {}
        self._history: deque[Change] = deque()
        self._version = 0
        self._forgotten = 0
        if journal is not None:
            self._objects, self._version = journal.read()
            self._forgotten = self._version
            journal.shorten(self._objects, self._version, always=True)
            self._journal = journal
        for name in _NAMESPACES:
            if (_NAMESPACE, "", name) not in self._objects:
                self.create(_NAMESPACE, "", {"metadata": {"name": name}})

    @property
    def version(self) -> int:
        """The newest resource version."""
        return self._version

    @property
    def forgotten(self) -> int:
        """The newest version whose changes cannot be told any more."""
        return self._forgotten

    def copy(self) -> "Storage":
        """The same objects in a storage of their own."""
        with self._changed:
            other = Storage(kubelets=self._kubelets)
            other._objects = copy.deepcopy(self._objects)
            other._version = self._version
            return other

    def create(self, kind: Kind, namespace: str, item: Object) -> Object:
        """Write a new object. Raises ApiError: AlreadyExists, Invalid, NotFound for its namespace."""
        item = copy.deepcopy(item)
        metadata = item.setdefault("metadata", {})
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = metadata["generateName"] + uuid.uuid4().hex[:5]
        name = _checked_name(kind, metadata.get("name"))
        _identify(kind, namespace, item)
        with self._changed:
            self._require_namespace(kind, namespace)
            if (kind, namespace, name) in self._objects:
                raise ApiError(
                    "AlreadyExists", f'{kind.resource} "{name}" already exists', kind=kind.plural, name=name
                )
            now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": now}
            if "spec" in item:
                metadata["generation"] = 1
            if kind.name == "Pod":
                item["status"] = {"phase": "Pending"} | (item.get("status") or {})
            if kind.name == "Namespace":
                metadata["labels"] = (metadata.get("labels") or {}) | {"kubernetes.io/metadata.name": name}
                item["status"] = {"phase": "Active"}
            return self._write(kind, namespace, name, None, item)

    def get(self, kind: Kind, namespace: str, name: str) -> Object:
        """An object. Raises ApiError: NotFound."""
        with self._changed:
            return copy.deepcopy(self._find(kind, namespace, name))

    def list(self, selection: Selection) -> tuple[list[Object], int]:
        """The objects selected, by namespace and name, and the version at which they are so."""
        with self._changed:
            found = [
                copy.deepcopy(item)
                for (kind, _, _), item in sorted(self._objects.items(), key=lambda pair: pair[0][1:])
                if kind == selection.kind and selection(item)
            ]
            return found, self._version

    def change(
        self, kind: Kind, namespace: str, name: str, edit: Callable[[Object], Object], *, status: bool = False
    ) -> Object:
        """Write an object anew as ``edit`` returns it; of its status only or of all else, where there are two.

        Where the edited object names a resource version it must be the present one. Raises ApiError.
        """
        with self._changed:
            before = self._find(kind, namespace, name)
            after = edit(copy.deepcopy(before))
            wanted = (after.get("metadata") or {}).get("resourceVersion")
            if wanted and wanted != before["metadata"]["resourceVersion"]:
                raise ApiError(
                    "Conflict",
                    f'Operation cannot be fulfilled on {kind.resource} "{name}": the object has been modified; '
                    "please apply your changes to the latest version and try again",
                    kind=kind.plural,
                    name=name,
                )
            _identify(kind, namespace, after)
            after = _kept(kind, before, after, status=status)
            if after == before:
                return copy.deepcopy(before)
            return self._write(kind, namespace, name, before, after)

    def delete(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        preconditions: Object | None = None,
        *,
        grace: int | None = None,
    ) -> Object:
        """Delete an object; it as it was, or as it is while it ends: a pod of a node, a namespace with such pods.

        ``grace``: the seconds for that; 0 is what says that it has ended. Raises ApiError: NotFound, Conflict.
        """
        with self._changed:
            before = self._find(kind, namespace, name)
            _hold_against(kind, before, preconditions or {})
            if kind.name == "Namespace":
                ends = None if self._emptied(name) else 0
            else:
                ends = self._seconds(kind, before, grace)
            if ends is None:
                self._remove((kind, namespace, name))
                return copy.deepcopy(before)
            after = marked(copy.deepcopy(before), ends)
            if kind.name == "Namespace":
                after["status"] = {"phase": "Terminating"}
            return after if after == before else self._write(kind, namespace, name, before, after)

    def watch(
        self, selection: Selection, version: int, stopped: Callable[[], bool]
    ) -> Iterator[tuple[str, Object]]:
        """ADDED, MODIFIED and DELETED after a version, until ``stopped()``; with "" what tells that nothing came.

        Raises ApiError: Expired.
        """
        while not stopped():
            with self._changed:
                if version < self._forgotten:
                    raise ApiError("Expired", f"too old resource version: {version} ({self._forgotten})")
                if version >= self._version:
                    self._changed.wait(_WAIT)
                changes = [change for change in self._history if change.version > version]
                version = max(version, self._version)
            for change in changes:
                if change.kind == selection.kind and (told := _told(change, selection)):
                    yield told
            if not changes:
                yield "", {}

    def compact(self) -> None:
        """Forget all changes: every watch that has not seen them must begin anew."""
        with self._changed:
            self._history.clear()
            self._forgotten = self._version
            self._changed.notify_all()

    def _find(self, kind: Kind, namespace: str, name: str) -> Object:
        try:
            return self._objects[(kind, namespace, name)]
        except KeyError:
            raise ApiError(
                "NotFound", f'{kind.resource} "{name}" not found', kind=kind.plural, name=name
            ) from None

    def _require_namespace(self, kind: Kind, namespace: str) -> None:
        if not kind.namespaced:
            return
        if is_ending(self._find(_NAMESPACE, "", namespace)):
            raise ApiError("Forbidden", f"namespace {namespace} is being terminated: nothing new is made in it")

    def _seconds(self, kind: Kind, item: Object, asked: int | None) -> int | None:
        """How long an object may take to end; None where it goes at once."""
        return (grace_of(kind, item, asked) or None) if self._kubelets else None

    def _emptied(self, namespace: str) -> bool:
        """Delete what a namespace holds; whether nothing is left that has to end first."""
        empty = True
        for key, item in [pair for pair in self._objects.items() if pair[0][1] == namespace]:
            seconds = self._seconds(key[0], item, None)
            if seconds is None:
                self._remove(key, last=False)
                continue
            empty = False
            if not is_ending(item):
                self._write(*key, item, marked(copy.deepcopy(item), seconds))
        return empty

    def _remove(self, key: tuple[Kind, str, str], *, last: bool = True) -> None:
        """Take an object away, and a namespace that ends with the ``last`` of what was in it."""
        self._record(key[0], self._objects.pop(key), None)
        space = self._objects.get((_NAMESPACE, "", key[1]))
        if last and space is not None and is_ending(space) and self._emptied(key[1]):
            self._remove((_NAMESPACE, "", key[1]))

    def _write(self, kind: Kind, namespace: str, name: str, before: Object | None, after: Object) -> Object:
        self._objects[(kind, namespace, name)] = after
        self._record(kind, before, after)
        return copy.deepcopy(after)

    def _record(self, kind: Kind, before: Object | None, after: Object | None) -> None:
        self._version += 1
        if after is not None:
            after["metadata"]["resourceVersion"] = str(self._version)
        if self._journal is not None:
            metadata = (after or before or {})["metadata"]
            key = (kind, metadata.get("namespace") or "", metadata["name"])
            self._journal.append(self._version, key, after)
            self._journal.shorten(self._objects, self._version)
        self._history.append(Change(self._version, kind, before, copy.deepcopy(after)))
        if len(self._history) > KEPT_CHANGES:
            self._forgotten = self._history.popleft().version
        self._changed.notify_all()


def _told(change: Change, selection: Selection) -> tuple[str, Object] | None:
    """What a watch is told of a change: an object that leaves the selection is deleted to it."""
    was, now = selection(change.before), selection(change.after)
    if now and change.after is not None:
        return ("MODIFIED" if was else "ADDED"), copy.deepcopy(change.after)
    if was and change.before is not None:
        last = copy.deepcopy(change.after or change.before)
        last["metadata"]["resourceVersion"] = str(change.version)
        return "DELETED", last
    return None


def _hold_against(kind: Kind, item: Object, preconditions: Object) -> None:
    """Raise ApiError, Conflict, where an object is not the one that is meant."""
    name = item["metadata"]["name"]
    for key, wanted in preconditions.items():
        present = item["metadata"].get(key)
        if wanted and wanted != present:
            raise ApiError(
                "Conflict",
                f'Operation cannot be fulfilled on {kind.resource} "{name}": Precondition failed: '
                f"{key} in precondition: {wanted}, {key} in object meta: {present}",
                kind=kind.plural,
                name=name,
            )


def _checked_name(kind: Kind, name: Any) -> str:
    if not isinstance(name, str) or not name:
        raise ApiError("Invalid", f"{kind.name} is invalid: metadata.name: Required value: name is required")
    # Names of RBAC objects may hold anything that a path segment can.
    if not kind.group.startswith("rbac.") and not (_NAME.fullmatch(name) and len(name) <= 253):
        raise ApiError(
            "Invalid",
            f'{kind.name} "{name}" is invalid: metadata.name: Invalid value: "{name}": a lowercase RFC 1123 '
            "subdomain must consist of lower case alphanumeric characters, '-' or '.'",
        )
    return name


def _identify(kind: Kind, namespace: str, item: Object) -> None:
    """Set what the path says; refuse an object that says otherwise."""
    metadata = item.setdefault("metadata", {})
    for key, wanted in (("apiVersion", kind.api_version), ("kind", kind.name)):
        if item.get(key, wanted) != wanted:
            raise ApiError(
                "BadRequest", f"the object's {key} ({item[key]}) does not match the request's ({wanted})"
            )
        item[key] = wanted
    if kind.namespaced:
        if metadata.get("namespace", namespace) != namespace:
            raise ApiError("BadRequest", "the namespace of the object does not match the namespace on the request")
        metadata["namespace"] = namespace


def _kept(kind: Kind, before: Object, after: Object, *, status: bool) -> Object:
    """The object with what a write of this sort cannot change."""
    for key in _GIVEN:
        if key in before["metadata"]:
            after["metadata"][key] = before["metadata"][key]
    if kind.status:
        # Of a node's or pod's metadata a write of the status may change labels and annotations.
        for key in [key for key in {*before, *after} if key not in ("metadata", "apiVersion", "kind")]:
            if (key == "status") is not status:
                after.pop(key, None)
                if key in before:
                    after[key] = before[key]
    if after.get("spec") != before.get("spec"):
        after["metadata"]["generation"] = before["metadata"].get("generation", 0) + 1
    return after
