"""Pods as processes of this machine, seen from outside of the nodes."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from weft.lab import network, nodes
from weft.lab.runtimes.base import POD_PROGRAM
from weft.lab.runtimes.processes.attach import Job, Outcome
from weft.lab.state import LabState, NodeState, PodState, Process
from weft.lab.topology import LabError, pod_namespace

#: Processes that are started at the same time.
AT_ONCE = 8
#: Seconds for a pod's process to be there.
START_TIMEOUT = 20.0
#: Seconds for all attaches of one command.
ATTACH_TIMEOUT = 300.0


class Processes:
    """``base.Runtime``."""

    node_namespaces: Sequence[str] = ()

    def require(self) -> None:
        """Nothing but what every lab needs."""

    def version(self) -> str:
        return "weft-lab://0"

    def namespaces(self, lab: LabState) -> list[str]:
        return [_namespace(lab, pod) for pod in lab.pods]

    def await_node(self, lab: LabState, node: NodeState) -> None:
        """A node whose agent is ready is all that is needed."""

    def prepare(self, lab: LabState, pods: Sequence[PodState]) -> None:
        network.add_namespaces([_namespace(lab, pod) for pod in pods])
        with ThreadPoolExecutor(AT_ONCE) as threads:
            for pod, process in zip(pods, threads.map(lambda pod: _start(lab, pod), pods), strict=True):
                pod.process, pod.netns = process, _namespace(lab, pod)

    def attach(self, lab: LabState, node: str, pods: Sequence[PodState]) -> Iterator[tuple[PodState, str]]:
        by_name = {pod.name: pod for pod in pods}
        for outcome in _run_jobs(lab, node, "add", pods):
            pod = by_name[outcome.pod]
            pod.ip, pod.ip6 = outcome.ip, outcome.ip6
            yield pod, outcome.error

    def remove(self, lab: LabState, pod: PodState) -> None:
        for outcome in _run_jobs(lab, pod.node, "del", [pod]):
            if outcome.error:
                raise LabError(f"pod {pod.name}: {outcome.error}")
        # Its own process, and what commands have left running there.
        for pid in network.processes_in([_namespace(lab, pod)]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        network.delete_namespaces([_namespace(lab, pod)])

    def remove_strays(self, lab: LabState) -> int:
        return 0  # the lab's file names all that there is

    def running(self, lab: LabState) -> frozenset[str]:
        return frozenset(pod.name for pod in lab.pods if pod.process and pod.process.alive)

    def enter(self, lab: LabState, pod: PodState) -> list[str]:
        # A command finds the folder that it was called from.
        return [*_enter(lab, pod), "env", f"--chdir={Path.cwd()}"]


def _namespace(lab: LabState, pod: PodState) -> str:
    return pod_namespace(lab.settings.name, pod.node, pod.name)


def _place(lab: LabState, pod: PodState) -> Path:
    return network.NAMESPACES / _namespace(lab, pod)


def _enter(lab: LabState, pod: PodState) -> list[str]:
    return ["nsenter", f"--net={_place(lab, pod)}", "--"]


def _start(lab: LabState, pod: PodState) -> Process:
    """Start a pod's process and wait for its control socket."""
    control = lab.control_socket(pod)
    control.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    control.unlink(missing_ok=True)
    process = subprocess.Popen(
        [*_enter(lab, pod), sys.executable, "-I", "-S", str(POD_PROGRAM), str(control)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + START_TIMEOUT
    while not control.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise LabError(f"pod {pod.name}: its process did not start (status {process.returncode})")
        time.sleep(0.005)
    return Process.of(process.pid)


def _run_jobs(lab: LabState, node: str, verb: str, pods: Sequence[PodState]) -> list[Outcome]:
    jobs = [
        Job(
            verb, pod.name, pod.container_id, str(_place(lab, pod)), pod.namespace, pod.uid,
            pod.annotations,
        )
        for pod in pods
    ]  # fmt: skip
    printed = network.run(
        *nodes.enter(lab, node), sys.executable, "-m", "weft.lab.runtimes.processes.attach",
        stdin=msgspec.json.encode(jobs).decode(), timeout=ATTACH_TIMEOUT,
    )  # fmt: skip
    return [msgspec.json.decode(line, type=Outcome) for line in printed.splitlines()]
