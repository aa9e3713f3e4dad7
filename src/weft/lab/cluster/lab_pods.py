"""What kubelets do for the lab's own pods, done from outside of the nodes with the lab's runtime.

A Pod object that is bound to a node becomes a pod of the lab; one that is deleted is detached and removed,
and then its object goes.
"""

import contextlib
import hashlib
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from weft.lab import pods, policies, state
from weft.lab.api.deletion import is_ending
from weft.lab.api.errors import ApiError
from weft.lab.api.kinds import KINDS
from weft.lab.api.storage import Object, Selection, Storage
from weft.lab.cluster.manifests import is_labs, now
from weft.lab.state import LabState, PodState
from weft.lab.topology import LabError

_log = logging.getLogger(__name__)

#: Seconds between two looks at whether anything was written.
_INTERVAL = 0.1
#: Seconds after which what failed is tried again: doubled each time, from and to.
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_KINDS = {kind.name: kind for kind in KINDS}
_POD, _EVENT = _KINDS["Pod"], _KINDS["Event"]


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done, so that the lab's pods are those of the API."""

    make: tuple[Object, ...] = ()
    end: tuple[PodState, ...] = ()
    #: Objects that end, of which the lab has nothing.
    forget: tuple[Object, ...] = ()


def work(items: Iterable[Object], present: Sequence[PodState]) -> Work:
    """Hold the lab's pods against their objects. Pure."""
    objects = {item["metadata"]["uid"]: item for item in items}
    ours = {pod.uid: pod for pod in present if pod.published}
    return Work(
        make=tuple(
            item
            for item in objects.values()
            if item["spec"].get("nodeName") and not is_ending(item) and not (item.get("status") or {}).get("podIP")
        ),
        end=tuple(pod for uid, pod in ours.items() if uid not in objects or is_ending(objects[uid])),
        forget=tuple(item for uid, item in objects.items() if is_ending(item) and uid not in ours),
    )


class LabPods:
    """Runs in a thread of the control plane until ``stopping``. One lab's commands and it take turns."""

    def __init__(self, lab: str, storage: Storage, stopping: threading.Event) -> None:
        self._lab = lab
        self._storage = storage
        self._stopping = stopping
        self._trials: dict[str, _Trial] = {}

    def run(self) -> None:
        """Do what there is to do, whenever something was written or is to be tried again."""
        seen = -1
        while not self._stopping.wait(_INTERVAL):
            moment = time.monotonic()
            version = self._storage.version
            if version == seen and not any(trial.again <= moment for trial in self._trials.values()):
                continue
            seen = version
            try:
                self._look()
            except Exception:
                _log.exception("pods: trying again")
                seen = -1
                self._stopping.wait(_FIRST_PAUSE)

    def _look(self) -> None:
        lab = state.read(self._lab)
        if lab is None or self._due(lab) == Work():
            return
        with state.locked(self._lab):
            lab = state.read(self._lab)
            if lab is None or not lab.complete:
                return
            if not all(pod.published for pod in lab.pods):  # a command was killed
                policies.publish(lab)
                lab.write()
            # Whoever had the lock may have done it.
            todo = self._due(lab)
            for item in todo.forget:
                _forget(self._storage, item)
            for pod in todo.end:
                self._end(lab, pod)
            for node in sorted({item["spec"]["nodeName"] for item in todo.make}):
                self._make(lab, node, [item for item in todo.make if item["spec"]["nodeName"] == node])

    def _due(self, lab: LabState) -> Work:
        """What is to be done now."""
        todo = work((item for item in self._storage.list(Selection(_POD))[0] if is_labs(item)), lab.pods)
        wanted = {item["metadata"]["uid"] for item in todo.make} | {pod.uid for pod in todo.end}
        for uid in self._trials.keys() - wanted:
            del self._trials[uid]
        moment = time.monotonic()
        early = {uid for uid, trial in self._trials.items() if trial.again > moment}
        return Work(
            tuple(item for item in todo.make if item["metadata"]["uid"] not in early),
            tuple(pod for pod in todo.end if pod.uid not in early),
            todo.forget,
        )

    def _make(self, lab: LabState, node: str, items: Sequence[Object]) -> None:
        begun = {pod.uid: pod for pod in lab.pods}
        wanted: list[PodState] = []
        failed: dict[str, str] = {}
        try:
            for item in items:
                uid, name = item["metadata"]["uid"], item["metadata"]["name"]
                if uid in begun:  # it failed before, or a command that made it was killed
                    pods.clear(lab, [begun[uid]])
                    wanted.append(begun[uid])
                elif any(name in (other.name, other.node) for other in lab.pods):
                    failed[uid] = f"the lab has a pod or node {name!r} already"
                else:
                    wanted.append(pod_of(item))
                    lab.pods.append(wanted[-1])
            lab.write()
            errors = pods.attempt(lab, wanted)
            failed |= {pod.uid: errors[pod.name] for pod in wanted if pod.name in errors}
        except LabError as error:
            failed |= {pod.uid: str(error) for pod in lab.pods if pod.node == node and not pod.ip}
        for item in items:
            if message := failed.get(item["metadata"]["uid"]):
                self._failed(item["metadata"]["uid"])
                record(self._storage, item, "FailedCreatePodSandBox", message)

    def _end(self, lab: LabState, pod: PodState) -> None:
        try:
            pods.remove(lab, pod)
        except LabError as error:
            self._failed(pod.uid)
            with contextlib.suppress(ApiError):  # one that was deleted by force has no object any more
                item = self._storage.get(_POD, pod.namespace, pod.name)
                record(self._storage, item, "FailedKillPod", str(error))

    def _failed(self, uid: str) -> None:
        before = self._trials.get(uid)
        pause = min(2 * before.pause, _LONGEST_PAUSE) if before else _FIRST_PAUSE
        self._trials[uid] = _Trial(time.monotonic() + pause, pause)


