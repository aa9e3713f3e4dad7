"""``portmap`` with iptables: chains and rules as the reference plugin makes them, in the table nat.

    PREROUTING, OUTPUT ─ to an address of the host ─▶ CNI-HOSTPORT-DNAT ─ ports ─▶ CNI-DN-… of the container
    CNI-DN-… ─ from the container, from 127.0.0.1 ─▶ CNI-HOSTPORT-SETMARK, then DNAT
    POSTROUTING ─ marked ─▶ CNI-HOSTPORT-MASQ

The usual ADD and DEL are one transaction without a reading before it: the lines themselves fail where the tables
are not as they presume.
"""

import re
from collections.abc import Sequence
from functools import partial

from weft.cni.results import IPInterface
from weft.kernel import iptables
from weft.kernel.iptables import IptablesError, Table
from weft.plugins import names
from weft.plugins.meta.port_mappings import Forwarding

_TABLE = "nat"
_ALL = "CNI-HOSTPORT-DNAT"
_SET_MARK = "CNI-HOSTPORT-SETMARK"
_MASQUERADE = "CNI-HOSTPORT-MASQ"
_CONTAINER = re.compile(r"CNI-DN-[0-9a-f]{21}")
#: What the extension multiport takes in one rule, and the extension comment.
_MOST_PORTS = 15
_LONGEST_COMMENT = 255
_ANYWHERE = {4: "0.0.0.0/0", 6: "::/0"}

#: A chain and a rule of it as iptables-save writes it, and whether it goes before all others.
Shared = tuple[str, str, bool]


def set_up(forwarding: Forwarding, address: IPInterface) -> None:
    """Lead ports to the container's address. Raises IptablesError, having changed nothing."""
    if not iptables.attempt(address.version, _TABLE, quick_additions(forwarding, address)):
        change = partial(additions, forwarding=forwarding, address=address)
        iptables.edit(address.version, _TABLE, change)


def tear_down(forwarding: Forwarding, versions: Sequence[int]) -> None:
    """Take the container's chain away, and what leads to it.

    An IP version that iptables cannot do here is no error, as long as it can do another. Raises IptablesError.
    """
    stale = [_container_chain(forwarding), names.chain(forwarding.network, forwarding.container_id, "SN-")]
    able = 0
    for version in versions:
        if iptables.attempt(version, _TABLE, quick_removal(forwarding, version)):
            able += 1
        elif iptables.usable(version):
            iptables.edit(version, _TABLE, partial(iptables.removal, chains=stale))
            able += 1
    if not able:
        raise IptablesError(
            "iptables works for no IP version of the container; is it installed (Debian: iptables)?"
        )


def check(forwarding: Forwarding, address: IPInterface) -> None:
    """Raises IptablesError, naming the rule, where one is missing."""
    chain = _container_chain(forwarding)
    rules = [
        *((place, rule) for place, rule, _ in shared_rules(forwarding)),
        *((chain, rule) for rule in container_rules(forwarding, address)),
        *((_ALL, rule) for rule in entry_rules(forwarding, address.version)),
    ]
    iptables.apply(address.version, _TABLE, [f"-C {place} {rule}" for place, rule in rules])


def collect_garbage(network: str, valid: frozenset[tuple[str, str]]) -> None:
    """Take away the chains of a network's containers that are not among the valid. Raises IptablesError."""
    keep = {names.chain(network, container_id, "DN-") for container_id, _ in valid}
    for version in (4, 6):
        if iptables.available(version):
            change = partial(_garbage, network=network, keep=keep)
            iptables.edit(version, _TABLE, change)


def probe() -> None:
    """Raises IptablesError where iptables does not work here."""
    iptables.read(4, _TABLE)


def shared_rules(forwarding: Forwarding) -> list[Shared]:
    """What all containers share."""
    rules: list[Shared] = []
    if forwarding.masquerade and forwarding.external_mark_chain is None:
        mark = f"{forwarding.mark:#x}/{forwarding.mark:#x}"
        rules += [
            (_SET_MARK, f'-m comment --comment "CNI portfwd masquerade mark" -j MARK --set-xmark {mark}', False),
            (_MASQUERADE, f"-m mark --mark {mark} -j MASQUERADE", False),
            # Before what ipMasq puts there, which would take the packet away.
            ("POSTROUTING", f'-m comment --comment "CNI portfwd requiring masquerade" -j {_MASQUERADE}', True),
        ]
    for place in ("PREROUTING", "OUTPUT"):
        rules.append((place, f"-m addrtype --dst-type LOCAL -j {_ALL}", False))
    return rules


