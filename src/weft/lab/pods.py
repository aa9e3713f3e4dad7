"""Pods of a lab: made, attached by the node's runtime, removed."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from weft.lab import network, policies
from weft.lab.attach import Job, Outcome
from weft.lab.state import LabState, PodState, Process
from weft.lab.topology import LabError, pod_namespace

#: Processes that are started at the same time.
AT_ONCE = 8
#: Seconds for a pod's process to be there.
START_TIMEOUT = 20.0
#: Seconds for all attaches of one command.
ATTACH_TIMEOUT = 300.0

_POD_PROGRAM = Path(__file__).with_name("pod.py")


def new_pod(
    name: str, node: str, labels: dict[str, str], namespace: str = "default", ports: dict[str, str] | None = None
) -> PodState:
    """A pod that is still to be made, with a container ID as a runtime gives one."""
    return PodState(name, node, secrets.token_hex(32), labels, namespace=namespace, ports=ports or {})


def make(lab: LabState, pods: Sequence[PodState], made: Callable[[PodState], None] = lambda pod: None) -> None:
    """Make the pods, whose names stand in the lab's file already, and attach them, each node's side by side.

    ``made`` is told of each. Raises LabError for the first that fails.
    """
    network.add_namespaces([_namespace(lab, pod) for pod in pods])
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for pod, process in zip(pods, threads.map(lambda pod: _start(lab, pod), pods), strict=True):
            pod.process = process
    lab.write()
    # Labels before the attach: no pod is there before its policies are in force.
    policies.publish(lab)
    by_name = {pod.name: pod for pod in pods}
    nodes = sorted({pod.node for pod in pods})
    errors = []

    def attach(node: str) -> None:
        for outcome in _run_jobs(lab, node, "add", [pod for pod in pods if pod.node == node]):
            if outcome.error:
                errors.append(f"pod {outcome.pod} on {node}: {outcome.error}")
            else:
                by_name[outcome.pod].ip, by_name[outcome.pod].ip6 = outcome.ip, outcome.ip6
                made(by_name[outcome.pod])

    with ThreadPoolExecutor(len(nodes) or 1) as threads:
        for done in [threads.submit(attach, node) for node in nodes]:
            done.result()
    lab.write()
    policies.await_revision(lab, policies.publish(lab))
    if errors:
        raise LabError(errors[0])


def remove(lab: LabState, pod: PodState) -> None:
    """Detach a pod by DEL, as its runtime would, and remove what it consisted of. Raises LabError."""
    for outcome in _run_jobs(lab, pod.node, "del", [pod]):
        if outcome.error:
            raise LabError(f"pod {pod.name}: {outcome.error}")
    if pod.process and pod.process.alive:
        os.kill(pod.process.pid, signal.SIGKILL)
    network.delete_namespaces([_namespace(lab, pod)])
    lab.control_socket(pod).unlink(missing_ok=True)
    lab.pods.remove(pod)
    lab.write()
    policies.publish(lab)


def enter_node(lab: LabState, node: str) -> list[str]:
    """The words before a command that is to run on a node. Raises LabError where the node is down."""
    process = lab.node(node).process
    if process is None or not process.alive:
        raise LabError(f"node {node} is down: 'weft lab up' brings it back")
    return ["nsenter", f"--target={process.pid}", "--net", "--mount", "--uts", "--"]


def _namespace(lab: LabState, pod: PodState) -> str:
    return pod_namespace(lab.settings.name, pod.node, pod.name)


def _start(lab: LabState, pod: PodState) -> Process:
    """Start a pod's process and wait for its control socket."""
    control = lab.control_socket(pod)
    control.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    control.unlink(missing_ok=True)
    process = subprocess.Popen(
        ["nsenter", f"--net={network.NAMESPACES / _namespace(lab, pod)}", "--",
         sys.executable, "-I", "-S", str(_POD_PROGRAM), str(control)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + START_TIMEOUT
    while not control.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise LabError(f"pod {pod.name}: its process did not start (status {process.returncode})")
        time.sleep(0.005)
    return Process.of(process.pid)


def _run_jobs(lab: LabState, node: str, verb: str, pods: Sequence[PodState]) -> list[Outcome]:
    jobs = [
        Job(verb, pod.name, pod.container_id, str(network.NAMESPACES / _namespace(lab, pod)), pod.namespace)
        for pod in pods
    ]
    printed = network.run(
        *enter_node(lab, node), sys.executable, "-m", "weft.lab.attach",
        stdin=msgspec.json.encode(jobs).decode(), timeout=ATTACH_TIMEOUT,
    )  # fmt: skip
    return [msgspec.json.decode(line, type=Outcome) for line in printed.splitlines()]
