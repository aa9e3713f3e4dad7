"""What a lab cannot have, and what it says of objects that it does nothing with."""

from typing import Any

from weft.lab.api.errors import ApiError
from weft.lab.api.kinds import KINDS, Kind
from weft.lab.api.storage import Selection, Storage
from weft.lab.cluster.manifests import LAB_IMAGE, is_labs

Object = dict[str, Any]

_KINDS = {kind.name: kind for kind in KINDS}
#: kubectl prints these after ``Warning:``.
_WITHOUT_CONTROLLER = {
    "Deployment": "a lab has no controller for Deployments: make pods by 'kubectl run NAME --image=ANY "
    "--labels=KEY=VALUE', or one per node by a DaemonSet",
    "Service": "a lab has no kube-proxy and no DNS: ask pods at their own addresses ('kubectl get pods -o wide')",
}
_OWN_PROGRAM = (
    "a lab's pods all run the lab's own program, which answers on TCP port 80 and on the pod's containerPorts; "
    "the image is not used, and the command runs for who attaches to it"
)


def admit(storage: Storage, kind: Kind, namespace: str, item: Object) -> list[str]:
    """What a client is to know of an object that it creates. Raises ApiError where the lab cannot have it."""
    if kind.name == "Pod":
        return _pod(storage, namespace, item)
    if kind.name == "DaemonSet":
        template = (item.get("spec") or {}).get("template") or {}
        return [_OWN_PROGRAM] if is_labs(template) else []
    return [text] if (text := _WITHOUT_CONTROLLER.get(kind.name)) else []


def _pod(storage: Storage, namespace: str, item: Object) -> list[str]:
    if not is_labs(item):
        return []
    name = (item.get("metadata") or {}).get("name")
    for other in storage.list(Selection(_KINDS["Node"]))[0]:
        if other["metadata"]["name"] == name:
            raise ApiError("Forbidden", f'pods "{name}" is forbidden: a node of the lab has that name')
    for other in storage.list(Selection(_KINDS["Pod"]))[0]:
        where = other["metadata"]["namespace"]
        if other["metadata"]["name"] == name and where != namespace:
            raise ApiError(
                "Forbidden",
                f'pods "{name}" is forbidden: a lab has one pod of a name, and this one is in namespace {where} '
                "already: take another name",
            )
    images = {one.get("image") for one in (item.get("spec") or {}).get("containers") or ()}
    return [] if images == {LAB_IMAGE} else [_OWN_PROGRAM]
