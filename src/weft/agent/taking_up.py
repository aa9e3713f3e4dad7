"""Which blocks are a node's own when it starts: what the cluster says, held against what the node remembers."""

import logging
from collections.abc import Iterable, Sequence

from weft.agent.cluster import Cluster
from weft.agent.journal import Journal
from weft.agent.view import View
from weft.ipam.ownership import holdings
from weft.ipam.ranges import IPAddress, IPNetwork, PodRange

_log = logging.getLogger(__name__)


def taken_up(
    cluster: Cluster, journal: Journal, node: str, ranges: Sequence[PodRange], view: View, *, affirm: bool
) -> dict[IPNetwork, int]:
    """The node's blocks, and the revision at which each was claimed.

    ``affirm``: this node had no record, so others may be about to give its blocks back; each is changed first.

    What it remembers and nobody owns (it was removed from the cluster) is claimed again where pods are in it; what
    is another node's now is dropped from the journal, what is of no range is given back. Raises ClusterError,
    StoreError.
    """
    remembered = _remembered(journal, ranges)
    found = holdings(node, list(remembered), view.owners)
    claimed_at = {block: view.held[node][block] for block in view.blocks_of(node)}
    if affirm:
        claimed_at = _affirmed(cluster, journal, node, claimed_at)
    for block, owner in found.lost.items():
        _log.warning("block %s belongs to %s now: this node was removed from the cluster", block, owner)
        journal.drop_block(block)
    for block in sorted(found.vacant, key=lambda block: (block.version, int(block.network_address))):
        revision = cluster.claim(block, node) if remembered[block] else None
        if revision is None:
            journal.drop_block(block)
        else:
            _log.warning("block %s had no owner any more and is claimed again", block)
            claimed_at[block] = revision
    for block in _strays(journal, ranges, claimed_at):
        _log.warning("block %s is of no range any more and given back", block)
        journal.drop_block(block)
        cluster.give_back(block, node)
        del claimed_at[block]
    return claimed_at


def addresses_of_pods(journal: Journal) -> set[IPAddress]:
    """What the journal's attachments have."""
    return {address for attachment in journal.attachments() for address in attachment.addresses}


def _strays(journal: Journal, ranges: Sequence[PodRange], own: Iterable[IPNetwork]) -> list[IPNetwork]:
    """Blocks that were claimed while their range was removed. Of a journal that was lost nothing is known."""
    held = addresses_of_pods(journal)
    return [
        block
        for block in set(own).intersection(journal.blocks())
        if not any(pods.holds(block) for pods in ranges) and not any(address in block for address in held)
    ]


def _remembered(journal: Journal, ranges: Sequence[PodRange]) -> dict[IPNetwork, bool]:
    """Blocks that this node had by its journal, and whether somebody is in each."""
    remembered = {block: False for block in journal.blocks() if any(pods.holds(block) for pods in ranges)}
    held = addresses_of_pods(journal)
    for pods in ranges:
        remembered |= {pods.block_at(address): True for address in held if address in pods.network}
    return remembered


def _affirmed(
    cluster: Cluster, journal: Journal, node: str, claimed_at: dict[IPNetwork, int]
) -> dict[IPNetwork, int]:
    """The claims that could be changed, or made anew: they stay, whatever others are about to do."""
    affirmed = {}
    for block, seen_at in claimed_at.items():
        revision = cluster.affirm(block, node, seen_at) or cluster.claim(block, node)
        if revision is not None:
            affirmed[block] = revision
        else:
            _log.warning("block %s was given back for this node and is another's now", block)
            journal.drop_block(block)
    return affirmed
