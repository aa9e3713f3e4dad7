"""A node's kubelet, as much of it as a pod network meets: it tells the API server whether the node is ready."""

import logging
import threading
import time
from pathlib import Path

from weft.agent.status import fetch
from weft.kubernetes import ApiError, Client, ConfigurationError, Unreachable
from weft.lab.cluster.manifests import now, ready_condition

_log = logging.getLogger(__name__)

#: Seconds between two looks, and between two words to the server where nothing changed.
_INTERVAL = 0.25
HEARTBEAT = 10.0
#: What the node's agent says.
_STATUS = Path("/run/weft/status.sock")


class Kubelet:
    """Runs in a thread of the node's first process until ``stopping``. Outages of the server only delay it."""

    def __init__(self, node: str, kubeconfig: str, stopping: threading.Event) -> None:
        self._node = node
        self._kubeconfig = kubeconfig
        self._stopping = stopping
        self._ready: bool | None = None
        self._since = ""
        self._heard = 0.0

    def run(self) -> None:
        """Be a kubelet."""
        while not self._stopping.is_set():
            try:
                client = Client.open(self._kubeconfig)
                try:
                    while not self._stopping.wait(_INTERVAL):
                        self._tell(client)
                finally:
                    client.close()
            except (ApiError, Unreachable, ConfigurationError) as error:
                _log.warning("kubelet: %s", error)
                self._stopping.wait(1.0)

    def _tell(self, client: Client) -> None:
        """Say whether the node is ready where that is new, or where nothing was said for a while."""
        ready = _agent_is_ready()
        if ready == self._ready and time.monotonic() < self._heard + HEARTBEAT:
            return
        if ready != self._ready:
            self._since = now()
        condition = ready_condition(ready, self._since) | {"lastHeartbeatTime": now()}
        client.patch(
            f"/api/v1/nodes/{self._node}/status",
            {"status": {"conditions": [condition]}},
            kind="application/strategic-merge-patch+json",
        )
        self._ready, self._heard = ready, time.monotonic()


def _agent_is_ready() -> bool:
    try:
        return fetch(_STATUS, "/status")[0] == 200
    except OSError:
        return False
