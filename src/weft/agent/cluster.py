"""The cluster's state as typed records: what lies under which key of the store.

cluster               the pod range, fixed by the first node
nodes/NAME            where a node is, and how its bridge and tunnel are addressed
blocks/A.B.C.D-LEN    who owns a block; creating the key is the claim
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import TypeVar

import msgspec

from weft.fabric.plan import Peer
from weft.store import Conflict, Entry, Event, KeyExists, Store, StoreError

_RANGE = "cluster"
_NODES = "nodes/"
_BLOCKS = "blocks/"


_Record = TypeVar("_Record")


class ClusterError(Exception):
    """The store's content and this node do not go together; the message names both and the mend."""


class NodeRecord(msgspec.Struct, frozen=True, rename="camel"):
    """What a node tells its peers. ``instance`` tells a node from another one with the same name."""

    address: IPv4Address
    link_address: str
    gateway: IPv4Address
    instance: str


class _Range(msgspec.Struct, frozen=True):
    range: str


class _Claim(msgspec.Struct, frozen=True):
    owner: str


@dataclass(slots=True)
class View:
    """Nodes and owners as this node last saw them. Changes are folded in by ``apply``."""

    nodes: dict[str, NodeRecord] = field(default_factory=dict)
    owners: dict[IPv4Network, str] = field(default_factory=dict)
    #: The revision at which each block was claimed: the order in which a node's blocks came.
    claimed_at: dict[IPv4Network, int] = field(default_factory=dict)
    revision: int = 0

    @classmethod
    def of(cls, entries: Iterable[Entry], revision: int) -> "View":
        """The view that a listing gives."""
        view = cls()
        for entry in entries:
            view.apply(Event(entry.key, entry, entry.revision))
        view.revision = revision
        return view

    def apply(self, event: Event) -> None:
        """Fold one change in. Raises ClusterError, naming the key, for a value that is not ours."""
        self.revision = max(self.revision, event.revision)
        if event.key.startswith(_NODES):
            name = event.key.removeprefix(_NODES)
            self.nodes.pop(name, None)
            if event.entry:
                self.nodes[name] = _decode(event.entry, NodeRecord)
        elif event.key.startswith(_BLOCKS):
            block = _block_of(event.key)
            self.owners.pop(block, None)
            self.claimed_at.pop(block, None)
            if event.entry:
                self.owners[block] = _decode(event.entry, _Claim).owner
                self.claimed_at[block] = event.entry.revision

    def blocks_of(self, node: str) -> list[IPv4Network]:
        """A node's blocks in the order in which it claimed them."""
        own = [block for block, owner in self.owners.items() if owner == node]
        return sorted(own, key=self.claimed_at.__getitem__)

    def peers(self, this_node: str) -> list[Peer]:
        """Every other node that has told where it is."""
        blocks: dict[str, list[IPv4Network]] = {}
        for block, owner in self.owners.items():
            blocks.setdefault(owner, []).append(block)
        return [
            Peer(name, node.address, node.link_address, node.gateway, tuple(sorted(blocks.get(name, ()))))
            for name, node in sorted(self.nodes.items())
            if name != this_node
        ]


class Cluster:
    """Typed access to the store. Every call may raise ``StoreUnavailable``."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def agree_on_range(self, universe: IPv4Network) -> None:
        """Fix the cluster's range, or raise ClusterError where the cluster has another one."""
        try:
            self.store.create(_RANGE, _encode(_Range(str(universe))))
        except KeyExists:
            entry = self.store.get(_RANGE)
            if entry and (fixed := _decode(entry, _Range).range) != str(universe):
                raise ClusterError(
                    f"range {universe} does not match the cluster's range {fixed}: "
                    f"give --range {fixed}, or a store of its own to a new cluster"
                ) from None

    def view(self) -> View:
        """Everything, as of one revision."""
        listing = self.store.entries("")
        return View.of(listing.entries, listing.revision)

    def register(self, name: str, record: NodeRecord) -> None:
        """Tell where this node is. Raises ClusterError where another node has the name."""
        key = _NODES + name
        value = _encode(record)
        for _ in range(10):
            try:
                entry = self.store.get(key)
                if entry is None:
                    self.store.create(key, value)
                    return
                known = _decode(entry, NodeRecord)
                if known.instance != record.instance and known.address != record.address:
                    raise ClusterError(
                        f"node name {name!r} belongs to the node at {known.address}; "
                        f"this one is at {record.address}: give it another --node-name"
                    )
                if entry.value != value:
                    self.store.replace(key, value, entry.revision)
            except (KeyExists, Conflict):
                continue
            return
        raise StoreError(f"{key} changes faster than it can be written")

    def claim(self, block: IPv4Network, node: str) -> bool:
        """Make a block this node's own; False where somebody was first."""
        try:
            self.store.create(_key_of(block), _encode(_Claim(node)))
        except KeyExists:
            return False
        return True

    def give_back(self, block: IPv4Network, node: str) -> None:
        """Give up a block, if this node still owns it."""
        entry = self.store.get(_key_of(block))
        if entry and _decode(entry, _Claim).owner == node:
            self.store.delete(entry.key, entry.revision)


def _key_of(block: IPv4Network) -> str:
    return f"{_BLOCKS}{block.network_address}-{block.prefixlen}"


def _block_of(key: str) -> IPv4Network:
    try:
        return IPv4Network(key.removeprefix(_BLOCKS).replace("-", "/"))
    except ValueError as error:
        raise ClusterError(f"key {key!r} in the store is not a block: {error}; remove it") from None


def _encode(record: msgspec.Struct) -> bytes:
    return msgspec.json.encode(record, enc_hook=str)


def _decode(entry: Entry, kind: type[_Record]) -> _Record:
    try:
        return msgspec.json.decode(entry.value, type=kind, dec_hook=lambda wanted, value: wanted(value))
    except (msgspec.MsgspecError, ValueError) as error:
        raise ClusterError(f"key {entry.key!r} in the store is not ours: {error}; remove it") from None
