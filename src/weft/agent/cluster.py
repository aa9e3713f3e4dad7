"""The cluster's state as typed records: what lies under which key of the store.

cluster               the pod ranges, the size of their blocks, what is excluded (``weft.agent.range_record``):
                      what the first node was told, and what was added since
nodes/NAME            where a node is, and how its bridge and tunnel are addressed
blocks/A.B.C.D-LEN    who owns a block; creating the key is the claim. Of an IPv6 block the eight groups are
                      written, ``blocks/fd00-10-32-0-0-0-0-0-120``: every key is fit for a name in Kubernetes
present/NAME          a sign of life, where the store has keys that vanish by themselves

A node's record is written before its first claim and deleted before its blocks (``weft.ipam.ownership``).
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from socket import AF_INET, AF_INET6, inet_pton
from typing import TypeVar

import msgspec

from weft.agent.range_record import decoded, encoded
from weft.fabric.plan import Peer
from weft.ipam.agreement import Agreement, Disagreement, settled
from weft.ipam.claimed import ClaimedBlocks
from weft.ipam.ownership import orphans
from weft.ipam.ranges import IPNetwork, PodRange
from weft.store import (
    Conflict,
    Entry,
    Event,
    ForeignKey,
    KeyExists,
    NodeStore,
    PresenceStore,
    Store,
    StoreError,
)

_log = logging.getLogger(__name__)

_RANGES = "cluster"
_NODES = "nodes/"
_BLOCKS = "blocks/"
_PRESENT = "present/"
#: Who owns a block whose entry cannot be read: nobody whom we know, but it is not free.
UNKNOWN_OWNER = "?"


_Record = TypeVar("_Record")


class ClusterError(Exception):
    """The store's content and this node do not go together; the message names both and the mend."""


