"""What ``kubectl get`` prints: a Table per kind, made by the server (meta.k8s.io/v1 Table)."""

import datetime
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from weft.lab.api.deletion import is_ending
from weft.lab.api.kinds import Kind

Object = Mapping[str, Any]
#: A column's name, whether it is shown with -o wide only, and its value.
Column = tuple[str, bool, Callable[[Object], Any]]


def table(kind: Kind, items: Sequence[Object], version: str) -> dict[str, Any]:
    """The objects as a Table."""
    columns = _COLUMNS.get(kind.name, _DEFAULT)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": version},
        "columnDefinitions": [
            {
                "name": name,
                "type": "string",
                "format": "name" if name == "Name" else "",
                "description": name,
                "priority": int(wide),
            }
            for name, wide, _ in columns
        ],
        "rows": [{"cells": [value(item) for _, _, value in columns], "object": partial(item)} for item in items],
    }


def partial(item: Object) -> dict[str, Any]:
    """An object's metadata alone."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": item["metadata"]}


def age(item: Object) -> str:
    """How long ago an object was made, in kubectl's short words."""
    return _since(item["metadata"]["creationTimestamp"])


def _since(moment: str) -> str:
    made = datetime.datetime.fromisoformat(moment)
    seconds = max(0, int((datetime.datetime.now(datetime.UTC) - made).total_seconds()))
    if seconds < 120:
        return f"{seconds}s"
    minutes = seconds // 60
    if minutes < 10:
        return f"{minutes}m{seconds % 60}s" if seconds % 60 else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    return f"{minutes // 60}h" if minutes < 60 * 48 else f"{minutes // 1440}d"


def _at(*path: str, default: Any = "<none>") -> Callable[[Object], Any]:
    def value(item: Any) -> Any:
        for step in path:
            item = item.get(step) if isinstance(item, Mapping) else None
        return default if item in (None, "") else item

    return value


def _name(item: Object) -> str:
    return str(item["metadata"]["name"])


def _ready(item: Object) -> str:
    statuses = item.get("status", {}).get("containerStatuses") or []
    total = len(item.get("spec", {}).get("containers") or []) or len(statuses)
    return f"{sum(bool(one.get('ready')) for one in statuses)}/{total}"


def _restarts(item: Object) -> int:
    return sum(one.get("restartCount", 0) for one in item.get("status", {}).get("containerStatuses") or [])


def _pod_status(item: Object) -> str:
    """What keeps a pod from running, in the words that kubectl's printers use; else its phase."""
    if is_ending(item):
        return "Terminating"
    status = item.get("status", {})
    initial = status.get("initContainerStatuses") or []
    for number, one in enumerate(initial):
        state = one.get("state", {})
        if "waiting" in state and state["waiting"].get("reason") != "PodInitializing":
            return f"Init:{state['waiting']['reason']}"
        if "terminated" not in state:
            return f"Init:{number}/{len(initial)}"
    for one in reversed(status.get("containerStatuses") or []):
        state = one.get("state", {})
        if reason := (state.get("waiting") or state.get("terminated") or {}).get("reason"):
            return str(reason)
    return str(status.get("phase") or "Unknown")


def _node_status(item: Object) -> str:
    conditions = {one["type"]: one["status"] for one in item.get("status", {}).get("conditions") or []}
    words = ["Ready" if conditions.get("Ready") == "True" else "NotReady"]
    if item.get("spec", {}).get("unschedulable"):
        words.append("SchedulingDisabled")
    return ",".join(words)


def _roles(item: Object) -> str:
    prefix = "node-role.kubernetes.io/"
    labels = item["metadata"].get("labels") or {}
    return ",".join(sorted(key.removeprefix(prefix) for key in labels if key.startswith(prefix))) or "<none>"


def _address(kind: str) -> Callable[[Object], str]:
    def value(item: Object) -> str:
        found = item.get("status", {}).get("addresses") or []
        return next((str(one["address"]) for one in found if one["type"] == kind), "<none>")

    return value


