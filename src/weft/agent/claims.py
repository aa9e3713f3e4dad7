"""Claims a block: first where Weave would look, after lost races elsewhere."""

import logging
from collections.abc import Collection, Iterable, Sequence
from itertools import count

from weft.agent.cluster import Cluster
from weft.ipam import shares
from weft.ipam.claimed import ClaimedBlocks
from weft.ipam.ranges import IPNetwork, PodRange, common, listed

_log = logging.getLogger(__name__)

#: Attempts at a claim that follow Weave's order; those after them are scattered.
ORDERLY_ATTEMPTS = 3


class BlockTaken(Exception):
    """The block is another node's."""

    def __init__(self, block: IPNetwork, owner: str) -> None:
        super().__init__(f"block {block} of {owner}")
        self.owner = owner


def claim_this(cluster: Cluster, block: IPNetwork, node: str) -> int:
    """The revision of the claim by which exactly this block is the node's from now on.

    Asked of the store, not of what is known, which may be old. Raises BlockTaken, StoreError, ClusterError.
    """
    owner = cluster.owner(block)
    if owner is None:
        revision = cluster.claim(block, node)
        owner = cluster.owner(block) if revision is None else None
    elif owner[0] == node:
        # The answer to a claim was lost, or to a giving back that is to do no harm from here on.
        revision = cluster.affirm(block, node, owner[1])
    else:
        revision = None
    if revision is None:
        raise BlockTaken(block, owner[0] if owner else "another node")
    _log.info("block %s claimed", block)
    return revision


def claim_of_first(
    cluster: Cluster,
    family: Iterable[PodRange],
    node: str,
    init: shares.Init,
    claimed: ClaimedBlocks,
    own: Collection[IPNetwork],
    within: Sequence[IPNetwork] = (),
) -> tuple[IPNetwork, int]:
    """``claim_block`` of the first range that has a block left, of those that ``within`` has a part of.

    Raises RangeExhausted, naming all; StoreError.
    """
    exhausted = []
    for pods in family:
        parts = common(within, pods.network)
        if pods.closed:
            exhausted.append(f"{pods} is excluded")
        elif parts or not within:
            mine = [block for block in own if pods.holds(block)]
            try:
                return claim_block(cluster, pods, node, init, claimed, mine, parts)
            except shares.RangeExhausted as error:
                exhausted.append(str(error))
    raise shares.RangeExhausted("; ".join(exhausted) or f"no block in {listed(within)} is free")


def claim_block(
    cluster: Cluster,
    pods: PodRange,
    node: str,
    init: shares.Init,
    claimed: ClaimedBlocks,
    own: Sequence[IPNetwork],
    within: Sequence[IPNetwork] = (),
) -> tuple[IPNetwork, int]:
    """A block that is the node's from now on, and the revision of the claim.

    ``claimed`` has the blocks that have an owner as far as is known, of any range; what turns out to be taken is
    added. ``own`` are the node's own, in the order in which they came. ``within`` are parts of the range of
    which one must be in the block, if any are given: Weave has no order there. Raises RangeExhausted, StoreError.
    """
    for attempt in count(1):
        if within or attempt > ORDERLY_ATTEMPTS:
            block = shares.scattered_block(pods, claimed, node, attempt, within)
        elif own:
            block = shares.further_block(pods, claimed, own)
        else:
            block = shares.first_block(pods, claimed, init, node)
        revision = cluster.claim(block, node)
        if revision is not None:
            _log.info("block %s claimed", block)
            return block, revision
        claimed.add(block)
    raise AssertionError("a range has an end")
