"""Runs one pod's containers on a node, as a kubelet does: first those that prepare, then all others."""

import http.client
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weft.lab.api.deletion import DEFAULT_GRACE
from weft.lab.cluster import images, volumes
from weft.lab.cluster.container_spec import Unsupported, runtime_config
from weft.lab.cluster.containers import FOLDER, LOGS, CannotRun, Container, cgroup, full_name, log_name
from weft.lab.cluster.manifests import now
from weft.lab.topology import LabError

_log = logging.getLogger(__name__)

Manifest = dict[str, Any]

#: Seconds before a container that ended is started again: doubled each time, from and to.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0


@dataclass(frozen=True, slots=True)
class Host:
    """What a pod's containers are told of where they run."""

    lab: str
    node: str
    store: Path
    authority: bytes
    variables: Mapping[str, str]


@dataclass(slots=True)
class _Place:
    """A container of the manifest, and what has become of it."""

    manifest: Manifest
    running: Container | None = None
    started: str = ""
    begun: float = 0.0
    again: float = 0.0
    pause: float = 0.0
    restarts: int = -1
    ended: int | None = None
    waiting: tuple[str, str] = ("PodInitializing", "")
    ready: bool = False
    failures: int = 0
    next_probe: dict[str, float] = field(default_factory=dict)


class PodWorker:
    """``step`` does what is to be done now and never waits long; ``stop`` ends the pod."""

    def __init__(self, pod: Manifest, host: Host) -> None:
        self.pod = pod
        self._host = host
        # A node that starts again counts on from what it said before.
        counts = {
            one["name"]: int(one["restartCount"]) for one in pod["status"].get("containerStatuses") or ()
            if one.get("started")
        }  # fmt: skip
        self._initial = [_Place(one) for one in pod["spec"].get("initContainers") or ()]
        self._places = [_Place(one, restarts=counts.get(one["name"], -1)) for one in pod["spec"]["containers"]]
        self._volumes: Mapping[str, Path] | None = None
        self._folder = FOLDER / "pods" / pod["metadata"]["uid"]

    def step(self) -> Manifest:
        """Start what is to run, look after what runs; the pod's status."""
        waiting = next((place for place in self._initial if place.ended != 0), None)
        if waiting is not None:
            self._care(waiting, once=True)
        else:
            for place in self._places:
                self._care(place)
        return self._status()

    def stop(self, grace: float | None = None) -> None:
        """End all containers, with so many seconds for that, or as many as the pod says."""
        if grace is None:
            grace = float(self.pod["spec"].get("terminationGracePeriodSeconds", DEFAULT_GRACE))
        deadline = time.monotonic() + grace
        for place in (*self._initial, *self._places):
            if place.running is not None:
                place.running.stop(max(0.0, deadline - time.monotonic()))
                place.running = None

    def _care(self, place: _Place, *, once: bool = False) -> None:
        if place.running is not None:
            place.ended = place.running.status
            if place.ended is None:
                self._probe(place)
                return
            place.running.stop(0)
            place.running, place.ready = None, False
            if once and place.ended == 0:
                return
            if time.monotonic() - place.begun > _LONGEST_PAUSE:
                place.pause = 0.0
            self._later(place, "CrashLoopBackOff", f"ended with status {place.ended}; starting it again")
        if time.monotonic() >= place.again:
            self._start(place)

    def _start(self, place: _Place) -> None:
        name = place.manifest["name"]
        try:
            if self._volumes is None:
                self._volumes = volumes.prepare(self.pod, self._folder, self._host.authority)
            image = images.find(place.manifest["image"], self._host.store)
            full = full_name(self._host.node, self.pod["metadata"]["name"], name)
            config = runtime_config(
                self.pod, place.manifest, image, self._volumes, self._host.variables, cgroup(self._host.lab, full)
            )
            place.running = Container(full, config, self.log(name))
        except LabError as error:
            self._later(place, "ErrImageNeverPull", str(error))
        except Unsupported as error:
            self._later(place, "CreateContainerConfigError", str(error))
        except (CannotRun, OSError) as error:
            self._later(place, "RunContainerError", str(error))
        else:
            place.restarts += 1
            place.started, place.begun, place.ended, place.failures = now(), time.monotonic(), None, 0
            place.next_probe.clear()
            place.ready = "readinessProbe" not in place.manifest

    def log(self, container: str) -> Path:
        """What a container said, as it is seen on the node."""
        metadata = self.pod["metadata"]
        return LOGS / log_name(metadata["namespace"], metadata["name"], container)

    def _later(self, place: _Place, reason: str, message: str) -> None:
        place.pause = min(_LONGEST_PAUSE, place.pause * 2 or _FIRST_PAUSE)
        place.again = time.monotonic() + place.pause
        place.waiting = reason, message

    def _probe(self, place: _Place) -> None:
        readiness, liveness = (place.manifest.get(f"{kind}Probe") for kind in ("readiness", "liveness"))
        if readiness and self._due(place, "readiness", readiness):
            place.ready = self._answers(readiness["httpGet"], float(readiness.get("timeoutSeconds", 1)))
        if liveness and self._due(place, "liveness", liveness):
            alive = self._answers(liveness["httpGet"], float(liveness.get("timeoutSeconds", 1)))
            place.failures = 0 if alive else place.failures + 1
            if place.failures >= int(liveness.get("failureThreshold", 3)):
                _log.warning("container %s does not answer: ending it", place.manifest["name"])
                assert place.running is not None  # noqa: S101  # what is probed runs
                place.running.stop(1.0)

    def _due(self, place: _Place, kind: str, probe: Manifest) -> bool:
        moment = time.monotonic()
        if moment < place.next_probe.setdefault(kind, place.begun + float(probe.get("initialDelaySeconds", 0))):
            return False
        # Until it is ready it is asked often, so that a lab is up soon.
        often = kind == "readiness" and not place.ready
        place.next_probe[kind] = moment + (0.0 if often else float(probe.get("periodSeconds", 10)))
        return True

    def _answers(self, get: Manifest, timeout: float) -> bool:
        host = get.get("host") or self.pod["status"].get("podIP") or "127.0.0.1"
        connection = http.client.HTTPConnection(host, int(get["port"]), timeout=timeout)
        try:
            connection.request("GET", get.get("path") or "/")
            return 200 <= connection.getresponse().status < 400
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _status(self) -> Manifest:
        initialised = all(place.ended == 0 for place in self._initial)
        running = initialised and all(place.restarts >= 0 for place in self._places)
        ready = all(place.ready for place in self._places)
        held: Callable[[bool], str] = lambda value: "True" if value else "False"  # noqa: E731
        conditions = {
            "Initialized": held(initialised),
            "Ready": held(ready),
            "ContainersReady": held(ready),
            "PodScheduled": "True",
        }
        return {
            "phase": "Running" if running else "Pending",
            "conditions": [{"type": kind, "status": value} for kind, value in conditions.items()],
            "initContainerStatuses": [_status_of(place) for place in self._initial],
            "containerStatuses": [_status_of(place) for place in self._places],
        }


def _status_of(place: _Place) -> Manifest:
    state: Manifest
    if place.running is not None:
        state = {"running": {"startedAt": place.started}}
    elif place.ended == 0:
        state = {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": place.started}}
    else:
        reason, message = place.waiting
        state = {"waiting": {"reason": reason, **({"message": message} if message else {})}}
    return {
        "name": place.manifest["name"],
        "image": images.full_name(place.manifest["image"]),
        "imageID": "",
        "ready": place.ready or (place.running is None and place.ended == 0),
        "started": place.running is not None,
        "restartCount": max(0, place.restarts),
        "state": state,
    }
