"""Who may have which block: what a node that starts takes up, and what is left of a node that was removed.

A node signs in (its record is written) before it claims a block, and a removal deletes the record before the
blocks. So a block whose owner has no record belongs to a node that was removed; and a claim that is deleted at the
revision at which it was seen together with the missing record cannot be one of a node that has come back.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from weft.ipam.ranges import IPNetwork


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a node finds when it comes (back): ``owned`` is its own, ``vacant`` was and has no owner now,
    ``lost`` was and is somebody else's now (who)."""

    owned: frozenset[IPNetwork]
    vacant: frozenset[IPNetwork]
    lost: Mapping[IPNetwork, str]


def holdings(node: str, remembered: Collection[IPNetwork], owners: Mapping[IPNetwork, str]) -> Holdings:
    """Hold what a node remembers against what the cluster says."""
    return Holdings(
        frozenset(block for block, owner in owners.items() if owner == node),
        frozenset(block for block in remembered if block not in owners),
        {block: owners[block] for block in remembered if owners.get(block, node) != node},
    )


def orphans(owners: Iterable[str], unknown: Collection[str], nodes: Collection[str]) -> list[str]:
    """Owners of blocks that have no record: nodes that were removed from the cluster. Not those in ``unknown``."""
    return [owner for owner in owners if owner not in nodes and owner not in unknown]


def turn(node: str, removed: str, nodes: Collection[str]) -> int:
    """How many other nodes should clean up after the removed one before this node does: not all at once.

    Every node works it out alike: the order is by a hash of both names.
    """

    def place(name: str) -> bytes:
        return hashlib.sha256(f"{removed}\0{name}".encode()).digest()

    own = place(node)
    return sum(place(other) < own for other in nodes if other != node)
