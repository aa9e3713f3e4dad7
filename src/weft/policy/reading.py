"""A table as ``nft list table`` prints it, back as a model: what an earlier run left in force."""

import re
from ipaddress import ip_network

from weft.policy import ranges
from weft.policy.model import Action, Model, Rule, Set, Statement, Verdict, VerdictMap
from weft.policy.rendering import PROLOGUE, statement_text

_BLOCK = re.compile(r"^\t(?P<kind>set|map|chain|counter) (?P<name>\S+) \{\n(?P<body>.*?)^\t\}", re.M | re.S)
_TYPE = re.compile(r"^\t\ttype (?P<type>[a-z0-9_ .]+?)(?: : verdict)?$", re.M)
_ELEMENTS = re.compile(r"elements = \{(?P<elements>.*?)\}", re.S)


def read(listing: str, wanted: Model) -> Model:
    """The table that was listed. Chains that read as those of ``wanted`` are taken for equal.

    Any other chain is one that no model has: a difference writes it anew. Raises ValueError where the listing is
    not of a table of ours.
    """
    sets: dict[str, Set] = {}
    maps: dict[str, VerdictMap] = {}
    chains: dict[str, tuple[Statement, ...]] = {}
    counters: set[str] = set()
    for block in _BLOCK.finditer(listing):
        name, body = block["name"], block["body"]
        if block["kind"] == "counter":
            counters.add(name)
        elif block["kind"] == "chain":
            if name not in PROLOGUE:
                chains[name] = _chain(name, body, wanted)
        else:
            kind = _TYPE.search(body)
            if kind is None:
                raise ValueError(f"{block['kind']} {name} has no type")
            elements = _elements(body)
            if block["kind"] == "map":
                pairs = (element.partition(" : jump ") for element in elements)
                maps[name] = VerdictMap(kind["type"], {address: chain for address, _, chain in pairs})
            else:
                intervals = "flags interval" in body
                sets[name] = Set(kind["type"], frozenset(map(_canonical, elements)), intervals)
    return Model(sets, maps, chains, frozenset(counters))


def _chain(name: str, body: str, wanted: Model) -> tuple[Statement, ...]:
    written = tuple(_plain(line.strip()) for line in body.splitlines() if line.strip())
    statements = wanted.chains.get(name)
    if statements is not None and written == tuple(_plain(statement_text(each)) for each in statements):
        return statements
    # Its verdict leads nowhere that exists, so it equals no chain of a model.
    return (Rule((), Verdict(Action.GOTO, f"unread/{name}")),)


def _plain(rule: str) -> str:
    """A rule in one spelling: versions of nft differ in how they write flags and quote names."""
    rule = rule.replace("tcp flags & (fin | syn | rst | ack) != syn", "tcp flags != syn / fin,syn,rst,ack")
    return rule.replace('"', "")


def _elements(body: str) -> list[str]:
    found = _ELEMENTS.search(body)
    return [" ".join(element.split()) for element in found["elements"].split(",")] if found else []


def _canonical(element: str) -> str:
    """nft writes an interval of addresses as a prefix where it is one."""
    if "/" not in element:
        return element
    network = ip_network(element)
    return ranges.text((int(network.network_address), int(network.broadcast_address)), network.version)
