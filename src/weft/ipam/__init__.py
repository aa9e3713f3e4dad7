"""Who owns which block, and which address is free: pure decisions, no input or output.

- ``ranges``: what a valid pod range is, how large its blocks are, what it must not overlap.
- ``agreement``: how what nodes are told adds up to the ranges of the cluster.
- ``shares``: where a node looks for its first block, so that addresses come out as Weave's users expect.
- ``pool``: the addresses of one node's blocks of a range, handed out longest-unused first.
- ``pools``: those of all ranges, by family.
"""
