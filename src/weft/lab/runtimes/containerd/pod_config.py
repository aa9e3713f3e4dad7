"""A pod of the lab in CRI's words, as a kubelet puts a Pod: its sandbox and its one container. Pure."""

from pathlib import Path
from typing import Any

from weft.lab.runtimes.base import POD_PROGRAM
from weft.lab.runtimes.containerd import image
from weft.lab.runtimes.containerd.messages import NAMESPACE_OF_CONTAINER, NAMESPACE_OF_POD
from weft.lab.state import PodState

#: In a container: what the pod has of files, and the program that it runs.
_OWN = "/run/pod"
_PROGRAM = "/pod.py"
#: Who writes these labels on a node: a kubelet.
_LABEL = "io.kubernetes.pod."
_CONTAINER = "pod"
LOG = "pod.log"
CONTROL = "control.sock"

_NAMESPACES = {
    "namespace_options": {"network": NAMESPACE_OF_POD, "pid": NAMESPACE_OF_CONTAINER, "ipc": NAMESPACE_OF_POD}
}


def labels(pod: PodState) -> dict[str, str]:
    """By which a pod's sandboxes are found, whatever became of them."""
    return {f"{_LABEL}name": pod.name, f"{_LABEL}namespace": pod.namespace}


def sandbox(pod: PodState, attempt: int, folder: Path, cgroup: str) -> dict[str, Any]:
    """A PodSandboxConfig. ``folder``: what the pod has of files, as its node sees it."""
    return {
        "metadata": {"name": pod.name, "uid": pod.uid, "namespace": pod.namespace, "attempt": attempt},
        "hostname": pod.name,
        "log_directory": str(folder),
        "labels": {**pod.labels, **labels(pod), f"{_LABEL}uid": pod.uid},
        # containerd tells the network's plugins of them.
        "annotations": pod.annotations,
        "linux": {"cgroup_parent": cgroup, "security_context": _NAMESPACES},
    }


def container(pod: PodState, folder: Path, python: Path) -> dict[str, Any]:
    """The ContainerConfig of the lab's pod process. It keeps the capabilities that a runtime gives by default."""
    mounts = [{"container_path": path, "host_path": path, "readonly": True} for path in image.bound()]
    return {
        "metadata": {"name": _CONTAINER},
        "image": {"image": image.NAME},
        "command": [str(python), "-I", "-S", _PROGRAM],
        "args": [f"{_OWN}/{CONTROL}"],
        "mounts": [
            *mounts,
            {"container_path": _PROGRAM, "host_path": str(POD_PROGRAM), "readonly": True},
            {"container_path": _OWN, "host_path": str(folder)},
        ],
        "labels": {**labels(pod), f"{_LABEL}uid": pod.uid, "io.kubernetes.container.name": _CONTAINER},
        "log_path": LOG,
        "linux": {"security_context": _NAMESPACES},
    }
