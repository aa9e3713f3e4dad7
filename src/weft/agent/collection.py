"""Which attachments no live sandbox holds: what runtimes leave that never call GC and can skip DEL. Pure.

An attachment becomes suspect for what a look shows, and is given up when enough looks in a row have shown it.
Looks are counted, not seconds, so no clock can hurry it. What a look could not learn counts for the attachment.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from weft.agent.journal import Attachment, State
from weft.ipam.ranges import IPAddress


class Reason(StrEnum):
    """Why an attachment is suspect."""

    NO_INTERFACE = "no-interface"  # the pair is gone, mostly with the sandbox's namespace
    UNFINISHED = "unfinished"  # an ADD that ended without undoing what it had begun
    REPLACED = "replaced"  # the same pod has a newer sandbox: the kubelet stops the old one first
    POD_GONE = "pod-gone"  # the API server knew the pod, and does so no more


#: Seconds that a suspicion must hold, at most; ``--collect-after`` shortens them.
PATIENCE = {Reason.NO_INTERFACE: 30.0, Reason.UNFINISHED: 60.0, Reason.REPLACED: 120.0}

#: What is suspect: an attachment's number in the journal, and why.
Suspect = tuple[int, Reason]


@dataclass(frozen=True, slots=True)
class Look:
    """What there is at one moment.

    ``interfaces`` are the names of the node's devices, ``unknown_holders`` addresses behind ports of the bridge
    that the journal does not know (renamed ones), ``pods`` the UIDs of this node's pods as the API server has
    them, None where nobody can say.
    """

    attachments: tuple[Attachment, ...]
    interfaces: frozenset[str]
    unknown_holders: frozenset[IPAddress] = frozenset()
    pods: frozenset[str] | None = None


def suspects(look: Look) -> set[Suspect]:
    """What a look has against attachments; at most one thing against each."""
    alive = [item for item in look.attachments if item.state is not State.RETIRING]
    names = [item.host_interface for item in alive]
    newest = {
        (item.pod_uid, item.network, item.ifname): item.id
        for item in sorted(alive, key=lambda item: item.id)
        if item.state is State.ATTACHED and item.host_interface in look.interfaces
    }
    found = set()
    for item in alive:
        # Addresses that another IPAM plugin keeps are not ours to free, nor is an interface that two could mean.
        if item.addresses and names.count(item.host_interface) == 1:
            reason = _against(item, look, newest.get((item.pod_uid, item.network, item.ifname), 0))
            if reason is not None:
                found.add((item.id, reason))
    return found


def _against(item: Attachment, look: Look, newest: int) -> Reason | None:
    if item.state is State.RESERVED:
        return Reason.UNFINISHED
    if item.host_interface not in look.interfaces:
        return None if look.unknown_holders.intersection(item.addresses) else Reason.NO_INTERFACE
    if item.pod_uid and newest > item.id:
        return Reason.REPLACED
    # A static pod is never known under its own UID, and a pod that was never known cannot have gone.
    if item.pod_uid and item.termination_grace is not None and look.pods is not None:
        return Reason.POD_GONE if item.pod_uid not in look.pods else None
    return None


class Suspicions:
    """How often in a row each suspicion was found."""

    def __init__(self, interval: float, longest: float) -> None:
        """Looks are ``interval`` seconds apart; ``longest`` is the patience with a pod that is gone."""
        self._interval = interval
        self._longest = longest
        self._held: dict[Suspect, int] = {}

    def after(self, look: Look) -> list[tuple[Attachment, Reason]]:
        """Take a look into account; what is to be given up now, oldest first. It stays so while it is found."""
        found = suspects(look)
        self._held = {suspect: self._held.get(suspect, 0) + 1 for suspect in found}
        known = {item.id: item for item in look.attachments}
        return [
            (known[number], reason)
            for number, reason in sorted(found)
            if self._held[number, reason] > self.looks(known[number], reason)
        ]

    def looks(self, item: Attachment, reason: Reason) -> int:
        """How many looks in a row, after the first, must find it."""
        if reason is Reason.POD_GONE:
            # One that was deleted by force may still be ending.
            seconds = self._longest + (item.termination_grace or 0)
        else:
            seconds = min(PATIENCE[reason], self._longest)
        return max(1, -int(-seconds // self._interval))


def termination_graces(attachments: Iterable[Attachment], pods: Mapping[str, int]) -> list[tuple[Attachment, int]]:
    """What the journal must learn of attachments whose pods the API server knows: the longest grace it named."""
    return [
        (item, pods[item.pod_uid])
        for item in attachments
        if item.pod_uid in pods and (item.termination_grace is None or item.termination_grace < pods[item.pod_uid])
    ]
