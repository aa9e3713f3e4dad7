"""``portmap`` with nftables: a table ``cni_hostport`` for each family, as the reference plugin makes it.

Every rule of a container has the container's ID as comment, which is how either plugin finds it again.
"""

from collections.abc import Collection, Sequence

from weft.cni.results import IPInterface
from weft.kernel import nftables
from weft.kernel.nftables import NftablesError
from weft.plugins.meta.port_mappings import Forwarding

_TABLE = "cni_hostport"
_PORTS = "hostports"
#: Where older versions of the reference put rules with an address of the host; kept so that theirs work on.
_OLD_PORTS = "hostip_hostports"
_ALL = "hostports_all"
_MASQUERADING = "masquerading"
_FAMILIES = {4: "ip", 6: "ip6"}
_ANYWHERE = {4: "0.0.0.0/0", 6: "::/0"}


def set_up(forwarding: Forwarding, address: IPInterface) -> None:
    """Lead ports to the container's address. Raises NftablesError, having changed nothing."""
    wanted = entrances(forwarding, address.version)
    table = f"{_FAMILIES[address.version]} {_TABLE}"
    context = nftables.context()
    # To delete rules makes what comes next wait for their readers: what is right already stays.
    present = [
        chain for chain, rules in wanted.items() if list(context.rules(f"{table} {chain}").values()) == rules
    ]
    context.apply("\n".join((*additions(forwarding, address, present), "")))


def tear_down(forwarding: Forwarding, versions: Sequence[int]) -> None:
    """Take the container's rules away. Raises NftablesError."""
    lines = [
        f"delete rule {_FAMILIES[version]} {_TABLE} {chain} handle {handle}"
        for version in versions
        for chain, handle, _ in _found(forwarding, version)
    ]
    if lines:
        nftables.apply("\n".join((*lines, "")))


def check(forwarding: Forwarding, address: IPInterface) -> None:
    """Raises NftablesError, naming the rule, where one is missing."""
    present = [(chain, text) for chain, _, text in _found(forwarding, address.version)]
    for rule in port_rules(forwarding, address):
        if (_PORTS, rule) not in present:
            raise NftablesError(f"chain {_PORTS} lacks {rule!r}")
    wanted = len(masquerading_rules(forwarding, address))
    if sum(chain == _MASQUERADING for chain, _ in present) < wanted:
        raise NftablesError(f"chain {_MASQUERADING} lacks a rule for {address.ip}")


def probe() -> None:
    """Raises NftablesError where nftables does not work here."""
    nftables.context().list("tables")


def entrances(forwarding: Forwarding, version: int) -> dict[str, list[str]]:
    """The rules of the chains that all share; conditions as they are written, which nft may list otherwise."""
    entry = " ".join((*forwarding.conditions[version], "fib daddr type local jump", _ALL))
    return {_ALL: [f"jump {_OLD_PORTS}", f"jump {_PORTS}"], "prerouting": [entry], "output": [entry]}


def additions(forwarding: Forwarding, address: IPInterface, present: Collection[str] = ()) -> list[str]:
    """The commands for a container: what all share, and the container's rules.

    Shared chains are emptied and filled, but for those whose rules are ``present``.
    """
    version = address.version
    table = f"{_FAMILIES[version]} {_TABLE}"
    lines = [
        f'add table {table} {{ comment "CNI portmap plugin"; }}',
        f"add chain {table} {_PORTS}",
        f"add chain {table} {_OLD_PORTS}",
    ]
    for chain, rules in entrances(forwarding, version).items():
        kind = "" if chain == _ALL else f" {{ type nat hook {chain} priority -100; }}"
        lines.append(f"add chain {table} {chain}{kind}")
        if chain not in present:
            lines.append(f"flush chain {table} {chain}")
            lines += [f"add rule {table} {chain} {rule}" for rule in rules]
    if forwarding.masquerade:
        lines.append(f"add chain {table} {_MASQUERADING} {{ type nat hook postrouting priority 100; }}")
    lines += [f"add rule {table} {_PORTS} {rule}" for rule in port_rules(forwarding, address)]
    return lines + [f"add rule {table} {_MASQUERADING} {rule}" for rule in masquerading_rules(forwarding, address)]


def port_rules(forwarding: Forwarding, address: IPInterface) -> list[str]:
    """A rule for each port, as nft lists it."""
    rules = []
    for item in forwarding.of(address.version):
        bound = f"{_FAMILIES[address.version]} daddr {item.bound} " if item.bound is not None else ""
        target = item.target(address)
        rules.append(f"{bound}{item.protocol} dport {item.host_port} dnat to {target} {_comment(forwarding)}")
    return rules


def masquerading_rules(forwarding: Forwarding, address: IPInterface) -> list[str]:
    """What gets the host's address on its way to the container."""
    if not forwarding.masquerade:
        return []
    version, word = address.version, _FAMILIES[address.version]
    sources = [_ANYWHERE[version]] if forwarding.masquerade_all else [str(address.ip)]
    if version == 4 and not forwarding.masquerade_all:
        sources.append("127.0.0.1")
    return [
        f"{word} saddr {source} {word} daddr {address.ip} masquerade {_comment(forwarding)}" for source in sources
    ]


def _found(forwarding: Forwarding, version: int) -> list[tuple[str, int, str]]:
    """Chain, handle and text of the container's rules."""
    return [
        (chain, handle, text)
        for chain, rules in nftables.context().chains(f"{_FAMILIES[version]} {_TABLE}").items()
        if chain in (_PORTS, _OLD_PORTS, _MASQUERADING)
        for handle, text in rules.items()
        if text.endswith(_comment(forwarding))
    ]


def _comment(forwarding: Forwarding) -> str:
    return f'comment "{forwarding.container_id}"'
