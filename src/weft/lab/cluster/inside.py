"""Ways into a lab's pods for kubectl exec, attach and logs."""

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from weft.lab import nodes, runtimes, state
from weft.lab.api.errors import ApiError
from weft.lab.api.kinds import KINDS
from weft.lab.api.storage import Object, Storage
from weft.lab.cluster import containers
from weft.lab.cluster.manifests import is_labs, now
from weft.lab.state import LabState
from weft.lab.topology import LabError

_POD = next(kind for kind in KINDS if kind.name == "Pod")


class Inside:
    """``weft.lab.api.pod_access.PodAccess``."""

    def __init__(self, lab: str, storage: Storage) -> None:
        self._lab = lab
        self._storage = storage

    def log(self, pod: Object, container: str) -> Path:
        name, metadata = _container(pod, container)["name"], pod["metadata"]
        if is_labs(pod):
            raise ApiError("BadRequest", f"pod {metadata['name']} runs the lab's own program, which writes no log")
        with self._present() as lab:
            logs = lab.node_folder(pod["spec"]["nodeName"]) / containers.LOGS.relative_to("/")
        path = logs / containers.log_name(metadata["namespace"], metadata["name"], name)
        if not path.exists():
            raise ApiError("BadRequest", f"container {name} of pod {metadata['name']} has not run yet")
        return path

    def command(self, pod: Object, container: str, words: Sequence[str], *, tty: bool) -> list[str]:
        name, metadata = _container(pod, container)["name"], pod["metadata"]
        node = pod["spec"].get("nodeName")
        with self._present() as lab:
            if not is_labs(pod):
                full = containers.full_name(node, metadata["name"], name)
                return [*nodes.enter(lab, node), *containers.execute(full, words, tty=tty)]
            found = next((one for one in lab.pods if one.uid == metadata["uid"]), None)
            if found is None or not found.ip:
                raise LabError(f"pod {metadata['name']} does not run: 'kubectl describe pod' may say why")
            return [*runtimes.of(lab).enter(lab, found), *words]

    def own_command(self, pod: Object, container: str, *, tty: bool) -> list[str]:
        found, name = _container(pod, container), pod["metadata"]["name"]
        words = [*(found.get("command") or ()), *(found.get("args") or ())] or (["sh"] if tty else [])
        if not is_labs(pod) or not words:
            raise ApiError(
                "BadRequest",
                f"pod {name} has nothing to attach to: run a command by 'kubectl exec {name} -- COMMAND'",
            )
        return self.command(pod, container, words, tty=tty)

    def environment(self) -> Mapping[str, str]:
        # `weft` is found there, as by 'weft lab exec'.
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
        return {**os.environ, "PATH": path, "TERM": os.environ.get("TERM", "xterm")}

    def say_ended(self, pod: Object, status: int) -> None:
        if pod["spec"].get("restartPolicy", "Always") == "Always" or status < 0:
            return
        ended = {"exitCode": status, "reason": "Error" if status else "Completed", "finishedAt": now()}

        def edit(item: Object) -> Object:
            told = item["status"]
            told["phase"] = "Failed" if status else "Succeeded"
            for one in told.get("containerStatuses") or ():
                one |= {"ready": False, "started": False, "state": {"terminated": ended}}
            return item

        metadata = pod["metadata"]
        with contextlib.suppress(ApiError):  # it is gone
            self._storage.change(_POD, metadata["namespace"], metadata["name"], edit, status=True)

    @contextmanager
    def _present(self) -> Iterator[LabState]:
        try:
            yield state.required(self._lab)
        except LabError as error:
            raise ApiError("BadRequest", str(error)) from None


def _container(pod: Object, name: str) -> Object:
    """A container of a pod, the first by default. Raises ApiError."""
    listed: list[Object] = pod["spec"]["containers"]
    for one in listed:
        if name in ("", one["name"]):
            return one
    names = ", ".join(one["name"] for one in listed)
    raise ApiError("BadRequest", f"pod {pod['metadata']['name']} has no container {name}; there are: {names}")
