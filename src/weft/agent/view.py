"""What a node sees of the cluster: a listing of the store with the changes since folded in."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

from weft.agent.records import (
    BLOCKS,
    NODES,
    PRESENT,
    UNKNOWN_OWNER,
    Claim,
    ClusterError,
    NodeRecord,
    block_of,
    decode,
    is_about_ranges,
    ranges_of,
)
from weft.fabric.plan import Peer
from weft.ipam.agreement import Agreement
from weft.ipam.claimed import ClaimedBlocks
from weft.ipam.ownership import orphans
from weft.ipam.ranges import IPNetwork
from weft.store import Entry, Event

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class View:
    """Nodes and owners as this node last saw them. Changes are folded in by ``apply``.

    What changes costs no more in a large cluster than in a small one.
    """

    nodes: dict[str, NodeRecord] = field(default_factory=dict)
    owners: dict[IPNetwork, str] = field(default_factory=dict)
    #: The blocks of ``owners``, in order.
    claimed: ClaimedBlocks = field(default_factory=ClaimedBlocks)
    #: By owner: its blocks and the revision at which each was claimed, the order in which they came.
    held: dict[str, dict[IPNetwork, int]] = field(default_factory=dict)
    #: Nodes that give signs of life.
    present: set[str] = field(default_factory=set)
    #: The ranges in force; None where none are written down.
    agreed: Agreement | None = None
    revision: int = 0
    #: What is wrong with entries that cannot be read, by key.
    problems: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, entries: Iterable[Entry], revision: int) -> "View":
        """The view that a listing gives."""
        view = cls()
        for entry in entries:
            view.apply(Event(entry.key, entry, entry.revision))
        view.revision = revision
        return view

    def apply(self, event: Event) -> set[str]:
        """Fold one change in; the nodes that it is about.

        An entry that cannot be read is kept as a problem, and its block as owned.
        """
        self.revision = max(self.revision, event.revision)
        self.problems.pop(event.key, None)
        try:
            if event.key.startswith(NODES):
                return self._apply_node(event.key.removeprefix(NODES), event.entry)
            if event.key.startswith(BLOCKS):
                return self._apply_block(block_of(event.key), event.entry)
            if is_about_ranges(event):
                self.agreed = ranges_of(event.entry) if event.entry else None
            if event.key.startswith(PRESENT):
                name = event.key.removeprefix(PRESENT)
                (self.present.add if event.entry else self.present.discard)(name)
        except ClusterError as error:
            self._note(event.key, error)
        return set()

    def _note(self, key: str, problem: ClusterError) -> None:
        self.problems[key] = str(problem)
        _log.error("%s", problem)

    def is_illegible(self, name: str) -> bool:
        """Whether a node's record cannot be read."""
        return NODES + name in self.problems

    def hold(self, block: IPNetwork, owner: str, revision: int) -> None:
        """Note whose a block is."""
        self.owners[block] = owner
        self.claimed.add(block)
        self.held.setdefault(owner, {})[block] = revision

    def _apply_node(self, name: str, entry: Entry | None) -> set[str]:
        if entry is None:
            self.nodes.pop(name, None)
        else:
            try:
                self.nodes[name] = decode(entry, NodeRecord, "its agent writes it anew, or remove it")
            except ClusterError as error:
                # What it told before stays in force.
                self._note(entry.key, error)
        return {name}

    def _apply_block(self, block: IPNetwork, entry: Entry | None) -> set[str]:
        about = set()
        before = self.owners.pop(block, None)
        if before is not None:
            about.add(before)
            self.claimed.discard(block)
            del self.held[before][block]
            if not self.held[before]:
                del self.held[before]
        if entry:
            try:
                owner = decode(entry, Claim).owner
            except ClusterError:
                self.hold(block, UNKNOWN_OWNER, entry.revision)
                raise
            self.hold(block, owner, entry.revision)
            about.add(owner)
        return about

    def blocks_of(self, node: str) -> list[IPNetwork]:
        """A node's blocks in the order in which it claimed them."""
        held = self.held.get(node, {})
        return sorted(held, key=held.__getitem__)

    def peer(self, name: str) -> Peer | None:
        """A node as a peer; None where it has not told where it is, or has no bridge address yet."""
        node = self.nodes.get(name)
        if node is None or node.gateway is None:
            return None
        blocks = sorted(self.held.get(name, ()), key=lambda block: (block.version, int(block.network_address)))
        return Peer(name, node.address, node.link_address, node.gateway, tuple(blocks), node.gateway6)

    def peers(self, this_node: str) -> list[Peer]:
        """Every other node that has told where it is and has a bridge address, by name."""
        found = (self.peer(name) for name in sorted(self.nodes) if name != this_node)
        return [peer for peer in found if peer is not None]

    def removed(self) -> list[str]:
        """Owners of blocks that have no record: nodes that were removed. Not those whose name is unknown."""
        unreadable = {key.removeprefix(NODES) for key in self.problems if key.startswith(NODES)}
        return orphans(self.held, {*unreadable, UNKNOWN_OWNER}, self.nodes)
