"""Follows the cluster: who is there, who owns what, and keeps the way to every peer in the kernel."""

import logging
import threading

from weft.agent.cluster import Cluster, ClusterError
from weft.agent.dataplane import Dataplane
from weft.agent.enrolment import Enrolment
from weft.agent.live_view import LiveView
from weft.fabric import weave
from weft.fabric.plan import Node, Peer
from weft.store import Compacted, StoreError

_log = logging.getLogger(__name__)

#: Seconds that the store may be away before the watch begins anew.
RETRY = 1.0
#: Seconds that changes are gathered before the kernel is told.
GATHERING = 0.02


class Membership:
    """Keeps this node's view of the cluster and the kernel's way to the peers in step with the store.

    What it saw last stays in force while the store is away.
    """

    def __init__(
        self, cluster: Cluster, live: LiveView, dataplane: Dataplane, node: Node, enrolment: Enrolment
    ) -> None:
        """``enrolment`` is told where something about this node itself may have changed."""
        self._cluster = cluster
        self._live = live
        self._dataplane = dataplane
        self._node = node
        self._enrolment = enrolment
        self._reached: list[Peer] = []
        self._changed = threading.Event()

    def peers(self) -> list[Peer]:
        """The other nodes to which the kernel knows the way."""
        return self._reached

    def converge(self) -> None:
        """Bring the kernel to the present view, whatever it holds. Raises NetlinkError.

        Until the store was heard, ways that only the kernel knows stay: an earlier agent knew more than it kept.
        """
        peers = self._live.peers(self._node.name)
        changes = self._dataplane.apply(weave.forwarding(self._node, peers), withdraw=self._live.heard)
        self._reached = peers
        if changes:
            _log.info("way to peers: %d changes", changes)

    def follow(self, stopping: threading.Event) -> None:
        """Watch the store and fold changes in until told to stop."""
        away = False
        while not stopping.is_set():
            try:
                if not self._live.heard or (away and self._enrolment.is_outdated()):
                    self._list()
                if away:
                    _log.info("the store is back")
                away = False
                for event in self._cluster.store.watch("", self._live.revision, stopping.is_set):
                    about = self._live.apply(event)
                    self._changed.set()
                    if self._node.name in about:
                        self._enrolment.wake()
            except Compacted:
                self._list_soon(stopping)
            except (StoreError, ClusterError) as error:
                if not away:
                    _log.warning("the store is away (%s); what is known stays in force", error)
                away = True
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
            self._live.keep()

    def wake(self) -> None:
        """Let ``keep_converged`` look at once."""
        self._changed.set()

    def _list(self) -> None:
        """See everything anew: the first time, or where the store is not the one it was (it was set back)."""
        self._live.replace(self._cluster.view())
        self._changed.set()
        self._enrolment.wake()

    def _list_soon(self, stopping: threading.Event) -> None:
        try:
            self._list()
        except StoreError as error:
            _log.warning("the store cannot be listed: %s", error)
            stopping.wait(RETRY)
