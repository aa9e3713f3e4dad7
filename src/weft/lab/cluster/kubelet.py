"""A node's kubelet, as much of it as a pod network meets.

It tells the API server whether the node is ready, and runs the pods that use the node's network, such as those
of a network's DaemonSet. Pods with a network of their own are the lab's (``lab_pods``).
"""

import base64
import logging
import queue
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from weft.agent.status import fetch
from weft.kubernetes import ApiError, Change, Client, ConfigurationError, Ended, Stream, Unreachable
from weft.lab.api.deletion import is_ending
from weft.lab.cluster import containers
from weft.lab.cluster.manifests import is_labs, now, ready_condition
from weft.lab.cluster.pod_worker import Host, PodWorker
from weft.lab.supervisor import Supervisor

_log = logging.getLogger(__name__)

#: Seconds between two looks, and between two words to the server where nothing changed.
_INTERVAL = 0.1
HEARTBEAT = 10.0
#: What the node's agent says.
_STATUS = Path("/run/weft/status.sock")
#: The DaemonSet whose agent takes the place of the lab's own.
_TAKES_OVER = ("kube-system", "weave-net")
_PODS = "/api/v1/pods"
_STRATEGIC = "application/strategic-merge-patch+json"


class Kubelet:
    """Runs in a thread of the node's first process until ``stopping``. Outages of the server only delay it."""

    def __init__(self, lab: str, node: str, store: Path, agent: Supervisor, stopping: threading.Event) -> None:
        self._kubeconfig = store / "kubeconfig"
        self._node = node
        self._agent = agent
        self._stopping = stopping
        self._host = _host(lab, node, store, self._kubeconfig)
        self._workers: dict[str, PodWorker] = {}
        self._told: dict[str, Any] = {}
        self._pods: dict[str, dict[str, Any]] = {}
        self._ready: bool | None = None
        self._since = ""
        self._heard = 0.0
        self._asked = 0.0

    def run(self) -> None:
        """Be a kubelet; at the end no container is left."""
        containers.remove_all()
        while not self._stopping.is_set():
            try:
                client = Client.open(str(self._kubeconfig))
                try:
                    self._follow(client)
                finally:
                    client.close()
            except (ApiError, Unreachable, ConfigurationError) as error:
                _log.warning("kubelet: %s", error)
                self._stopping.wait(1.0)
            except Exception:
                _log.exception("kubelet: starting again")
                self._stopping.wait(1.0)
        for worker in self._workers.values():
            worker.stop()

    def _follow(self, client: Client) -> None:
        told: queue.SimpleQueue[Change | Ended] = queue.SimpleQueue()
        mine = {"fieldSelector": f"spec.nodeName={self._node}"}
        page = client.list(_PODS, mine)
        self._pods = {item["metadata"]["uid"]: item for item in page.items}
        stream = Stream(client, "pods", _PODS, page.version, told, params=mine)
        try:
            while not self._stopping.is_set():
                self._tell(client)
                self._sync(client)
                self._take(told)
        finally:
            stream.close()

    def _take(self, told: "queue.SimpleQueue[Change | Ended]") -> None:
        """Hear of changes, for as long as there is nothing else to do."""
        try:
            change = told.get(timeout=_INTERVAL)
            while True:
                if isinstance(change, Ended):
                    raise change.error
                if change.kind == "DELETED":
                    self._pods.pop(change.item["metadata"]["uid"], None)
                elif change.kind in ("ADDED", "MODIFIED"):
                    self._pods[change.item["metadata"]["uid"]] = change.item
                change = told.get_nowait()
        except queue.Empty:
            pass

    def _sync(self, client: Client) -> None:
        """Run the pods that there are, and no others."""
        own = {uid: pod for uid, pod in self._pods.items() if not is_labs(pod)}
        ending = {uid: pod for uid, pod in own.items() if is_ending(pod)}
        wanted = {uid: pod for uid, pod in own.items() if uid not in ending}
        for uid in [uid for uid in self._workers if uid not in wanted]:
            # Before new ones start: they would want the same ports and sockets.
            grace = ending[uid]["metadata"]["deletionGracePeriodSeconds"] if uid in ending else None
            self._workers.pop(uid).stop(grace)
            self._told.pop(uid, None)
        for uid, pod in ending.items():
            _say_ended(client, pod)
            self._pods.pop(uid, None)
        for uid, pod in wanted.items():
            if uid not in self._workers:
                if _owner(pod) == _TAKES_OVER and not self._agent.paused:
                    self._agent.pause()
                self._workers[uid] = PodWorker(pod, self._host)
        for uid, worker in self._workers.items():
            status = worker.step()
            if status != self._told.get(uid):
                self._tell_of(client, worker.pod, status)
                self._told[uid] = status
        self._maybe_resume(client)

    def _tell_of(self, client: Client, pod: dict[str, Any], status: dict[str, Any]) -> None:
        try:
            client.patch(f"{_path(pod)}/status", {"status": status})
        except ApiError as error:
            if error.reason != "NotFound":
                raise

    def _maybe_resume(self, client: Client) -> None:
        """Run the lab's own agent again once the DaemonSet in its place is gone."""
        if not self._agent.paused or time.monotonic() < self._asked + 1.0:
            return
        self._asked = time.monotonic()
        if any(_owner(worker.pod) == _TAKES_OVER for worker in self._workers.values()):
            return
        namespace, name = _TAKES_OVER
        try:
            client.get(f"/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}")
        except ApiError as error:
            if error.reason != "NotFound":
                raise
            self._agent.resume()

    def _tell(self, client: Client) -> None:
        """Say whether the node is ready where that is new, or where nothing was said for a while."""
        ready = _agent_is_ready()
        if ready == self._ready and time.monotonic() < self._heard + HEARTBEAT:
            return
        if ready != self._ready:
            self._since = now()
        condition = ready_condition(ready, self._since) | {"lastHeartbeatTime": now()}
        body = {"status": {"conditions": [condition]}}
        client.patch(f"/api/v1/nodes/{self._node}/status", body, kind=_STRATEGIC)
        self._ready, self._heard = ready, time.monotonic()


def _host(lab: str, node: str, store: Path, kubeconfig: Path) -> Host:
    cluster = yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]
    address = urlsplit(cluster["server"])
    variables = {
        "KUBERNETES_SERVICE_HOST": str(address.hostname),
        "KUBERNETES_SERVICE_PORT": str(address.port),
        "KUBERNETES_SERVICE_PORT_HTTPS": str(address.port),
    }
    return Host(lab, node, store, base64.b64decode(cluster["certificate-authority-data"]), variables)


def _say_ended(client: Client, pod: dict[str, Any]) -> None:
    """Let a pod's object go, now that nothing of the pod is left."""
    metadata = pod["metadata"]
    try:
        client.delete(_path(pod), {"uid": metadata["uid"]}, grace=0)
    except ApiError as error:
        if error.reason not in ("NotFound", "Conflict"):
            raise


def _path(pod: dict[str, Any]) -> str:
    metadata = pod["metadata"]
    return f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"


def _owner(pod: dict[str, Any]) -> tuple[str, str]:
    """The namespace and name of the DaemonSet that a pod belongs to."""
    owner: dict[str, Any] = next(
        (one for one in pod["metadata"].get("ownerReferences") or () if one.get("controller")), {}
    )
    return pod["metadata"]["namespace"], str(owner.get("name", ""))


def _agent_is_ready() -> bool:
    try:
        return fetch(_STATUS, "/status")[0] == 200
    except OSError:
        return False
