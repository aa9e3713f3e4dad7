"""A model, or the difference of two, as nftables commands (nft(8)).

What is new is first made where no packet comes by, then one transaction switches to it, then what is left over is
removed. So a difference of any size may go in pieces, and no packet ever meets half of it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from weft.policy.model import (
    ENTRY,
    Action,
    Dispatch,
    Field,
    Log,
    Match,
    Model,
    NotAStart,
    Rule,
    Set,
    Statement,
)

TABLE = "inet weft-policy"
#: The group of nfnetlink_log to which dropped packets are told.
LOG_GROUP = 6784
LOG_RATE = "10/second"
#: Elements in one command; commands in one transaction.
_ELEMENTS_A_LINE = 256
_LINES_AT_ONCE = 20000

#: Where packets come from: those that are forwarded, between ports of a bridge too (br_netfilter), and those
#: that leave through the node's own stack, which are either the node's, always allowed, or redirected by IPVS.
PROLOGUE: dict[str, tuple[str, tuple[str, ...]]] = {
    "forward": (
        "type filter hook forward priority filter; policy accept;",
        (
            "ct state established,related accept",
            "icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } accept",
            f"goto {ENTRY}",
        ),
    ),
    "output": (
        "type filter hook output priority filter; policy accept;",
        (
            "ct state established,related accept",
            'oifname "lo" accept',
            "fib saddr type local accept",
            f"goto {ENTRY}",
        ),
    ),
}
_FAMILY = {4: "ip", 6: "ip6"}


@dataclass(slots=True)
class _Steps:
    prepare: list[str] = field(default_factory=list)
    switch: list[str] = field(default_factory=list)
    clean: list[str] = field(default_factory=list)


def whole(model: Model) -> list[str]:
    """Transactions that make the table; the last but nothing before it makes packets obey.

    They make the table anew where there is none. A table that is there and unreadable is replaced: then it is one
    transaction, ``replacement``.
    """
    return [f"add table {TABLE}\n", *difference(Model(), model), prologue()]


def replacement(model: Model) -> str:
    """One transaction that puts the table in place of any other of its name."""
    lines = [f"add table {TABLE}", f"delete table {TABLE}", f"add table {TABLE}"]
    steps = _steps(Model(), model)
    return "\n".join([*lines, *steps.prepare, *steps.switch]) + "\n" + prologue()


def prologue() -> str:
    """One transaction that makes packets obey: the base chains."""
    lines = []
    for name, (hook, rules) in PROLOGUE.items():
        lines += [f"add chain {TABLE} {name} {{ {hook} }}", f"flush chain {TABLE} {name}"]
        lines += [f"add rule {TABLE} {name} {rule}" for rule in rules]
    return "\n".join(lines) + "\n"


def difference(old: Model, new: Model) -> list[str]:
    """The transactions that turn the table of one model into that of another; none where they are equal.

    One, unless it is huge.
    """
    steps = _steps(old, new)
    if not (steps.prepare or steps.switch or steps.clean):
        return []
    if len(steps.prepare) + len(steps.switch) + len(steps.clean) <= _LINES_AT_ONCE:
        return [_text([*steps.prepare, *steps.switch, *steps.clean])]
    return [
        *map(_text, _pieces(steps.prepare)),
        *([_text(steps.switch)] if steps.switch else []),
        *map(_text, _pieces(steps.clean)),
    ]


def statement_text(statement: Statement) -> str:
    """A statement as nftables writes it."""
    if isinstance(statement, Rule):
        verdict = statement.verdict
        words = [_match(match) for match in statement.matches]
        words += [f'counter name "{statement.counter}"'] if statement.counter else []
        words.append(f"{verdict.action} {verdict.chain}" if verdict.chain else str(verdict.action))
        return " ".join(words)
    if isinstance(statement, Dispatch):
        return f"{_FAMILY[statement.version]} {statement.field} vmap @{statement.map}"
    if isinstance(statement, NotAStart):
        flags = "ct state new tcp flags & (fin | syn | rst | ack) != syn"
        return f"{flags} {_FAMILY[statement.version]} {statement.field} @{statement.set} {Action.DROP}"
    if isinstance(statement, Log):
        return f'limit rate {LOG_RATE} burst 20 packets log prefix "{statement.prefix}" group {LOG_GROUP}'
    assert_never(statement)


def _match(match: Match) -> str:
    words = [
        "meta l4proto . th dport" if item is Field.PORT else f"{_FAMILY[match.version]} {item}"
        for item in match.fields
    ]
    return f"{' . '.join(words)} @{match.set}"


def _steps(old: Model, new: Model) -> _Steps:
    steps = _Steps()
    _sets(old, new, steps)
    _counters(old, new, steps)
    _chains(old, new, steps)
    _maps(old, new, steps)
    # What a removed chain refers to goes after it.
    steps.clean += [f"delete set {TABLE} {name}" for name in old.sets if name not in new.sets]
    steps.clean += [f"delete counter {TABLE} {name}" for name in sorted(old.counters - new.counters)]
    return steps


def _sets(old: Model, new: Model, steps: _Steps) -> None:
    for name, wanted in new.sets.items():
        present = old.sets.get(name)
        if present is wanted:
            continue
        if present is None:
            steps.prepare.append(f"add set {TABLE} {name} {{ {_set_header(wanted)} }}")
            steps.prepare += _elements("add", name, wanted.elements)
        elif present != wanted:
            steps.switch += _elements("delete", name, present.elements - wanted.elements)
            steps.switch += _elements("add", name, wanted.elements - present.elements)


def _set_header(wanted: Set) -> str:
    return f"type {wanted.type}; flags interval;" if wanted.intervals else f"type {wanted.type};"


def _counters(old: Model, new: Model, steps: _Steps) -> None:
    if old.counters is not new.counters:
        steps.prepare += [f"add counter {TABLE} {name}" for name in sorted(new.counters - old.counters)]


def _chains(old: Model, new: Model, steps: _Steps) -> None:
    added = [name for name in new.chains if name not in old.chains]
    steps.prepare += [f"add chain {TABLE} {name}" for name in added]
    for name, wanted in new.chains.items():
        present = old.chains.get(name)
        if present is wanted or present == wanted:
            continue
        lines = [f"add rule {TABLE} {name} {statement_text(statement)}" for statement in wanted]
        if present is None:
            # A new chain that leads nowhere yet is on no packet's way, but what it refers to must be there first.
            steps.prepare += lines
        else:
            steps.switch += [f"flush chain {TABLE} {name}", *lines]
    gone = [name for name in old.chains if name not in new.chains]
    steps.clean += [f"flush chain {TABLE} {name}" for name in gone]
    steps.clean += [f"delete chain {TABLE} {name}" for name in gone]


def _maps(old: Model, new: Model, steps: _Steps) -> None:
    for name, wanted in new.maps.items():
        present = old.maps.get(name)
        if present is wanted:
            continue
        before = present.elements if present is not None else {}
        if present is None:
            # Ahead of the chains, which may refer to it.
            steps.prepare.insert(0, f"add map {TABLE} {name} {{ type {wanted.type} : verdict; }}")
        changed = [address for address, chain in wanted.elements.items() if before.get(address) != chain]
        stale = [address for address in before if address not in wanted.elements]
        steps.switch += _elements("delete", name, [*stale, *(address for address in changed if address in before)])
        steps.switch += _elements(
            "add", name, [f"{address} : jump {wanted.elements[address]}" for address in changed]
        )


def _elements(verb: str, name: str, elements: Iterable[str]) -> Iterator[str]:
    ordered = sorted(elements)
    for start in range(0, len(ordered), _ELEMENTS_A_LINE):
        listed = ", ".join(ordered[start : start + _ELEMENTS_A_LINE])
        yield f"{verb} element {TABLE} {name} {{ {listed} }}"


def _pieces(lines: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(lines), _LINES_AT_ONCE):
        yield lines[start : start + _LINES_AT_ONCE]


def _text(lines: Sequence[str]) -> str:
    return "\n".join(lines) + "\n"
