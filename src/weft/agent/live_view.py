"""The cluster as this node last saw it, shared by the threads that decide on it, and kept for the next start."""

import contextlib
import logging
import os
import threading
import time
from ipaddress import ip_network
from pathlib import Path

import msgspec

from weft.agent.records import NodeRecord
from weft.agent.view import View
from weft.fabric.plan import Peer
from weft.ipam.agreement import Agreement
from weft.ipam.claimed import ClaimedBlocks
from weft.ipam.ranges import IPNetwork
from weft.store import Event

_log = logging.getLogger(__name__)

#: Seconds between two writes of the kept view, which are not made for every change.
WRITE_INTERVAL = 30.0


class _Kept(msgspec.Struct, frozen=True):
    nodes: dict[str, NodeRecord]
    #: Blocks by owner, as CIDR.
    blocks: dict[str, list[str]]


class LiveView:
    """A ``View`` for several threads. ``path`` is where it is kept for a start while the store is away."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._view = View()
        self._heard = False
        self._dirty = False
        self._written = -WRITE_INTERVAL

    @property
    def heard(self) -> bool:
        """Whether this is what the store said to this agent, not what an earlier agent left."""
        return self._heard

    @property
    def revision(self) -> int:
        """The store's revision up to which changes are in the view."""
        return self._view.revision

    @property
    def agreed(self) -> Agreement | None:
        """The cluster's ranges as they are in force; None where they are not known."""
        with self._lock:
            return self._view.agreed

    @property
    def problems(self) -> dict[str, str]:
        """What is wrong with entries that cannot be read, by key."""
        with self._lock:
            return dict(self._view.problems)

    def replace(self, view: View) -> None:
        """Take what the store lists in place of everything known."""
        with self._lock:
            self._view, self._heard, self._dirty = view, True, True

    def apply(self, event: Event) -> set[str]:
        """Fold a change in; the nodes that it is about."""
        with self._lock:
            self._dirty = True
            return self._view.apply(event)

    def owners(self) -> dict[IPNetwork, str]:
        """Who owns which block."""
        with self._lock:
            return dict(self._view.owners)

    def claimed(self) -> ClaimedBlocks:
        """The blocks that have an owner, for the caller to change."""
        with self._lock:
            return self._view.claimed.copy()

    def owner(self, block: IPNetwork) -> str | None:
        """Who owns a block."""
        with self._lock:
            return self._view.owners.get(block)

    def blocks_of(self, node: str) -> list[IPNetwork]:
        """A node's blocks in the order in which it claimed them."""
        with self._lock:
            return self._view.blocks_of(node)

    def has_record(self, node: str) -> bool:
        """Whether a node has signed in."""
        with self._lock:
            return node in self._view.nodes

    def is_illegible(self, node: str) -> bool:
        """Whether a node's record cannot be read."""
        with self._lock:
            return self._view.is_illegible(node)

    def nodes(self) -> list[str]:
        """The names of the nodes."""
        with self._lock:
            return list(self._view.nodes)

    def peer(self, name: str) -> Peer | None:
        """A node as a peer."""
        with self._lock:
            return self._view.peer(name)

    def peers(self, this_node: str) -> list[Peer]:
        """Every other node that has told where it is."""
        with self._lock:
            return self._view.peers(this_node)

    def removed(self) -> list[str]:
        """Nodes that were removed from the cluster and whose blocks are still theirs."""
        with self._lock:
            return self._view.removed()

    def silent(self, this_node: str) -> set[str]:
        """Other nodes that give no sign of life; none where the store has no such signs."""
        with self._lock:
            known = self._view.nodes.keys() - {this_node}
            return known - self._view.present if self._view.present else set()

    def read(self) -> bool:
        """Take up what an earlier agent kept; False where there is nothing that can be read."""
        try:
            kept = msgspec.json.decode(
                self._path.read_bytes(), type=_Kept, dec_hook=lambda kind, value: kind(value)
            )
            owners = {ip_network(block): owner for owner, blocks in kept.blocks.items() for block in blocks}
        except FileNotFoundError:
            return False
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            _log.warning("%s cannot be used (%s); peers are unknown until the store answers", self._path, error)
            return False
        view = View(dict(kept.nodes))
        for block, owner in owners.items():
            view.hold(block, owner, 0)
        with self._lock:
            self._view = view
        return True

    def keep(self, *, at_once: bool = False) -> None:
        """Write the view down, if it has changed and was not written a moment ago. A failure is only logged."""
        with self._lock:
            if not self._dirty or not (at_once or time.monotonic() - self._written >= WRITE_INTERVAL):
                return
            self._dirty, self._written = False, time.monotonic()
            blocks = {owner: [str(block) for block in own] for owner, own in self._view.held.items()}
            content = msgspec.json.encode(_Kept(dict(self._view.nodes), blocks), enc_hook=str)
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            temporary.write_bytes(content)
            temporary.chmod(0o600)
            temporary.rename(self._path)
        except OSError as error:
            _log.warning("the view of the cluster cannot be kept: %s", error)
            with contextlib.suppress(OSError):
                temporary.unlink()