def _selector(item: Any) -> str:
    labels = (item or {}).get("matchLabels", item) or {}
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items())) or "<none>"


def _containers(key: str) -> Callable[[Object], str]:
    return lambda item: ",".join(one.get(key, "") for one in item["spec"]["template"]["spec"]["containers"])


def _ports(item: Object) -> str:
    ports = item.get("spec", {}).get("ports") or []
    return ",".join(f"{one.get('port')}/{one.get('protocol', 'TCP')}" for one in ports) or "<none>"


_DEFAULT: tuple[Column, ...] = (("Name", False, _name), ("Age", False, age))
_COLUMNS: dict[str, tuple[Column, ...]] = {
    "Pod": (
        ("Name", False, _name),
        ("Ready", False, _ready),
        ("Status", False, _pod_status),
        ("Restarts", False, _restarts),
        ("Age", False, age),
        ("IP", True, _at("status", "podIP")),
        ("Node", True, _at("spec", "nodeName")),
        ("Nominated Node", True, _at("status", "nominatedNodeName")),
        ("Readiness Gates", True, lambda item: "<none>"),
    ),
    "Node": (
        ("Name", False, _name),
        ("Status", False, _node_status),
        ("Roles", False, _roles),
        ("Age", False, age),
        ("Version", False, _at("status", "nodeInfo", "kubeletVersion", default="")),
        ("Internal-IP", True, _address("InternalIP")),
        ("External-IP", True, _address("ExternalIP")),
        ("OS-Image", True, _at("status", "nodeInfo", "osImage", default="<unknown>")),
        ("Kernel-Version", True, _at("status", "nodeInfo", "kernelVersion", default="<unknown>")),
        ("Container-Runtime", True, _at("status", "nodeInfo", "containerRuntimeVersion", default="<unknown>")),
    ),
    "Namespace": (
        ("Name", False, _name),
        ("Status", False, _at("status", "phase", default="Active")),
        ("Age", False, age),
    ),
    "DaemonSet": (
        ("Name", False, _name),
        ("Desired", False, _at("status", "desiredNumberScheduled", default=0)),
        ("Current", False, _at("status", "currentNumberScheduled", default=0)),
        ("Ready", False, _at("status", "numberReady", default=0)),
        ("Up-to-date", False, _at("status", "updatedNumberScheduled", default=0)),
        ("Available", False, _at("status", "numberAvailable", default=0)),
        ("Node Selector", False, lambda item: _selector(item["spec"]["template"]["spec"].get("nodeSelector"))),
        ("Age", False, age),
        ("Containers", True, _containers("name")),
        ("Images", True, _containers("image")),
        ("Selector", True, lambda item: _selector(item["spec"].get("selector"))),
    ),
    "NetworkPolicy": (
        ("Name", False, _name),
        ("Pod-Selector", False, lambda item: _selector(item["spec"].get("podSelector"))),
        ("Age", False, age),
    ),
    "Lease": (
        ("Name", False, _name),
        ("Holder", False, _at("spec", "holderIdentity", default="")),
        ("Age", False, age),
    ),
    "Service": (
        ("Name", False, _name),
        ("Type", False, _at("spec", "type", default="ClusterIP")),
        ("Cluster-IP", False, _at("spec", "clusterIP")),
        ("External-IP", False, lambda item: "<none>"),
        ("Port(s)", False, _ports),
        ("Age", False, age),
        ("Selector", True, lambda item: _selector(item["spec"].get("selector"))),
    ),
    "Event": (
        ("Last Seen", False, lambda item: _since(item["lastTimestamp"])),
        ("Type", False, _at("type", default="")),
        ("Reason", False, _at("reason", default="")),
        ("Object", False, lambda item: "{kind}/{name}".format(**item["involvedObject"]).lower()),
        ("Message", False, _at("message", default="")),
    ),
    "ConfigMap": (
        ("Name", False, _name),
        ("Data", False, lambda item: len(item.get("data") or {})),
        ("Age", False, age),
    ),
}
