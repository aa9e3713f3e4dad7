"""What the API server tells of pods and namespaces, for ``weft.agent.requests.pods``."""

import threading
import time
from collections.abc import Mapping
from pathlib import Path

from weft.agent.requests.namespaces import Namespaces
from weft.agent.requests.pods import NotTold
from weft.cni import PodArguments
from weft.kubernetes import ApiError, Client, Unreachable
from weft.kubernetes.client import METADATA_ONLY
from weft.troubles import Concern

#: Seconds that the server gets to tell a pod's annotations.
PATIENCE = 2.0
#: Seconds that a server which did not answer is not asked again: each who asks takes a worker for as long.
_REST = 5.0
#: The UID that the kubelet tells of a static pod, whose object in the API has another.
_STATIC_UID = "kubernetes.io/config.hash"


class ApiObjects:
    """``weft.agent.requests.pods.Objects`` of an API server. Safe for several threads."""

    def __init__(self, client: Client, state_dir: Path) -> None:
        self._client = client
        self._namespaces = Namespaces(client, state_dir / "namespaces.json")
        #: Until when nobody asks, and what was said last.
        self._resting: tuple[float, str] = (0.0, "")

    @classmethod
    def open(cls, url: str, state_dir: Path) -> "ApiObjects":
        """Those of ``kubernetes://…``. Raises ConfigurationError."""
        return cls(Client.from_url(url, "namespace")[0], state_dir)

    def of_pod(self, pod: PodArguments) -> Mapping[str, str]:
        until, why = self._resting
        if time.monotonic() < until:
            raise NotTold(why)
        path = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}"
        try:
            metadata = self._client.get(path, accept=METADATA_ONLY, timeout=PATIENCE)["metadata"]
        except (ApiError, Unreachable) as error:
            if isinstance(error, ApiError) and error.code == 404:
                return {}  # a static pod that the API does not know yet, or a pod that is gone
            why = f"its annotations cannot be read: {error}"
            if isinstance(error, Unreachable):
                self._resting = (time.monotonic() + _REST, why)
            raise NotTold(why) from error
        found: Mapping[str, str] = metadata.get("annotations") or {}
        return found if pod.uid in ("", metadata.get("uid"), found.get(_STATIC_UID)) else {}

    def of_namespace(self, name: str) -> Mapping[str, str]:
        found = self._namespaces.of(name)
        if found is None:
            raise NotTold(f"namespace {name} is not known yet")
        return found

    def any_namespace_asks(self) -> bool:
        return self._namespaces.any_asks()

    def follow(self, stopping: threading.Event, concern: Concern) -> None:
        """Hear of namespaces until told to stop; ``concern`` is told while nothing is heard."""
        self._namespaces.follow(stopping, concern)

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()