def entry_rules(forwarding: Forwarding, version: int) -> list[str]:
    """The rules that lead to the container's chain: protocols in order, at most 15 ports in each."""
    comment = f"dnat {names.comment(forwarding.network, forwarding.container_id)}"[:_LONGEST_COMMENT]
    rules = []
    for protocol in sorted({item.protocol for item in forwarding.mappings}):
        ports = [str(item.host_port) for item in forwarding.mappings if item.protocol == protocol]
        for start in range(0, len(ports), _MOST_PORTS):
            arguments = ["-m", "comment", "--comment", comment, "-m", "multiport", "-p", protocol]
            arguments += ["--destination-ports", ",".join(ports[start : start + _MOST_PORTS])]
            arguments += forwarding.conditions[version]
            rules.append(f"{iptables.quoted(arguments)} -j {_container_chain(forwarding)}")
    return rules


def container_rules(forwarding: Forwarding, address: IPInterface) -> list[str]:
    """The rules of the container's chain: for each port what is masqueraded, then where it leads."""
    version = address.version
    mark = f"-j {forwarding.external_mark_chain or _SET_MARK}"
    rules = []
    for item in forwarding.of(version):
        match = f"-p {item.protocol} --dport {item.host_port}"
        if item.bound is not None:
            match += f" -d {item.bound}"
        if forwarding.masquerade:
            rules.append(f"{match} -s {_ANYWHERE[version] if forwarding.masquerade_all else address} {mark}")
            if version == 4 and not forwarding.masquerade_all:
                rules.append(f"{match} -s 127.0.0.1 {mark}")
        rules.append(f"{match} -j DNAT --to-destination {item.target(address)}")
    return list(dict.fromkeys(rules))  # a port may be mapped twice


def quick_additions(forwarding: Forwarding, address: IPInterface) -> list[str]:
    """The lines for a container that has no chain yet, on a host that has what all share."""
    return [
        *(f"-C {place} {rule}" for place, rule, _ in shared_rules(forwarding)),
        f"-N {_container_chain(forwarding)}",
        *_own_lines(forwarding, address),
    ]


def additions(table: Table, forwarding: Forwarding, address: IPInterface) -> list[str]:
    """The lines for a container on any host: what all share where it is missing, then the container's own.

    A chain that it has already goes.
    """
    shared = shared_rules(forwarding)
    needed = dict.fromkeys((*(place for place, _, _ in shared), _ALL))
    lines = [f"-N {chain}" for chain in needed if chain.startswith("CNI-") and chain not in table.chains]
    lines += [
        f"-I {place} 1 {rule}" if first else f"-A {place} {rule}"
        for place, rule, first in shared
        if rule not in table.rules(place)
    ]
    chain = _container_chain(forwarding)
    lines += [f"-D {place} {rule}" for place, rule in table.references(chain)]
    return [*lines, iptables.empty_chain(chain), *_own_lines(forwarding, address)]


def quick_removal(forwarding: Forwarding, version: int) -> list[str]:
    """The lines that take away what ``additions`` made, and nothing else leads to."""
    chain = _container_chain(forwarding)
    entries = [f"-D {_ALL} {rule}" for rule in entry_rules(forwarding, version)]
    return [*entries, f"-F {chain}", f"-X {chain}"]


def _own_lines(forwarding: Forwarding, address: IPInterface) -> list[str]:
    return [
        *(f"-A {_container_chain(forwarding)} {rule}" for rule in container_rules(forwarding, address)),
        *(f"-A {_ALL} {rule}" for rule in entry_rules(forwarding, address.version)),
    ]


def _garbage(table: Table, network: str, keep: set[str]) -> list[str]:
    stale = []
    for chain in table.chains:
        if _CONTAINER.fullmatch(chain) and chain not in keep:
            owners = [names.commented(rule) for _, rule in table.references(chain)]
            if any(owner is not None and owner[0] == network for owner in owners):
                stale.append(chain)
    return iptables.removal(table, stale)


def _container_chain(forwarding: Forwarding) -> str:
    return names.chain(forwarding.network, forwarding.container_id, "DN-")
