"""Gives back the blocks of nodes that were removed from the cluster: their record is gone, not merely silent."""

import logging
import threading
import time

from weft.agent.cluster import Cluster
from weft.agent.live_view import LiveView
from weft.agent.records import UNKNOWN_OWNER, ClusterError
from weft.ipam.ownership import turn
from weft.store import StoreError
from weft.troubles import Troubles

_log = logging.getLogger(__name__)

#: Seconds that a record may be missing: a Node object that is replaced comes back within moments.
GRACE = 3.0
#: Seconds between two nodes' turns at the same removed node.
TURN = 1.0
#: Seconds between two looks.
INTERVAL = 1.0


class NoSuchPeer(Exception):
    """There is no such node to remove; the message names those that there are."""


def remove_peer(cluster: Cluster, name: str, this_node: str = "") -> str:
    """``weft rmpeer``: what it says. Raises NoSuchPeer, StoreError."""
    if name == this_node:
        raise NoSuchPeer(f"cannot take over from {name}, this node itself: run it on another node")
    view = cluster.view()
    present = {*view.nodes, *view.owners.values()} - {UNKNOWN_OWNER}
    if name not in present:
        raise NoSuchPeer(f"no peer {name!r}; there are: {', '.join(sorted(present - {this_node})) or 'none'}")
    return f"{cluster.remove_node(name)} IPs taken over from {name}"


class Reclaimer:
    """Deletes the claims of removed nodes, one node of the cluster at a time."""

    def __init__(self, cluster: Cluster, live: LiveView, node: str, troubles: Troubles | None = None) -> None:
        self._trouble = (troubles or Troubles()).about(
            "blocks of removed nodes cannot be given back", "blocks of removed nodes are given back again"
        )
        self._cluster = cluster
        self._live = live
        self._node = node
        self._since: dict[str, float] = {}

    def run(self, stopping: threading.Event) -> None:
        """Look for orphaned blocks until told to stop."""
        while not stopping.wait(INTERVAL):
            try:
                self.look(time.monotonic())
                self._trouble.over()
            except (StoreError, ClusterError) as error:
                self._trouble.note(str(error))

    def look(self, now: float) -> None:
        """Reclaim where it is this node's turn; ``now`` in monotonic seconds. Raises StoreError."""
        removed = self._live.removed() if self._live.heard else []
        self._since = {name: self._since.get(name, now) for name in removed if name != self._node}
        if not self._since:
            return
        nodes = self._live.nodes()
        for name, since in self._since.items():
            if now - since >= GRACE + TURN * turn(self._node, name, nodes) and (
                count := self._cluster.reclaim(name)
            ):
                _log.warning("%d IPs taken over from %s, which was removed from the cluster", count, name)
