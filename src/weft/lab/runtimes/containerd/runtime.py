"""Pods as sandboxes of the nodes' containerd, seen from outside of the nodes."""

import ipaddress
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from weft.lab import network, nodes
from weft.lab.cluster.containers import cgroup
from weft.lab.runtimes.containerd import image, pod_config
from weft.lab.runtimes.containerd.cri import Cri, CriError, RuntimeAway
from weft.lab.runtimes.containerd.daemon import PODS, socket_of
from weft.lab.state import LabState, NodeState, PodState
from weft.lab.topology import LabError

#: Pods that are made at the same time on one node.
AT_ONCE = 4
#: Seconds for containerd to serve, and for a pod's process to be there.
START_TIMEOUT = 30.0
_IMAGE = "pod-image.tar"
_LOG = "containerd.log"


class Containerd:
    """``base.Runtime``."""

    #: With a PID namespace of its own nothing outlives a node: no shim, no container, nor what they have mounted.
    node_namespaces: Sequence[str] = ("--pid", "--fork", "--kill-child", "--mount-proc")

    def require(self) -> None:
        for program in ("containerd", "ctr", "runc"):
            if shutil.which(program) is None:
                mend = "run 'make setup-containerd', or leave out --runtime containerd"
                raise LabError(f"{program} is not installed: {mend}")
        image.require()

    def version(self) -> str:
        words = network.run("containerd", "--version").split()
        return f"containerd://{words[2].partition('~')[0]}"

    def namespaces(self, lab: LabState) -> list[str]:
        return []  # they are the nodes' own

    def await_node(self, lab: LabState, node: NodeState) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        with Cri(socket_of(lab.node_folder(node.name))) as cri:
            while True:
                try:
                    conditions = cri.conditions()
                    if not conditions.get("RuntimeReady", "it does not say"):
                        _import_image(lab, node.name, cri)
                        if not conditions.get("NetworkReady", "it does not say"):
                            return
                    why = "; ".join(filter(None, conditions.values()))
                except RuntimeAway as error:
                    why = _last_complaint(lab.node_folder(node.name) / _LOG) or str(error)
                if time.monotonic() > deadline or node.process is None or not node.process.alive:
                    raise LabError(f"node {node.name}: containerd is not ready: {why}")
                time.sleep(0.02)

    def prepare(self, lab: LabState, pods: Sequence[PodState]) -> None:
        for pod in pods:
            shutil.rmtree(lab.pod_folder(pod), ignore_errors=True)
            lab.pod_folder(pod).mkdir(mode=0o700, parents=True)

    def attach(self, lab: LabState, node: str, pods: Sequence[PodState]) -> Iterator[tuple[PodState, str]]:
        with _cri(lab, node) as cri, ThreadPoolExecutor(AT_ONCE) as threads:
            started = {threads.submit(_run, lab, cri, pod): pod for pod in pods}
            for done in as_completed(started):
                try:
                    done.result()
                except LabError as error:
                    yield started[done], str(error)
                else:
                    yield started[done], ""

    def remove(self, lab: LabState, pod: PodState) -> None:
        with _cri(lab, pod.node) as cri:
            _remove_all(cri, [item.id for item in cri.sandboxes(pod_config.labels(pod))])

    def remove_strays(self, lab: LabState) -> int:
        known = {pod.container_id for pod in lab.pods}
        count = 0
        for node in lab.nodes:
            with _cri(lab, node.name) as cri:
                strays = [item.id for item in cri.sandboxes() if item.id not in known]
                _remove_all(cri, strays)
                count += len(strays)
        return count

    def running(self, lab: LabState) -> frozenset[str]:
        alive: set[str] = set()
        for node in lab.nodes:
            if node.process is not None and node.process.alive:
                try:
                    with _cri(lab, node.name) as cri:
                        ready = {item.id for item in cri.sandboxes() if item.ready}
                        alive |= ready & cri.running_containers().keys()
                except CriError:
                    continue
        return frozenset(pod.name for pod in lab.pods if pod.container_id in alive)

    def enter(self, lab: LabState, pod: PodState) -> list[str]:
        with _cri(lab, pod.node) as cri:
            container = cri.running_containers().get(pod.container_id)
            process = cri.process_of(container) if container else 0
        if not process:
            raise LabError(f"pod {pod.name} does not run: 'weft lab up' brings it back")
        # With all that its namespaces have, and with all capabilities: on a lab one wants to break things, too.
        return [
            *nodes.enter(lab, pod.node),
            "nsenter", f"--target={process}", "--mount", "--uts", "--ipc", "--net", *nodes.IN_PID_NAMESPACE,
        ]  # fmt: skip


def _cri(lab: LabState, node: str) -> Cri:
    """Raises LabError where the node is down."""
    nodes.first_process(lab, node)
    return Cri(socket_of(lab.node_folder(node)))


def _run(lab: LabState, cri: Cri, pod: PodState) -> None:
    """What a kubelet does for a new pod. Raises LabError."""
    folder = PODS / lab.pod_folder(pod).name
    earlier = [item.attempt for item in cri.sandboxes(pod_config.labels(pod)) if item.uid == pod.uid]
    attempt = max(earlier, default=-1) + 1
    wanted = pod_config.sandbox(pod, attempt, folder, cgroup(lab.settings.name, pod.node))
    pod.container_id = cri.run_sandbox(wanted)
    status = cri.sandbox_status(pod.container_id)
    pod.netns = Path(status.netns).name
    by_family = {ipaddress.ip_address(address).version: address for address in reversed(status.addresses)}
    container = pod_config.container(pod, folder, Path(sys.executable).resolve())
    cri.run_container(pod.container_id, container, wanted)
    deadline = time.monotonic() + START_TIMEOUT
    while not lab.control_socket(pod).exists():
        if time.monotonic() > deadline or pod.container_id not in cri.running_containers():
            raise LabError(f"its process did not start: {_last_line(lab.pod_folder(pod) / pod_config.LOG)}")
        time.sleep(0.01)
    pod.ip, pod.ip6 = by_family.get(4, ""), by_family.get(6, "")


def _remove_all(cri: Cri, sandboxes: Sequence[str]) -> None:
    for identity in sandboxes:
        cri.stop_sandbox(identity)
        cri.remove_sandbox(identity)


def _import_image(lab: LabState, node: str, cri: Cri) -> None:
    """Give a node the pods' image, where it lacks it."""
    if cri.has_image(image.NAME):
        return
    archive = lab.folder / _IMAGE
    if not archive.exists():
        image.write(archive)
    with archive.open("rb") as content:
        done = subprocess.run(
            [*nodes.enter(lab, node), "ctr", "--namespace", "k8s.io", "images", "import", "-"],
            stdin=content, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    if done.returncode:
        raise LabError(f"node {node}: ctr does not take the pods' image: {done.stderr.strip()}")


def _last_complaint(log: Path) -> str:
    lines = [line for line in _lines(log) if "level=fatal" in line or line.startswith("containerd: ")]
    return lines[-1] if lines else ""


def _last_line(log: Path) -> str:
    lines = _lines(log)
    return lines[-1] if lines else "no word from it"


def _lines(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines() if log.exists() else []
