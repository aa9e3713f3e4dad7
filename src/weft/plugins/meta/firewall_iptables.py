"""``firewall`` with iptables: chains and rules as the reference plugin makes them, in the table filter.

FORWARD ─▶ CNI-ISOLATION-STAGE-1 ─ from a bridge, not to it ─▶ CNI-ISOLATION-STAGE-2 ─ to a bridge ─▶ DROP
        ─▶ CNI-FORWARD ─▶ the administrator's chain, then per address: answers to it, and what it sends, ACCEPT
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_network

from weft.cni.results import IPInterface
from weft.kernel import iptables
from weft.kernel.iptables import Table

_TABLE = "filter"
_FORWARD = "CNI-FORWARD"
_STAGES = ("CNI-ISOLATION-STAGE-1", "CNI-ISOLATION-STAGE-2")
_COMMENT = "CNI firewall plugin rules"

#: A chain, a rule of it as iptables-save writes it, and whether it goes before all others.
Placed = tuple[str, str, bool]


@dataclass(frozen=True, slots=True)
class Isolation:
    """From other bridges nothing comes to this one; with ``ports``, neither from its own other ports."""

    bridge: str
    ports: bool


def open_for(
    version: int, addresses: Sequence[IPInterface], admin_chain: str, isolation: Isolation | None
) -> None:
    """Let the packets of addresses of one IP version through, and isolate a bridge. Raises IptablesError."""
    rules = [*accepting(addresses, admin_chain), *(isolating(isolation) if isolation else ())]
    if rules:
        iptables.edit(version, _TABLE, partial(additions, rules=rules))


def close(version: int, addresses: Sequence[IPInterface]) -> None:
    """Take away the addresses' rules; what containers share stays. Raises IptablesError."""
    if addresses:
        iptables.edit(version, _TABLE, partial(removal, addresses=addresses))


def check(version: int, addresses: Sequence[IPInterface], admin_chain: str, isolation: Isolation | None) -> None:
    """Raises IptablesError, naming the rule, where one is missing."""
    rules = [*accepting(addresses, admin_chain), *(isolating(isolation) if isolation else ())]
    iptables.apply(version, _TABLE, [f"-C {place} {rule}" for place, rule, _ in rules])


def probe() -> None:
    """Raises IptablesError where iptables does not work here."""
    iptables.read(4, _TABLE)


def accepting(addresses: Sequence[IPInterface], admin_chain: str) -> list[Placed]:
    """What leads to the administrator's rules, and accepts; nothing for no addresses."""
    if not addresses:
        return []
    return [
        ("FORWARD", f'-m comment --comment "{_COMMENT}" -j {_FORWARD}', True),
        (_FORWARD, f'-m comment --comment "CNI firewall plugin admin overrides" -j {admin_chain}', True),
        *((_FORWARD, rule, False) for address in addresses for rule in address_rules(address)),
    ]


def address_rules(address: IPInterface) -> list[str]:
    """The two rules of an address."""
    own = ip_network(address.ip)
    return [f"-d {own} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", f"-s {own} -j ACCEPT"]


def isolating(isolation: Isolation) -> list[Placed]:
    """What drops packets between bridges, and between the ports of this one if it says so."""
    first, second = _STAGES
    bridge = iptables.quoted([isolation.bridge])
    policy = (
        f'-m comment --comment "{_COMMENT} (ingressPolicy: {"isolated" if isolation.ports else "same-bridge"})"'
    )
    common = f'-m comment --comment "{_COMMENT} (ingressPolicy: same-bridge|isolated)"'
    rules = [
        ("FORWARD", f"{common} -j {first}", True),
        (first, f"-i {bridge} ! -o {bridge} {policy} -j {second}", True),
    ]
    if isolation.ports:
        rules.append((first, f"-i {bridge} -o {bridge} {policy} -j DROP", True))
    return [
        *rules,
        (first, f"{common} -j RETURN", False),
        (second, f"-o {bridge} {common} -j DROP", True),
        (second, f"{common} -j RETURN", False),
    ]


def additions(table: Table, rules: Sequence[Placed]) -> list[str]:
    """The lines that make what is missing: chains, then rules, each in its place."""
    built_in = ("FORWARD",)
    targets = [rule.rpartition(" -j ")[2] for _, rule, _ in rules]
    chains = dict.fromkeys((*(place for place, _, _ in rules), *targets))
    return [
        *(
            f"-N {chain}"
            for chain in chains
            if chain not in (*built_in, "ACCEPT", "DROP", "RETURN") and chain not in table.chains
        ),
        *(
            f"-I {place} 1 {rule}" if first else f"-A {place} {rule}"
            for place, rule, first in dict.fromkeys(rules)
            if rule not in table.rules(place)
        ),
    ]


def removal(table: Table, addresses: Sequence[IPInterface]) -> list[str]:
    """The lines that take the addresses' rules away, however often they are there."""
    wanted = {rule for address in addresses for rule in address_rules(address)}
    return [f"-D {_FORWARD} {rule}" for rule in table.rules(_FORWARD) if rule in wanted]
