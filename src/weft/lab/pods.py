"""Pods of a lab: made, attached by the node's runtime, removed."""

import contextlib
import secrets
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

from weft.lab import policies, runtimes
from weft.lab.policy_check import order
from weft.lab.state import LabState, PodState
from weft.lab.topology import LabError


def new_pod(
    name: str,
    node: str,
    labels: dict[str, str],
    namespace: str = "default",
    ports: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
) -> PodState:
    """A pod that is still to be made, with a container ID as a runtime gives one."""
    return PodState(
        name,
        node,
        secrets.token_hex(32),
        labels,
        namespace=namespace,
        ports=ports or {},
        uid=str(uuid4()),
        annotations=annotations or {},
    )


def make(lab: LabState, pods: Sequence[PodState], made: Callable[[PodState], None] = lambda pod: None) -> None:
    """Make the pods, whose names stand in the lab's file already, and attach them, each node's side by side.

    ``made`` is told of each. Raises LabError for the first that fails.
    """
    for name, error in attempt(lab, pods, made).items():
        raise LabError(f"pod {name} on {lab.pod(name).node}: {error}")


def attempt(
    lab: LabState, pods: Sequence[PodState], made: Callable[[PodState], None] = lambda pod: None
) -> dict[str, str]:
    """What ``make`` does; what went wrong with which pod. Raises LabError where it is not one of them."""
    runtime = runtimes.of(lab)
    # Labels before the attach: no pod is there before its policies are in force.
    policies.publish(lab)
    lab.write()
    runtime.prepare(lab, pods)
    lab.write()
    nodes = sorted({pod.node for pod in pods})
    errors = {}

    def attach(node: str) -> None:
        for pod, error in runtime.attach(lab, node, [pod for pod in pods if pod.node == node]):
            if error:
                errors[pod.name] = error
            else:
                serve(lab, pod)
                made(pod)

    with ThreadPoolExecutor(len(nodes) or 1) as threads:
        for done in [threads.submit(attach, node) for node in nodes]:
            done.result()
    lab.write()
    policies.await_revision(lab, policies.publish(lab))
    return errors


def serve(lab: LabState, pod: PodState) -> None:
    """Let a pod answer on the ports that it names, where it can."""
    ports = [
        (protocol, int(number)) for protocol, _, number in (port.partition("/") for port in pod.ports.values())
    ]
    if ports:
        with contextlib.suppress(OSError, ValueError):
            order(lab, pod, {"serve": ports})


def restart(lab: LabState, pods: Sequence[PodState]) -> None:
    """Make pods run again that do not, as a kubelet does: the same pods, with other sandboxes and addresses."""
    clear(lab, pods)
    make(lab, pods)


def clear(lab: LabState, pods: Sequence[PodState]) -> None:
    """Remove what is left of pods that are to be made anew. Raises LabError."""
    for pod in pods:
        runtimes.of(lab).remove(lab, pod)
        pod.container_id, pod.ip, pod.ip6 = secrets.token_hex(32), "", ""


def remove(lab: LabState, pod: PodState) -> None:
    """Detach a pod by DEL, as its runtime would, and remove what it consisted of. Raises LabError."""
    runtimes.of(lab).remove(lab, pod)
    shutil.rmtree(lab.pod_folder(pod), ignore_errors=True)
    lab.pods.remove(pod)
    lab.write()
    policies.publish(lab)
