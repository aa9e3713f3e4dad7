"""The conditions of this node's object, by which Kubernetes and whoever asks it know how its pod network is.

NetworkUnavailable          False, in Weave's words, once pods can be attached
CNIConfigurationShadowed    True while runtimes take another CNI's configuration; the message names the file
"""

import datetime
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from weft.kubernetes import ApiError, Client, Unreachable
from weft.troubles import Concern

#: Seconds between two looks whether there is something to tell; after an API server that did not take it they are
#: doubled each time, up to the longest.
_INTERVAL, _LONGEST_PAUSE = 1.0, 60.0
#: Seconds after which what is wrong is told again: a Node object that was made anew does not know.
_HEARTBEAT = 300.0
_STRATEGIC = "application/strategic-merge-patch+json"


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition of a node. ``since`` is when it took its status, as Kubernetes writes times."""

    kind: str
    status: bool
    reason: str
    message: str
    since: str

    def patch(self) -> Mapping[str, str]:
        """The condition as the API takes it, with the present as its heartbeat."""
        return {
            "type": self.kind,
            "status": str(self.status),
            "reason": self.reason,
            "message": self.message,
            "lastHeartbeatTime": _now(),
            "lastTransitionTime": self.since,
        }


class NodeConditions(Protocol):
    """Whoever hears how this node is."""

    def shadowed(self, why: str) -> None:
        """Why runtimes take another CNI's configuration; empty where they do not."""

    def run(self, stopping: threading.Event, concern: Concern) -> None:
        """Tell what there is to tell, until told to stop; ``concern`` is told while nobody hears it."""


class NobodyHears:
    """On plain hosts."""

    def shadowed(self, why: str) -> None:
        """The log and the status API tell."""

    def run(self, stopping: threading.Event, concern: Concern) -> None:
        """There is nobody to tell."""


class ConditionsOfNode:
    """The conditions of a Node object. What was told stays when the agent ends."""

    def __init__(self, client: Client, node: str) -> None:
        self._client = client
        self._path = f"/api/v1/nodes/{node}/status"
        self._up = Condition("NetworkUnavailable", False, "WeaveIsUp", "Weave pod has set this", _now())
        self._shadowed = _shadow("")

    def shadowed(self, why: str) -> None:
        new = _shadow(why)
        same = new.status == self._shadowed.status
        self._shadowed = replace(new, since=self._shadowed.since) if same else new

    def run(self, stopping: threading.Event, concern: Concern) -> None:
        told: tuple[Condition, ...] = ()
        told_at, pause = 0.0, 0.0
        try:
            while not stopping.wait(pause):
                wanted = (self._up, self._shadowed)
                due = self._shadowed.status and time.monotonic() - told_at > _HEARTBEAT
                try:
                    if wanted != told or due:
                        self._client.patch(self._path, _patch(wanted), kind=_STRATEGIC)
                        told, told_at = wanted, time.monotonic()
                except (ApiError, Unreachable) as error:
                    concern.note(str(error), "they are told as soon as they can be", refused=error.refused)
                    pause = min(_LONGEST_PAUSE, 2 * pause or _INTERVAL)
                else:
                    concern.over()
                    pause = _INTERVAL
        finally:
            self._client.close()


def open_conditions(store: str, node: str) -> NodeConditions:
    """Whoever hears of a node with this store. Raises ConfigurationError."""
    if not store.startswith("kubernetes://"):
        return NobodyHears()
    return ConditionsOfNode(Client.from_url(store, "namespace")[0], node)


def _shadow(why: str) -> Condition:
    reason = "OtherConfigurationIsFirst" if why else "WeaveIsFirst"
    message = why or "runtimes take Weft's CNI configuration"
    return Condition("CNIConfigurationShadowed", bool(why), reason, message, _now())


def _patch(conditions: Iterable[Condition]) -> dict[str, object]:
    return {"status": {"conditions": [condition.patch() for condition in conditions]}}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