@dataclass(frozen=True, slots=True)
class _Trial:
    """When what failed is tried again, and how long that is after the last time."""

    again: float
    pause: float


def pod_of(item: Object) -> PodState:
    """The lab's pod that a bound Pod object asks for."""
    metadata, spec = item["metadata"], item["spec"]
    numbers = (
        (port.get("name"), f"{port.get('protocol', 'TCP').lower()}/{port['containerPort']}")
        for container in spec["containers"]
        for port in container.get("ports") or ()
    )
    ports = {name or number.replace("/", "-"): number for name, number in numbers}
    pod = pods.new_pod(
        metadata["name"],
        spec["nodeName"],
        metadata.get("labels") or {},
        metadata["namespace"],
        ports,
        metadata.get("annotations") or {},
    )
    pod.uid, pod.published = metadata["uid"], True
    return pod


def record(storage: Storage, item: Object, reason: str, message: str) -> None:
    """Tell of what went wrong with a pod in an event, one for the same words: ``kubectl describe pod``."""
    _log.warning("pod %s: %s", item["metadata"]["name"], message)
    metadata, moment = item["metadata"], now()
    digest = hashlib.sha256(f"{metadata['uid']} {reason} {message}".encode()).hexdigest()[:16]
    name = f"{metadata['name']}.{digest}"
    about = {"apiVersion": "v1", "kind": "Pod", **{key: metadata[key] for key in ("namespace", "name", "uid")}}
    event = {
        "metadata": {"name": name}, "involvedObject": about, "type": "Warning", "reason": reason,
        "message": message, "source": {"component": "kubelet", "host": item["spec"]["nodeName"]},
        "firstTimestamp": moment, "lastTimestamp": moment, "count": 1,
    }  # fmt: skip

    def again(old: Object) -> Object:
        return old | {"lastTimestamp": moment, "count": old["count"] + 1}

    with contextlib.suppress(ApiError):  # its namespace ends
        try:
            storage.create(_EVENT, metadata["namespace"], event)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            storage.change(_EVENT, metadata["namespace"], name, again)


def _forget(storage: Storage, item: Object) -> None:
    metadata = item["metadata"]
    with contextlib.suppress(ApiError):  # somebody was quicker
        storage.delete(_POD, metadata["namespace"], metadata["name"], {"uid": metadata["uid"]}, grace=0)
