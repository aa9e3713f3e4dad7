"""What the nodes of a cluster agree on: its ranges, and how a change of them comes about.

A node is told ranges by its settings, and settings change node by node. So one that is told more than the
cluster has makes it more, and one that is told less, by older settings, goes on with what the cluster has. Nothing
that a setting leaves out is taken away: that takes a word of its own, and an old setting does not undo it.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from weft.ipam.ranges import IPNetwork, PodRange, check_overlap, collapsed, inside


class Disagreement(Exception):
    """What is asked for does not go together with what the cluster has; the message names both and the mend."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """``ranges`` are in force, IPv4 first, each family's in the order in which nodes draw on them.

    ``removed`` were taken out: an old setting that names one does not bring it back.
    """

    ranges: tuple[PodRange, ...]
    removed: frozenset[IPNetwork] = frozenset()

    @property
    def networks(self) -> list[IPNetwork]:
        """The ranges' networks."""
        return [pods.network for pods in self.ranges]

    def __str__(self) -> str:
        return ",".join(map(str, self.ranges))


def settled(present: Agreement, given: Sequence[PodRange], sized: Collection[IPNetwork] = ()) -> Agreement:
    """What holds when a node with these settings has come: ``present`` itself where it adds nothing.

    It may add ranges and exclusions. ``sized`` are those of its ranges whose block size was asked for. Raises
    Disagreement where it has other ranges, or another block size.
    """
    wanted = [pods for pods in given if pods.network not in present.removed]
    asked, there = {pods.network for pods in wanted}, set(present.networks)
    if not (asked <= there or there <= asked):
        raise Disagreement(
            f"range {','.join(map(str, given))} does not match the cluster's range {present}: "
            f"give --range {present}, further ranges behind these to add them, or a store of its own to a new "
            "cluster"
        )
    known = {pods.network: pods for pods in present.ranges}
    for pods in wanted:
        agreed = known.get(pods.network, pods)
        if pods.network in sized and agreed.block_prefix != pods.block_prefix:
            raise Disagreement(
                f"block size {pods.block_prefix} does not match the cluster's {agreed.block_prefix} of {agreed}: "
                "leave --block-size out, or give a store of its own to a new cluster"
            )
    added = [pods for pods in wanted if pods.network not in known]
    excluded = [part for pods in wanted for part in pods.excluded]
    return with_excluded(with_ranges(present, added), excluded)


def with_ranges(present: Agreement, added: Sequence[PodRange]) -> Agreement:
    """Further ranges, behind those of their family; what was removed may come back. Raises Disagreement."""
    if not added:
        return present
    for pods in added:
        if pods.network in present.networks:
            raise Disagreement(f"range {pods} is there already; the ranges are {present}")
    try:
        check_overlap([*present.networks, *(pods.network for pods in added)])
    except ValueError as error:
        raise Disagreement(str(error)) from None
    ranges = sorted([*present.ranges, *added], key=lambda pods: pods.version)
    return Agreement(tuple(ranges), present.removed - {pods.network for pods in added})


def without_range(present: Agreement, network: IPNetwork, owners: Iterable[str]) -> Agreement:
    """One range less. ``owners`` own a block of it each time they are named. Raises Disagreement."""
    require(present, network)
    left = tuple(pods for pods in present.ranges if pods.network != network)
    counts: dict[str, int] = {}
    for owner in owners:
        counts[owner] = counts.get(owner, 0) + 1
    if counts:
        told = ", ".join(f"{owner} ({count})" for owner, count in sorted(counts.items()))
        raise Disagreement(
            f"range {network} is in use: blocks of it are owned by {told}; run 'weft range exclude {network}', "
            "let the pods in it be made anew, and remove it when their nodes have given the blocks back"
        )
    if not any(pods.version == 4 for pods in left):
        raise Disagreement(f"range {network} is the only IPv4 range: add another one first")
    return _open(Agreement(left, present.removed | {network}))


def with_excluded(present: Agreement, parts: Iterable[IPNetwork]) -> Agreement:
    """Nobody gets anything of these parts any more; who has it keeps it.

    Raises Disagreement where pods could be given no IPv4 address any more.
    """
    parts = list(parts)
    return _open(_with(present, lambda pods: collapsed([*pods.excluded, *inside(parts, pods.network)])))


def with_included(present: Agreement, parts: Iterable[IPNetwork]) -> Agreement:
    """These parts, which were excluded, may be given out again. Raises Disagreement where one was not."""
    parts = list(parts)
    for part in parts:
        if not any(inside([part], whole) for pods in present.ranges for whole in pods.excluded):
            excluded = ", ".join(str(whole) for pods in present.ranges for whole in pods.excluded) or "nothing"
            raise Disagreement(f"{part} is not excluded as a whole; excluded: {excluded}")
    return _with(present, lambda pods: _less(pods.excluded, parts))


def require(present: Agreement, network: IPNetwork) -> PodRange:
    """The range of that network. Raises Disagreement, naming those that there are."""
    for pods in present.ranges:
        if pods.network == network:
            return pods
    raise Disagreement(f"no range {network}; there are: {present}")


def _with(present: Agreement, excluded: Callable[[PodRange], tuple[IPNetwork, ...]]) -> Agreement:
    ranges = tuple(
        replace(pods, excluded=parts) if (parts := excluded(pods)) != pods.excluded else pods
        for pods in present.ranges
    )
    return replace(present, ranges=ranges) if ranges != present.ranges else present


def _open(agreed: Agreement) -> Agreement:
    four = [pods for pods in agreed.ranges if pods.version == 4]
    if all(pods.closed for pods in four):
        raise Disagreement(
            f"all of {', '.join(map(str, four))} is excluded, and no pod could get an IPv4 address: "
            "leave a part, or add a range first"
        )
    return agreed


def _less(excluded: tuple[IPNetwork, ...], parts: list[IPNetwork]) -> tuple[IPNetwork, ...]:
    left = list(excluded)
    for part in parts:
        left = [
            piece
            for whole in left
            for piece in (whole.address_exclude(part) if inside([part], whole) else [whole])  # type: ignore[arg-type]
        ]
    return collapsed(left)
