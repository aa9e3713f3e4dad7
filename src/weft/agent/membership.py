"""Follows the cluster: who is there, who owns what, and keeps the way to every peer in the kernel."""

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence

from weft.agent.cluster import Cluster
from weft.agent.dataplane import Dataplane
from weft.agent.enrolment import Enrolment, about_store
from weft.agent.live_view import LiveView
from weft.agent.records import ClusterError, is_about_ranges
from weft.fabric import weave
from weft.fabric.plan import Forwarding, IPNetwork, Node, Peer
from weft.store import Compacted, StoreError
from weft.troubles import Troubles

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
        self,
        cluster: Cluster,
        live: LiveView,
        dataplane: Dataplane,
        node: Node,
        enrolment: Enrolment,
        newly_reached: Callable[[Sequence[IPNetwork]], None] = lambda blocks: None,
        troubles: Troubles | None = None,
    ) -> None:
        """``enrolment`` is told where something about this node itself may have changed, ``newly_reached`` of
        peers' blocks to which the kernel knows the way from now on."""
        self._newly_reached = newly_reached
        self._away = about_store(troubles or Troubles())
        self._cluster = cluster
        self._live = live
        self._dataplane = dataplane
        self._node = node
        self._enrolment = enrolment
        self._lock = threading.Lock()
        #: Nodes that something was heard of since the kernel was told.
        self._about: set[str] = set()
        self._reached: dict[str, Peer] = {}
        self._ways: dict[str, Forwarding] = {}
        self._changed = threading.Event()

    def peers(self) -> list[Peer]:
        """The other nodes to which the kernel knows the way, as it knows it, by name."""
        with self._lock:
            return [self._reached[name] for name in sorted(self._reached)]

    def converge(self) -> None:
        """Bring the kernel to the present view, whatever it holds. Raises NetlinkError.

        Until the store was heard, ways that only the kernel knows stay: an earlier agent knew more than it kept.
        """
        with self._lock:
            self._about.clear()
        peers = {peer.name: peer for peer in self._live.peers(self._node.name)}
        ways = {name: weave.forwarding(self._node, [peer]) for name, peer in peers.items()}
        changes = self._dataplane.apply(Forwarding.union(ways.values()), withdraw=self._live.heard)
        with self._lock:
            known, self._reached, self._ways = self._reached, peers, ways
        self._tell(peers, known, changes)

    def converge_peers(self, names: Collection[str]) -> None:
        """The same for some nodes only, at a cost that does not grow with the number of the others."""
        about = set(names) - {self._node.name}
        peers = {name: peer for name in about if (peer := self._live.peer(name))}
        ways = {name: weave.forwarding(self._node, [peer]) for name, peer in peers.items()}
        after = Forwarding.union(ways.values())
        before = Forwarding.union(self._ways[name] for name in about if name in self._ways)
        changes = self._dataplane.change(after - before, before - after)
        # Noted only now: what the kernel refused is tried again. In place: a copy would cost as much as all peers.
        with self._lock:
            known = {name: self._reached.pop(name) for name in about if name in self._reached}
            self._reached.update(peers)
            for name in about:
                self._ways.pop(name, None)
            self._ways.update(ways)
        self._tell(peers, known, changes)

    def _tell(self, peers: Mapping[str, Peer], known: Mapping[str, Peer], changes: int) -> None:
        """Of blocks that were not reached before, and in the log."""
        if new := [
            block
            for name, peer in peers.items()
            for block in peer.blocks
            if name not in known or block not in known[name].blocks
        ]:
            self._newly_reached(new)
        if changes:
            _log.info("way to peers: %d changes", changes)

    def follow(self, stopping: threading.Event) -> None:
        """Watch the store and fold changes in until told to stop."""

        def stopped() -> bool:
            self._away.over()
            return stopping.is_set()

        while not stopping.is_set():
            try:
                if not self._live.heard or (self._away.trouble and self._enrolment.is_outdated()):
                    self._list()
                for event in self._cluster.store.watch("", self._live.revision, stopped):
                    about = self._live.apply(event)
                    with self._lock:
                        self._about |= about
                    self._changed.set()
                    if self._node.name in about or is_about_ranges(event):
                        self._enrolment.wake()
            except Compacted:
                self._list_soon(stopping)
            except (StoreError, ClusterError) as error:
                refused = isinstance(error, StoreError) and error.refused
                self._away.note(str(error), "what is known stays in force", refused=refused)
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
            with self._lock:
                about, self._about = self._about, set()
            try:
                if told and about:
                    self.converge_peers(about)
                else:
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
