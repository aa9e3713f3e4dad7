"""The cluster's state as typed records: what lies under which key of the store.

cluster               the pod ranges, the size of their blocks, what is excluded (``weft.agent.range_record``):
                      what the first node was told, and what was added since
nodes/NAME            where a node is, and how its bridge and tunnel are addressed
blocks/A.B.C.D-LEN    who owns a block; creating the key is the claim. Of an IPv6 block the eight groups are
                      written, ``blocks/fd00-10-32-0-0-0-0-0-120``: every key is fit for a name in Kubernetes
present/NAME          a sign of life, where the store has keys that vanish by themselves

A node's record is written before its first claim and deleted before its blocks (``weft.ipam.ownership``).
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from socket import AF_INET, AF_INET6, inet_pton
from typing import TypeVar

import msgspec

from weft.agent.range_record import decoded
from weft.ipam.agreement import Agreement
from weft.ipam.ranges import IPNetwork
from weft.store import Entry, Event

RANGES = "cluster"
NODES = "nodes/"
BLOCKS = "blocks/"
PRESENT = "present/"
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


class Claim(msgspec.Struct, frozen=True, omit_defaults=True):
    """``term`` grows where a node that was removed takes the block up again before it was given back."""

    owner: str
    term: int = 0


def is_about_ranges(event: Event) -> bool:
    """Whether a change is one of the cluster's ranges."""
    return event.key == RANGES


def ranges_of(entry: Entry) -> Agreement:
    """The ranges that are written down. Raises ClusterError where that cannot be read."""
    try:
        return decoded(entry.value)
    except ValueError as error:
        raise ClusterError(f"key {entry.key!r} in the store is not ours: {error}; remove it") from None


def node_of(entry: Entry) -> NodeRecord | None:
    """What a node tells; None where that cannot be read."""
    try:
        return decode(entry, NodeRecord)
    except ClusterError:
        return None


def owner_of(entry: Entry) -> str:
    """Whose a block is; ``UNKNOWN_OWNER`` where that cannot be read."""
    try:
        return decode(entry, Claim).owner
    except ClusterError:
        return UNKNOWN_OWNER


def key_of(block: IPNetwork) -> str:
    """Where a block's claim lies."""
    if block.version == 4:
        return f"{BLOCKS}{block.network_address}-{block.prefixlen}"
    groups = (f"{int(group, 16):x}" for group in block.network_address.exploded.split(":"))
    return f"{BLOCKS}{'-'.join(groups)}-{block.prefixlen}"


def block_of(key: str) -> IPNetwork:
    """Which block's claim lies there. Raises ClusterError."""
    address, _, length = key.removeprefix(BLOCKS).rpartition("-")
    try:
        # Thousands of keys are read at a start: the packed form is several times as fast as text.
        if "-" in address:
            return IPv6Network((inet_pton(AF_INET6, address.replace("-", ":")), int(length)))
        return IPv4Network((inet_pton(AF_INET, address), int(length)))
    except (ValueError, OSError) as error:
        raise ClusterError(f"key {key!r} in the store is not a block: {error}; remove it") from None


def encode(record: msgspec.Struct) -> bytes:
    """A record as it is written."""
    return msgspec.json.encode(record, enc_hook=str)


def decode(entry: Entry, kind: type[_Record], mend: str = "remove it") -> _Record:
    """A record that was written. Raises ClusterError with the key and the mend."""
    try:
        return msgspec.json.decode(entry.value, type=kind, dec_hook=lambda wanted, value: wanted(value))
    except (msgspec.MsgspecError, ValueError) as error:
        raise ClusterError(f"key {entry.key!r} in the store is not ours: {error}; {mend}") from None
