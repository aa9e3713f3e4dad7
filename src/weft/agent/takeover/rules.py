"""Which chains and rules of iptables are Weave Net's own, and what takes them away."""

from dataclasses import dataclass

from weft.kernel.iptables import Table, empty_chain, unquoted

#: Tables that Weave writes to, in the order in which what is in them goes.
TABLES = ("mangle", "nat", "filter")
#: Chains that packets pass which Weave encrypts or demands to be encrypted.
ENCRYPTION = "WEAVE-IPSEC-"

_CHAINS = frozenset({"WEAVE", "WEAVE-CANARY", "WEAVE-EXPOSE", "WEAVE-NPC"})
_CHAIN_FAMILIES = ("WEAVE-NPC-", ENCRYPTION)
_BUILT_IN = frozenset({"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"})
#: Rules of FORWARD that lead to no chain, without their comments; what lets packets out and their answers in is
#: apart, since a policy DROP may leave nothing else that does.
_FORWARD = frozenset(
    {
        "-o weave --state NEW -j NFLOG --nflog-group 86",
        "-o weave -j DROP",
        "-i weave -o weave -j ACCEPT",
        "-i docker0 -o weave -j DROP",
    }
)
_WAY_OUT = frozenset({"-i weave ! -o weave -j ACCEPT", "-o weave --state RELATED,ESTABLISHED -j ACCEPT"})
#: In INPUT: nobody but the node itself speaks to Weave's control port.
_CONTROL_PORT = ("-d 127.0.0.1/32 -p tcp --dport 6784", "-j DROP")
#: In the filter table: what is encrypted and comes in clear is dropped.
_CLEAR_TEXT_MARK = "0x20000/0x20000"
_LEFT_OUT = {"--comment": 2, "-m": 2}


@dataclass(frozen=True, slots=True)
class OwnRules:
    """Of one table: Weave's rules outside of its chains as (chain, rule), its chains, and what of its stays.

    ``kept`` tells a chain or rule, and why.
    """

    rules: tuple[tuple[str, str], ...]
    chains: tuple[str, ...]
    kept: tuple[tuple[str, str], ...]

    def lines(self) -> list[str]:
        """What iptables-restore is told: all of it goes in one transaction."""
        return [
            *(f"-D {chain} {rule}" for chain, rule in self.rules),
            *(empty_chain(chain) for chain in self.chains),
            *(f"-X {chain}" for chain in self.chains),
        ]


def is_own_chain(chain: str) -> bool:
    """Whether a chain has one of the names that Weave gives."""
    return chain in _CHAINS or chain.startswith(_CHAIN_FAMILIES)


def own_rules(table: Table) -> OwnRules:
    """What of a table is Weave's. A chain that a rule of somebody else leads to stays, and what it leads to."""
    users: dict[str, str] = {}
    for chain in table.chains:
        if chain not in _BUILT_IN and not is_own_chain(chain):
            for target in filter(is_own_chain, map(_target, table.rules(chain))):
                users.setdefault(target, f"a rule of chain {chain} leads to it")
    _spread(table, users)
    rules: list[tuple[str, str]] = []
    kept = [(f"chain {chain}", why) for chain, why in users.items()]
    for chain in filter(_BUILT_IN.__contains__, table.chains):
        for rule in table.rules(chain):
            target = _target(rule)
            if is_own_chain(target):
                if target not in users:
                    rules.append((chain, rule))
                continue
            why = _is_own(chain, rule, table.policies.get(chain, ""))
            if why:
                kept.append((f"rule {chain} {rule}", why))
            elif why is not None:
                rules.append((chain, rule))
    chains = tuple(chain for chain in table.chains if is_own_chain(chain) and chain not in users)
    return OwnRules(tuple(rules), chains, tuple(kept))


def encrypts(table: Table) -> bool:
    """Whether traffic is encrypted, or dropped where it is not: chains without rules do nothing."""
    return any(rules for chain, rules in table.chains.items() if chain.startswith(ENCRYPTION)) or any(
        _CLEAR_TEXT_MARK in rule for chain in _BUILT_IN for rule in table.rules(chain)
    )


def _spread(table: Table, users: dict[str, str]) -> None:
    """A chain that stays keeps those that its own rules lead to."""
    waiting = list(users)
    while waiting:
        chain = waiting.pop()
        for rule in table.rules(chain):
            target = _target(rule)
            if is_own_chain(target) and target in table.chains and target not in users:
                users[target] = f"chain {chain} leads to it"
                waiting.append(target)


def _target(rule: str) -> str:
    """The chain of Weave's that a rule leads to, or empty; other rules, of which there may be thousands, are not
    taken apart."""
    if "WEAVE" not in rule:
        return ""
    words = unquoted(rule)
    return next((words[place + 1] for place, word in enumerate(words[:-1]) if word in ("-j", "-g")), "")


def _is_own(chain: str, rule: str, policy: str) -> str | None:
    """None for a rule of somebody else; else why it stays, empty where it goes."""
    plain = _without_comment(rule)
    if chain == "FORWARD" and plain in _WAY_OUT:
        return "the policy of FORWARD is DROP" if policy == "DROP" else ""
    if chain == "FORWARD" and plain in _FORWARD:
        return ""
    if chain == "INPUT" and plain.startswith(_CONTROL_PORT[0]) and plain.endswith(_CONTROL_PORT[1]):
        return ""
    return None


def _without_comment(rule: str) -> str:
    """A rule in one form, whichever match module tells the state, and without its comment."""
    words, plain = unquoted(rule), []
    while words:
        skipped = _LEFT_OUT.get(words[0], 0)
        if not skipped:
            plain.append("--state" if words[0] == "--ctstate" else words[0])
        words = words[max(skipped, 1) :]
    return " ".join(plain)
