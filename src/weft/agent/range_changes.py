"""``weft range``: a change of the cluster's ranges by an operator's word, and what is said of it."""

from collections.abc import Callable, Sequence

from weft.agent.cluster import Cluster
from weft.agent.records import ClusterError
from weft.agent.view import View
from weft.ipam.agreement import Agreement, with_excluded, with_included, with_ranges, without_range
from weft.ipam.ranges import (
    IPNetwork,
    PodRange,
    parse_block_sizes,
    parse_excluded,
    parse_range,
    usual_block_prefix,
)

#: What can be done with a range, or with a part of one.
VERBS = ("add", "remove", "exclude", "include")


def change_ranges(
    cluster: Cluster, verb: str, value: str, refusal: Callable[[Sequence[PodRange]], str] = lambda ranges: ""
) -> str:
    """Do it; what it says. ``value`` is a range as CIDR, to be added as ``RANGE=LENGTH`` where its block size is
    another than usual, or for ``exclude`` and ``include`` addresses, CIDRs or FIRST-LAST, separated by commas.

    ``refusal`` tells why a range cannot be one on this node; empty where it can. Raises ValueError, naming what
    cannot be done, ClusterError, StoreError.
    """
    if verb == "add":
        pods = _parsed(value)
        if why := refusal([pods]):
            raise ValueError(why)
        agreed = cluster.change_ranges(lambda present: with_ranges(present, [pods]))
        return f"range {pods} is added, its blocks are /{pods.block_prefix}; the ranges are {agreed}"
    if verb == "remove":
        network = parse_range(value)
        return f"range {network} is removed; the ranges are {_without(cluster, network)}"
    if verb not in VERBS:
        raise ValueError(f"a range cannot be {verb!r}; there are: {', '.join(VERBS)}")
    change = with_excluded if verb == "exclude" else with_included
    agreed = cluster.change_ranges(
        lambda present: change(present, parse_excluded(value, present.networks)),
    )
    excluded = [str(part) for pods in agreed.ranges for part in pods.excluded]
    return f"excluded now: {', '.join(excluded) or 'nothing'}"


def _without(cluster: Cluster, network: IPNetwork) -> Agreement:
    found: list[PodRange] = []

    def removed(present: Agreement) -> Agreement:
        found[:] = [pods for pods in present.ranges if pods.network == network]
        return without_range(present, network, _owners(cluster.view(), network))

    agreed = cluster.change_ranges(removed)
    # A node that had not heard of it yet may have claimed a block at the same time: then all is as it was.
    if owners := _owners(cluster.view(), network):
        cluster.change_ranges(lambda present: _with(present, found))
        raise ClusterError(
            f"range {network} stays: {', '.join(sorted(set(owners)))} claimed a block of it meanwhile"
        )
    return agreed


def _with(present: Agreement, ranges: Sequence[PodRange]) -> Agreement:
    return with_ranges(present, [pods for pods in ranges if pods.network not in present.networks])


def _owners(view: View, network: IPNetwork) -> list[str]:
    return [owner for block, owner in view.owners.items() if block.network_address in network]


def _parsed(value: str) -> PodRange:
    network = parse_range(value.partition("=")[0])
    sizes = parse_block_sizes(value, [network]) if "=" in value else {}
    return PodRange(network, sizes.get(network, usual_block_prefix(network)))
