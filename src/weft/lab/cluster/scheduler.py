"""What Kubernetes' scheduler does: a node for every pod that has none, as much of it as a lab's pods ask for."""

import contextlib
from collections.abc import Callable, Sequence

from weft.lab.api.errors import ApiError
from weft.lab.api.kinds import KINDS
from weft.lab.api.storage import Object, Selection, Storage
from weft.lab.cluster.objects import is_ready

_KINDS = {kind.name: kind for kind in KINDS}
_POD, _NODE = _KINDS["Pod"], _KINDS["Node"]


def bind_pods(storage: Storage) -> None:
    """Give a node to each pod without one, or say in its status why there is none."""
    pods = storage.list(Selection(_POD))[0]
    waiting = [pod for pod in pods if not pod["spec"].get("nodeName")]
    if not waiting:
        return
    nodes = storage.list(Selection(_NODE))[0]
    counts = {node["metadata"]["name"]: 0 for node in nodes}
    for pod in pods:
        if (name := pod["spec"].get("nodeName")) in counts:
            counts[name] += 1
    for pod in waiting:
        fit = [node["metadata"]["name"] for node in nodes if fits(pod, node)]
        if fit:
            chosen = min(fit, key=counts.__getitem__)
            counts[chosen] += 1
            _bind(storage, pod, chosen)
        else:
            _say_unschedulable(storage, pod, nodes)


def fits(pod: Object, node: Object) -> bool:
    """Whether a pod may run on a node: one that is ready, takes pods, and has the labels that the pod asks for."""
    labels = node["metadata"].get("labels") or {}
    wanted = pod["spec"].get("nodeSelector") or {}
    return is_ready(node) and not node["spec"].get("unschedulable") and wanted.items() <= labels.items()


def _bind(storage: Storage, pod: Object, node: str) -> None:
    def edit(item: Object) -> Object:
        item["spec"]["nodeName"] = node
        return item

    _change(storage, pod, edit)


def _say_unschedulable(storage: Storage, pod: Object, nodes: Sequence[Object]) -> None:
    told = {
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": f"0/{len(nodes)} nodes are available: none is ready, takes pods and has the labels asked for.",
    }  # fmt: skip

    def edit(item: Object) -> Object:
        return item | {"status": (item.get("status") or {}) | {"phase": "Pending", "conditions": [told]}}

    _change(storage, pod, edit, status=True)


def _change(storage: Storage, pod: Object, edit: Callable[[Object], Object], *, status: bool = False) -> None:
    metadata = pod["metadata"]
    with contextlib.suppress(ApiError):  # it has just been deleted
        storage.change(_POD, metadata["namespace"], metadata["name"], edit, status=status)
