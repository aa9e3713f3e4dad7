"""What Kubernetes' DaemonSet controller does: a Pod object per node, new ones for old ones, a status."""

import contextlib
import hashlib
import json
import secrets
from typing import Any

from weft.lab.api.deletion import is_ending
from weft.lab.api.errors import ApiError
from weft.lab.api.kinds import KINDS
from weft.lab.api.storage import Object, Selection, Storage
from weft.lab.cluster.objects import is_ready

_KINDS = {kind.name: kind for kind in KINDS}
_DAEMONSET, _POD, _NODE = (_KINDS[name] for name in ("DaemonSet", "Pod", "Node"))
HASH = "controller-revision-hash"
#: Letters of generated names: no vowels, no words (Kubernetes: apimachinery's rand).
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"


def reconcile(storage: Storage) -> None:
    """Make the pods of all DaemonSets as they say. What changes meanwhile is for the next time."""
    nodes = {
        item["metadata"]["name"]: next(
            (a["address"] for a in item["status"].get("addresses") or () if a["type"] == "InternalIP"), ""
        )
        for item in storage.list(Selection(_NODE))[0]
    }
    sets = {item["metadata"]["uid"]: item for item in storage.list(Selection(_DAEMONSET))[0]}
    owned: dict[str, list[Object]] = {uid: [] for uid in sets}
    for pod in storage.list(Selection(_POD))[0]:
        owner = next((one for one in pod["metadata"].get("ownerReferences") or () if one.get("controller")), None)
        if owner is None or owner["kind"] != "DaemonSet":
            continue
        if pod["spec"]["nodeName"] not in nodes:
            _delete(storage, pod, grace=0)  # nobody is left there who could end it
        elif owner["uid"] in owned:
            owned[owner["uid"]].append(pod)
        else:
            _delete(storage, pod)
    for uid, item in sets.items():
        _reconcile_one(storage, item, nodes, owned[uid])


def template_hash(item: Object) -> str:
    """What tells pods of one template from those of another."""
    text = json.dumps(item["spec"]["template"], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def replaceable(item: Object, nodes: int, old: list[Object], available: int) -> list[Object]:
    """Which pods of an old template may end now: those that do not run anyway, others as the strategy allows."""
    strategy = item["spec"].get("updateStrategy") or {}
    if strategy.get("type") == "OnDelete":
        return []
    limit = str((strategy.get("rollingUpdate") or {}).get("maxUnavailable", 1))
    most = -(-int(limit[:-1]) * nodes // 100) if limit.endswith("%") else int(limit)
    broken = [pod for pod in old if not is_ready(pod)]
    spare = max(0, max(most, 1) - (nodes - available))
    return [*broken, *[pod for pod in old if is_ready(pod)][:spare]]


def _reconcile_one(storage: Storage, item: Object, nodes: dict[str, str], pods: list[Object]) -> None:
    present = template_hash(item)
    # A new one comes when the old one is gone: both may want the same ports.
    ending = [pod for pod in pods if is_ending(pod)]
    pods = [pod for pod in pods if not is_ending(pod)]
    old = [pod for pod in pods if pod["metadata"]["labels"].get(HASH) != present]
    ready = [pod for pod in pods if is_ready(pod)]
    for pod in replaceable(item, len(nodes), old, len(ready)):
        pods.remove(pod)
        if _delete(storage, pod):
            ending.append(pod)
    with_pod = {pod["spec"]["nodeName"] for pod in (*pods, *ending)}
    for node, address in nodes.items():
        if node not in with_pod:
            pods.append(storage.create(_POD, item["metadata"]["namespace"], pod_of(item, node, address, present)))
    new = [pod for pod in pods if pod["metadata"]["labels"].get(HASH) == present]
    ready = [pod for pod in pods if is_ready(pod)]
    status = {
        "desiredNumberScheduled": len(nodes),
        "currentNumberScheduled": len(pods),
        "numberReady": len(ready),
        "numberAvailable": len(ready),
        "updatedNumberScheduled": len(new),
        "numberMisscheduled": 0,
        "observedGeneration": item["metadata"].get("generation", 1),
    }
    if item.get("status") != status:
        metadata = item["metadata"]
        with contextlib.suppress(ApiError):  # it has just been deleted
            storage.change(
                _DAEMONSET,
                metadata["namespace"],
                metadata["name"],
                lambda now: now | {"status": status},
                status=True,
            )


def pod_of(item: Object, node: str, address: str, template: str) -> dict[str, Any]:
    """The pod of a DaemonSet on a node."""
    metadata, wanted = item["metadata"], item["spec"]["template"]
    suffix = "".join(secrets.choice(_LETTERS) for _ in range(5))
    labels = (wanted.get("metadata") or {}).get("labels") or {}
    owner = {
        "apiVersion": _DAEMONSET.api_version, "kind": "DaemonSet", "name": metadata["name"],
        "uid": metadata["uid"], "controller": True, "blockOwnerDeletion": True,
    }  # fmt: skip
    on_host = {"podIP": address, "podIPs": [{"ip": address}]} if wanted["spec"].get("hostNetwork") else {}
    return {
        "metadata": {
            "name": f"{metadata['name']}-{suffix}",
            "labels": {**labels, HASH: template},
            "ownerReferences": [owner],
        },
        "spec": {**wanted["spec"], "nodeName": node},
        "status": {"phase": "Pending", "hostIP": address, **on_host},
    }


def _delete(storage: Storage, pod: Object, grace: int | None = None) -> bool:
    """Delete a pod; whether it is still there, ending."""
    try:
        return is_ending(storage.delete(_POD, pod["metadata"]["namespace"], pod["metadata"]["name"], grace=grace))
    except ApiError:
        return False  # somebody was quicker
