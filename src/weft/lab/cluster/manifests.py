"""Nodes and pods of a lab as Kubernetes has them."""

import datetime
import platform
from collections.abc import Sequence
from typing import Any

from weft.lab.state import NodeState, PodState

Manifest = dict[str, Any]

#: What the nodes say of their kubelet: the seed's version.
KUBELET_VERSION = "v1.26.0"
#: On Pod objects that are the lab's pods: which attachment is behind it.
CONTAINER_ID = "weft.dev/lab-container-id"
#: The image that a lab's pod has: none, it is a process of this machine.
LAB_IMAGE = "weft.dev/lab-pod"


def node_manifest(node: NodeState, runtime: str, *, control_plane: bool) -> Manifest:
    """A node as its kubelet registers it. ``runtime``: what its pods run in, such as ``containerd://1.6.20``."""
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    labels = {
        "kubernetes.io/hostname": node.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": architecture,
        **({"node-role.kubernetes.io/control-plane": ""} if control_plane else {}),
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": labels},
        "spec": {},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": node.address},
                {"type": "Hostname", "address": node.name},
            ],
            "conditions": [],
            "nodeInfo": {
                "architecture": architecture,
                "containerRuntimeVersion": runtime,
                "kernelVersion": platform.release(),
                "kubeletVersion": KUBELET_VERSION,
                "operatingSystem": "linux",
                "osImage": _operating_system(),
            },
        },
    }


def ready_condition(ready: bool | None, since: str) -> Manifest:
    """The condition Ready of a node; None where its kubelet is not heard of. ``since`` is RFC 3339."""
    status, reason, message = {
        True: ("True", "KubeletReady", "kubelet is posting ready status"),
        False: (
            "False",
            "KubeletNotReady",
            "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady "
            "message:Network plugin returns error: cni plugin not initialized",
        ),
        None: ("Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status."),
    }[ready]
    return {
        "type": "Ready",
        "status": status,
        "reason": reason,
        "message": message,
        "lastHeartbeatTime": since,
        "lastTransitionTime": since,
    }


def pod_manifest(pod: PodState) -> Manifest:
    """A lab's pod, without what the server gives it."""
    ports = []
    for name, port in pod.ports.items():
        protocol, _, number = port.partition("/")
        ports.append({"name": name, "protocol": protocol.upper(), "containerPort": int(number)})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod.name,
            "namespace": pod.namespace,
            "labels": pod.labels,
            "annotations": {**pod.annotations, CONTAINER_ID: pod.container_id},
        },
        "spec": {
            "nodeName": pod.node,
            "containers": [{"name": "pod", "image": LAB_IMAGE, **({"ports": ports} if ports else {})}],
        },
        "status": {"phase": "Pending"},
    }


def is_labs(item: Manifest) -> bool:
    """Whether a pod, or a template of pods, is the lab's, of its runtime. Others use the network of their node."""
    return not (item.get("spec") or {}).get("hostNetwork")


def pod_status(pod: PodState, containers: Sequence[Manifest], host: str, since: str) -> Manifest:
    """The status of a lab's pod; it runs once it is attached. ``containers``: those of its object."""
    if not pod.ip:
        # What an earlier sandbox had is over.
        return {"phase": "Pending", **dict.fromkeys(("podIP", "podIPs", "conditions", "containerStatuses"))}
    started = {"running": {"startedAt": since}}
    return {
        "phase": "Running",
        "hostIP": host,
        "podIP": pod.ip,
        "podIPs": [{"ip": address} for address in pod.addresses.values()],
        "startTime": since,
        "conditions": [
            {"type": kind, "status": "True"}
            for kind in ("Initialized", "Ready", "ContainersReady", "PodScheduled")
        ],
        "containerStatuses": [
            {
                "name": one["name"],
                "image": one.get("image", ""),
                "imageID": "",
                "containerID": f"weft-lab://{pod.container_id}",
                "ready": True,
                "started": True,
                "restartCount": 0,
                "state": started,
            }
            for one in containers
        ],
    }


def now() -> str:
    """The time as Kubernetes writes it."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _operating_system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"
