"""Claims a block: first where Weave would look, after lost races elsewhere."""

import logging
from collections.abc import Sequence
from itertools import count

from weft.agent.cluster import Cluster
from weft.ipam import shares
from weft.ipam.claimed import ClaimedBlocks
from weft.ipam.ranges import IPNetwork, PodRange

_log = logging.getLogger(__name__)

#: Attempts at a claim that follow Weave's order; those after them are scattered.
ORDERLY_ATTEMPTS = 3


def claim_block(
    cluster: Cluster,
    pods: PodRange,
    node: str,
    init: shares.Init,
    claimed: ClaimedBlocks,
    own: Sequence[IPNetwork],
) -> tuple[IPNetwork, int]:
    """A block that is the node's from now on, and the revision of the claim.

    ``claimed`` has the blocks that have an owner as far as is known, of any range; what turns out to be taken is
    added. ``own`` are the node's own, in the order in which they came. Raises RangeExhausted, StoreError.
    """
    for attempt in count(1):
        if attempt > ORDERLY_ATTEMPTS:
            block = shares.scattered_block(pods, claimed, node, attempt)
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
