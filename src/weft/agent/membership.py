"""Follows the cluster: who is there, who owns what, and keeps the way to every peer in the kernel."""

import logging
import threading

from weft.agent.cluster import Cluster, ClusterError, View
from weft.agent.dataplane import Dataplane
from weft.fabric import weave
from weft.fabric.plan import Node, Peer
from weft.store import Compacted, StoreError

_log = logging.getLogger(__name__)

#: Seconds that the store may be away before the watch begins anew.
RETRY = 1.0
#: Seconds that changes are gathered before the kernel is told.
GATHERING = 0.02


class Membership:
    """This node's view of the cluster. What it saw last stays in force while the store is away."""

    def __init__(self, cluster: Cluster, dataplane: Dataplane, node: Node) -> None:
        self._cluster = cluster
        self._dataplane = dataplane
        self._node = node
        self._lock = threading.Lock()
        self._view = View()
        self._reached: list[Peer] = []
        self._changed = threading.Event()

    def start(self) -> None:
        """See who is there and make the way to them. Raises StoreError, ClusterError, NetlinkError."""
        self._view = self._cluster.view()
        self.converge()

    def peers(self) -> list[Peer]:
        """The other nodes to which the kernel knows the way."""
        return self._reached

    def converge(self) -> None:
        """Bring the kernel to the present view, whatever it holds. Raises NetlinkError."""
        with self._lock:
            peers = self._view.peers(self._node.name)
        changes = self._dataplane.apply(weave.forwarding(self._node, peers))
        self._reached = peers
        if changes:
            _log.info("way to peers: %d changes", changes)

    def follow(self, stopping: threading.Event) -> None:
        """Watch the store and fold changes in until told to stop."""
        while not stopping.is_set():
            try:
                for event in self._cluster.store.watch("", self._view.revision, stopping.is_set):
                    with self._lock:
                        try:
                            self._view.apply(event)
                        except ClusterError as error:
                            _log.error("%s", error)
                    self._changed.set()
            except Compacted:
                self._relist()
            except StoreError as error:
                _log.warning("the store is away (%s); what is known stays in force", error)
                stopping.wait(RETRY)

    def keep_converged(self, stopping: threading.Event, interval: float) -> None:
        """Tell the kernel of changes as they come, and repair what others changed every ``interval`` seconds."""
        while not stopping.is_set():
            told = self._changed.wait(interval)
            if told:
                stopping.wait(GATHERING)
            if stopping.is_set():
                return
            self._changed.clear()
            try:
                if not told:
                    self._dataplane.ensure_devices()
                self.converge()
            except Exception:
                _log.exception("the way to peers could not be brought up to date; trying again")
                stopping.wait(RETRY)
                self._changed.set()

    def wake(self) -> None:
        """Let ``keep_converged`` look at once."""
        self._changed.set()

    def _relist(self) -> None:
        try:
            view = self._cluster.view()
        except (StoreError, ClusterError) as error:
            _log.warning("the store cannot be listed: %s", error)
            return
        with self._lock:
            self._view = view
        self._changed.set()