class NodeRecord(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What a node tells its peers. ``instance`` tells a node from another one with the same name.

    The gateways are its bridge's addresses; None until it has claimed its first block of that family.
    """

    address: IPv4Address
    link_address: str
    gateway: IPv4Address | None
    instance: str
    gateway6: IPv6Address | None = None


class _Claim(msgspec.Struct, frozen=True, omit_defaults=True):
    """``term`` grows where a node that was removed takes the block up again before it was given back."""

    owner: str
    term: int = 0


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
            if event.key.startswith(_NODES):
                return self._apply_node(event.key.removeprefix(_NODES), event.entry)
            if event.key.startswith(_BLOCKS):
                return self._apply_block(_block_of(event.key), event.entry)
            if is_about_ranges(event):
                self.agreed = _ranges_of(event.entry) if event.entry else None
            if event.key.startswith(_PRESENT):
                name = event.key.removeprefix(_PRESENT)
                (self.present.add if event.entry else self.present.discard)(name)
        except ClusterError as error:
            self._note(event.key, error)
        return set()

    def _note(self, key: str, problem: ClusterError) -> None:
        self.problems[key] = str(problem)
        _log.error("%s", problem)

    def is_illegible(self, name: str) -> bool:
        """Whether a node's record cannot be read."""
        return _NODES + name in self.problems

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
                self.nodes[name] = _decode(entry, NodeRecord, "its agent writes it anew, or remove it")
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
                owner = _decode(entry, _Claim).owner
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
        unreadable = {key.removeprefix(_NODES) for key in self.problems if key.startswith(_NODES)}
        return orphans(self.held, {*unreadable, UNKNOWN_OWNER}, self.nodes)


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
        entry = self.store.get(_RANGES)
        return None if entry is None else _ranges_of(entry)

    def change_ranges(self, change: Callable[[Agreement], Agreement]) -> Agreement:
        """Change what the cluster has; ``change`` may be called several times. Raises ClusterError."""

        def changed(present: Agreement | None) -> Agreement:
            if present is None:
                raise ClusterError("the cluster has no ranges yet: its first node brings them")
            return change(present)

        return self._change(changed)

    def _change(self, change: Callable[[Agreement | None], Agreement]) -> Agreement:
        for _ in range(10):
            entry = self.store.get(_RANGES)
            present = None if entry is None else _ranges_of(entry)
            with _refusals():
                wanted = change(present)
            try:
                if entry is None:
                    self.store.create(_RANGES, encoded(wanted))
                elif wanted != present:
                    self.store.replace(_RANGES, encoded(wanted), entry.revision)
            except (KeyExists, Conflict):
                continue
            return wanted
        raise StoreError(f"key {_RANGES!r} changes faster than it can be written")

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
            self.store.keep_present(_PRESENT + name, name.encode())

    def register(self, name: str, record: NodeRecord) -> int:
        """Tell where this node is; the revision of that. Raises ClusterError where another node has the name."""
        key = _NODES + name
        value = _encode(record)
        for _ in range(10):
            try:
                entry = self.store.get(key)
                if entry is None:
                    return self.store.create(key, value).revision
                known = _node_of(entry)
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
        entry = self.store.get(_NODES + name)
        return (_node_of(entry), entry.revision) if entry else None

    def claim(self, block: IPNetwork, node: str) -> int | None:
        """Make a block this node's own: the revision of the claim; None where somebody was first."""
        try:
            return self.store.create(_key_of(block), _encode(_Claim(node))).revision
        except ForeignKey as error:
            _log.error("block %s is left out: %s", block, error)
            return None
        except KeyExists:
            return None

    def owner(self, block: IPNetwork) -> tuple[str, int] | None:
        """Who owns a block now, and the revision of the claim; None where nobody does."""
        entry = self.store.get(_key_of(block))
        return (_decode(entry, _Claim).owner, entry.revision) if entry else None

    def affirm(self, block: IPNetwork, node: str, revision: int) -> int | None:
        """Change a claim that has this revision, so that whoever wants to delete that one cannot.

        The new revision, or None where the claim is another by now.
        """
        entry = self.store.get(_key_of(block))
        if entry is None or entry.revision != revision:
            return None
        claim = _decode(entry, _Claim)
        try:
            return self.store.replace(entry.key, _encode(_Claim(node, claim.term + 1)), revision).revision
        except Conflict:
            return None

    def give_back(self, block: IPNetwork, node: str) -> None:
        """Give up a block, if this node still owns it."""
        entry = self.store.get(_key_of(block))
        if entry and _decode(entry, _Claim).owner == node:
            self.store.delete(entry.key, entry.revision)

    def remove_node(self, name: str) -> int:
        """Take a node that is gone for good out of the cluster; how many addresses its blocks had.

        The record goes first, so that a crash between the two leaves orphans, which the other nodes reclaim.
        """
        for _ in range(10):
            entry = self.store.get(_NODES + name)
            if entry is None or self._delete(entry.key, entry.revision):
                return self._give_back_all(name)
        raise StoreError(f"{_NODES}{name} changes faster than it can be removed: is that node still running?")

    def reclaim(self, name: str) -> int:
        """Give back the blocks of a node that has no record; how many addresses they had: 0 where it came back.

        One whose record was taken away by hand is no removed one: its agent writes it anew.
        """
        if isinstance(self.store, NodeStore) and self.store.is_kept(_NODES + name):
            return 0
        return self._give_back_all(name)

    def _give_back_all(self, name: str) -> int:
        seen = [
            (_block_of(entry.key), entry.key, entry.revision)
            for entry in self.store.entries(_BLOCKS).entries
            if _owner_of(entry) == name
        ]
        # Asked last: a record that is written later is followed by claims that the view does not have.
        if self.store.get(_NODES + name) is not None:
            return 0
        return sum(block.num_addresses for block, key, revision in seen if self._delete(key, revision))

    def _delete(self, key: str, revision: int) -> bool:
        try:
            self.store.delete(key, revision)
        except Conflict:
            return False
        return True


def is_about_ranges(event: Event) -> bool:
    """Whether a change is one of the cluster's ranges."""
    return event.key == _RANGES


def _ranges_of(entry: Entry) -> Agreement:
    try:
        return decoded(entry.value)
    except ValueError as error:
        raise ClusterError(f"key {entry.key!r} in the store is not ours: {error}; remove it") from None


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except Disagreement as error:
        raise ClusterError(str(error)) from None


def _owner_of(entry: Entry) -> str:
    try:
        return _decode(entry, _Claim).owner
    except ClusterError:
        return UNKNOWN_OWNER


def _key_of(block: IPNetwork) -> str:
    if block.version == 4:
        return f"{_BLOCKS}{block.network_address}-{block.prefixlen}"
    groups = (f"{int(group, 16):x}" for group in block.network_address.exploded.split(":"))
    return f"{_BLOCKS}{'-'.join(groups)}-{block.prefixlen}"


def _block_of(key: str) -> IPNetwork:
    address, _, length = key.removeprefix(_BLOCKS).rpartition("-")
    try:
        # Thousands of keys are read at a start: the packed form is several times as fast as text.
        if "-" in address:
            return IPv6Network((inet_pton(AF_INET6, address.replace("-", ":")), int(length)))
        return IPv4Network((inet_pton(AF_INET, address), int(length)))
    except (ValueError, OSError) as error:
        raise ClusterError(f"key {key!r} in the store is not a block: {error}; remove it") from None


def _encode(record: msgspec.Struct) -> bytes:
    return msgspec.json.encode(record, enc_hook=str)


def _node_of(entry: Entry) -> NodeRecord | None:
    try:
        return _decode(entry, NodeRecord)
    except ClusterError:
        return None


def _decode(entry: Entry, kind: type[_Record], mend: str = "remove it") -> _Record:
    try:
        return msgspec.json.decode(entry.value, type=kind, dec_hook=lambda wanted, value: wanted(value))
    except (msgspec.MsgspecError, ValueError) as error:
        raise ClusterError(f"key {entry.key!r} in the store is not ours: {error}; {mend}") from None
