"""What a node asks of the cluster's state and writes there: ranges, records of nodes, claims of blocks.

A node's record is written before its first claim and deleted before its blocks (``weft.ipam.ownership``).
"""

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

from weft.agent.range_record import encoded
from weft.agent.records import (
    BLOCKS,
    NODES,
    PRESENT,
    RANGES,
    Claim,
    ClusterError,
    NodeRecord,
    block_of,
    decode,
    encode,
    key_of,
    node_of,
    owner_of,
    ranges_of,
)
from weft.agent.view import View
from weft.ipam.agreement import Agreement, Disagreement, settled
from weft.ipam.ranges import IPNetwork, PodRange
from weft.store import Conflict, ForeignKey, KeyExists, NodeStore, PresenceStore, Store, StoreError

_log = logging.getLogger(__name__)


class Cluster:
    """Typed access to the store. Every call may raise ``StoreUnavailable``."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def agree_on_ranges(
        self, ranges: Sequence[PodRange], sized: Collection[IPNetwork] = (), *, adding: bool = True
    ) -> Agreement:
        """Add what a node is told to what the cluster has, or found it; as it is in force from now on.

        Without ``adding`` it is only compared. Raises ClusterError where that does not go together
        (``weft.ipam.agreement.settled``).
        """

        def change(present: Agreement | None) -> Agreement:
            agreed = settled(present or Agreement(tuple(ranges)), ranges, sized)
            return agreed if adding or present is None else present

        return self._change(change)

    def ranges_in_force(self, ranges: Sequence[PodRange], sized: Collection[IPNetwork] = ()) -> Agreement | None:
        """What ``agree_on_ranges`` would return, without writing: None where the cluster has no ranges yet.

        Raises ClusterError as it does.
        """
        present = self.ranges()
        with _refusals():
            return None if present is None else settled(present, ranges, sized)

    def ranges(self) -> Agreement | None:
        """The ranges that the cluster has. Raises ClusterError where what is written cannot be read."""
        entry = self.store.get(RANGES)
        return None if entry is None else ranges_of(entry)

    def change_ranges(self, change: Callable[[Agreement], Agreement]) -> Agreement:
        """Change what the cluster has; ``change`` may be called several times. Raises ClusterError."""

        def changed(present: Agreement | None) -> Agreement:
            if present is None:
                raise ClusterError("the cluster has no ranges yet: its first node brings them")
            return change(present)

        return self._change(changed)

    def _change(self, change: Callable[[Agreement | None], Agreement]) -> Agreement:
        for _ in range(10):
            entry = self.store.get(RANGES)
            present = None if entry is None else ranges_of(entry)
            with _refusals():
                wanted = change(present)
            try:
                if entry is None:
                    self.store.create(RANGES, encoded(wanted))
                elif wanted != present:
                    self.store.replace(RANGES, encoded(wanted), entry.revision)
            except (KeyExists, Conflict):
                continue
            return wanted
        raise StoreError(f"key {RANGES!r} changes faster than it can be written")

    def view(self) -> View:
        """Everything, as of one revision."""
        listing = self.store.entries("")
        return View.of(listing.entries, listing.revision)

    @property
    def presence(self) -> int | None:
        """Seconds that a sign of life lasts; None where the store has no such thing."""
        return self.store.presence if isinstance(self.store, PresenceStore) else None

    def keep_present(self, name: str) -> None:
        """Give a sign of life, where the store has such a thing."""
        if isinstance(self.store, PresenceStore):
            self.store.keep_present(PRESENT + name, name.encode())

    def register(self, name: str, record: NodeRecord) -> int:
        """Tell where this node is; the revision of that. Raises ClusterError where another node has the name."""
        key = NODES + name
        value = encode(record)
        for _ in range(10):
            try:
                entry = self.store.get(key)
                if entry is None:
                    return self.store.create(key, value).revision
                known = node_of(entry)
                if known and known.instance != record.instance and known.address != record.address:
                    raise ClusterError(
                        f"node name {name!r} belongs to the node at {known.address}; "
                        f"this one is at {record.address}: give it another --node-name, or, where that node is "
                        f"gone for good, run 'weft rmpeer {name}'"
                    )
                if entry.value == value:
                    return entry.revision
                return self.store.replace(key, value, entry.revision).revision
            except (KeyExists, Conflict):
                continue
        raise StoreError(f"{key} changes faster than it can be written")

    def record_of(self, name: str) -> tuple[NodeRecord | None, int] | None:
        """What a node tells, None where that cannot be read, and the revision of that."""
        entry = self.store.get(NODES + name)
        return (node_of(entry), entry.revision) if entry else None

    def claim(self, block: IPNetwork, node: str) -> int | None:
        """Make a block this node's own: the revision of the claim; None where somebody was first."""
        try:
            return self.store.create(key_of(block), encode(Claim(node))).revision
        except ForeignKey as error:
            _log.error("block %s is left out: %s", block, error)
            return None
        except KeyExists:
            return None

    def owner(self, block: IPNetwork) -> tuple[str, int] | None:
        """Who owns a block now, and the revision of the claim; None where nobody does."""
        entry = self.store.get(key_of(block))
        return (decode(entry, Claim).owner, entry.revision) if entry else None

    def affirm(self, block: IPNetwork, node: str, revision: int) -> int | None:
        """Change a claim that has this revision, so that whoever wants to delete that one cannot.

        The new revision, or None where the claim is another by now.
        """
        entry = self.store.get(key_of(block))
        if entry is None or entry.revision != revision:
            return None
        claim = decode(entry, Claim)
        try:
            return self.store.replace(entry.key, encode(Claim(node, claim.term + 1)), revision).revision
        except Conflict:
            return None

    def give_back(self, block: IPNetwork, node: str) -> None:
        """Give up a block, if this node still owns it."""
        entry = self.store.get(key_of(block))
        if entry and decode(entry, Claim).owner == node:
            self.store.delete(entry.key, entry.revision)

    def remove_node(self, name: str) -> int:
        """Take a node that is gone for good out of the cluster; how many addresses its blocks had.

        The record goes first, so that a crash between the two leaves orphans, which the other nodes reclaim.
        """
        for _ in range(10):
            entry = self.store.get(NODES + name)
            if entry is None or self._delete(entry.key, entry.revision):
                return self._give_back_all(name)
        raise StoreError(f"{NODES}{name} changes faster than it can be removed: is that node still running?")

    def reclaim(self, name: str) -> int:
        """Give back the blocks of a node that has no record; how many addresses they had: 0 where it came back.

        One whose record was taken away by hand is no removed one: its agent writes it anew.
        """
        if isinstance(self.store, NodeStore) and self.store.is_kept(NODES + name):
            return 0
        return self._give_back_all(name)

    def _give_back_all(self, name: str) -> int:
        seen = [
            (block_of(entry.key), entry.key, entry.revision)
            for entry in self.store.entries(BLOCKS).entries
            if owner_of(entry) == name
        ]
        # Asked last: a record that is written later is followed by claims that the view does not have.
        if self.store.get(NODES + name) is not None:
            return 0
        return sum(block.num_addresses for block, key, revision in seen if self._delete(key, revision))

    def _delete(self, key: str, revision: int) -> bool:
        try:
            self.store.delete(key, revision)
        except Conflict:
            return False
        return True


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except Disagreement as error:
        raise ClusterError(str(error)) from None
