"""The small model of one nftables table: sets, verdict maps, chains of typed rules, named counters.

    forward, output ─▶ egress ── by source ──▶ deny/out/CLASS ─▶ out/NAMESPACE/POLICY ─▶ ingress
                         └──── not isolated ─▶ ingress ── by destination ─▶ deny/in/CLASS ─▶ in/… ─▶ accept

A class is a set of policies; pods that are selected by the same ones share its chain, which tries each policy's
chain and drops what none allowed. Only pods of this node stand in the verdict maps: whoever owns a pod enforces
its side.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

#: Chains that every table has.
EGRESS, INGRESS = "egress", "ingress"
#: Where every connection begins, after the prologue that ``rendering`` writes.
ENTRY = EGRESS


class Field(StrEnum):
    """What of a packet is looked up; ports are those of the destination, with the protocol."""

    SOURCE = "saddr"
    DESTINATION = "daddr"
    PORT = "port"


class Action(StrEnum):
    """What a rule does with a packet that matches, in nftables' words."""

    ACCEPT = "accept"
    DROP = "drop"
    JUMP = "jump"
    GOTO = "goto"


@dataclass(frozen=True, slots=True)
class Verdict:
    """An action, with the chain where it goes to one."""

    action: Action
    chain: str = ""


@dataclass(frozen=True, slots=True)
class Match:
    """The fields, concatenated, are in a set. ``version`` is of the addresses; 0 where there are none."""

    fields: tuple[Field, ...]
    set: str
    version: int = 0


@dataclass(frozen=True, slots=True)
class Rule:
    """All of the matches, then the verdict; ``counter`` counts what came so far."""

    matches: tuple[Match, ...]
    verdict: Verdict
    counter: str = ""


@dataclass(frozen=True, slots=True)
class Dispatch:
    """The verdict that a map holds for an address, if it holds one."""

    field: Field
    map: str
    version: int


@dataclass(frozen=True, slots=True)
class NotAStart:
    """Drops a TCP segment that starts nothing, of a connection that was cut, where the address is in the set."""

    field: Field
    set: str
    version: int


@dataclass(frozen=True, slots=True)
class Log:
    """Tell of the packet, within a rate."""

    prefix: str


Statement = Rule | Dispatch | NotAStart | Log


@dataclass(frozen=True, slots=True)
class Set:
    """A set of elements as nftables writes them, such as ``10.0.0.1 . tcp . 80``."""

    type: str
    elements: frozenset[str]
    intervals: bool = False


@dataclass(frozen=True, slots=True)
class VerdictMap:
    """By address, the chain that a packet jumps to."""

    type: str
    elements: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Model:
    """A table. What is equal in two models is most often the same object, which makes a difference cheap."""

    sets: Mapping[str, Set] = field(default_factory=dict)
    maps: Mapping[str, VerdictMap] = field(default_factory=dict)
    chains: Mapping[str, tuple[Statement, ...]] = field(default_factory=dict)
    counters: frozenset[str] = frozenset()
