"""The condition NetworkUnavailable of this node's object, by which Kubernetes knows that pods can be scheduled."""

import datetime
import logging
import threading

from weft.kubernetes import ApiError, Client, Unreachable

_log = logging.getLogger(__name__)

#: Seconds before an API server that did not take it is asked again.
_RETRY = 5.0
_STRATEGIC = "application/strategic-merge-patch+json"


def clear_network_unavailable(url: str, node: str, stopping: threading.Event) -> None:
    """Set it to False in Weave's words, as often as it takes. Raises ConfigurationError for a URL of no use."""
    client, _ = Client.from_url(url, "namespace")
    try:
        while not stopping.is_set():
            try:
                client.patch(f"/api/v1/nodes/{node}/status", _patch(), kind=_STRATEGIC)
            except (ApiError, Unreachable) as error:
                _log.warning("the node's condition NetworkUnavailable is not cleared yet: %s", error)
                stopping.wait(_RETRY)
                continue
            _log.info("the node's condition NetworkUnavailable is False")
            return
    finally:
        client.close()


def _patch() -> dict[str, object]:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    condition = {
        "type": "NetworkUnavailable",
        "status": "False",
        "reason": "WeaveIsUp",
        "message": "Weave pod has set this",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }
    return {"status": {"conditions": [condition]}}
