"""Pods of a lab: made, attached by the node's runtime, removed."""

import secrets
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

from weft.lab import policies, runtimes
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
    runtime = runtimes.of(lab)
    # Labels before the attach: no pod is there before its policies are in force.
    policies.publish(lab)
    lab.write()
    runtime.prepare(lab, pods)
    lab.write()
    nodes = sorted({pod.node for pod in pods})
    errors = []

    def attach(node: str) -> None:
        for pod, error in runtime.attach(lab, node, [pod for pod in pods if pod.node == node]):
            if error:
                errors.append(f"pod {pod.name} on {node}: {error}")
            else:
                made(pod)

    with ThreadPoolExecutor(len(nodes) or 1) as threads:
        for done in [threads.submit(attach, node) for node in nodes]:
            done.result()
    lab.write()
    policies.await_revision(lab, policies.publish(lab))
    if errors:
        raise LabError(errors[0])


def restart(lab: LabState, pods: Sequence[PodState]) -> None:
    """Make pods run again that do not, as a kubelet does: the same pods, with other sandboxes and addresses."""
    for pod in pods:
        runtimes.of(lab).remove(lab, pod)
        pod.container_id, pod.ip, pod.ip6 = secrets.token_hex(32), "", ""
    make(lab, pods)


def remove(lab: LabState, pod: PodState) -> None:
    """Detach a pod by DEL, as its runtime would, and remove what it consisted of. Raises LabError."""
    runtimes.of(lab).remove(lab, pod)
    shutil.rmtree(lab.pod_folder(pod), ignore_errors=True)
    lab.pods.remove(pod)
    lab.write()
    policies.publish(lab)
