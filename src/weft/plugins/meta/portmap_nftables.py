"""``portmap`` with nftables: a table ``cni_hostport`` for each family, as the reference plugin makes it.

Every rule of a container has the container's ID as comment, which is how either plugin finds it again.
"""

from collections.abc import Sequence

from weft.kernel.nftables import NftablesError, NftContext
from weft.plugins.meta.port_mappings import Forwarding, IPInterface

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
    with NftContext() as context:
        context.apply("\n".join((*additions(forwarding, address), "")))


def tear_down(forwarding: Forwarding, versions: Sequence[int]) -> None:
    """Take the container's rules away. Raises NftablesError."""
    with NftContext() as context:
        lines = [
            f"delete rule {_FAMILIES[version]} {_TABLE} {chain} handle {handle}"
            for version in versions
            for chain, handle, _ in _found(context, forwarding, version)
        ]
        if lines:
            context.apply("\n".join((*lines, "")))


def check(forwarding: Forwarding, address: IPInterface) -> None:
    """Raises NftablesError, naming the rule, where one is missing."""
    with NftContext() as context:
        found = _found(context, forwarding, address.version)
    present = [(chain, text) for chain, _, text in found]
    for rule in port_rules(forwarding, address):
        if (_PORTS, rule) not in present:
            raise NftablesError(f"chain {_PORTS} lacks {rule!r}")
    wanted = len(masquerading_rules(forwarding, address))
    if sum(chain == _MASQUERADING for chain, _ in present) < wanted:
        raise NftablesError(f"chain {_MASQUERADING} lacks a rule for {address.ip}")


def probe() -> None:
    """Raises NftablesError where nftables does not work here."""
    with NftContext() as context:
        context.list("tables")


def additions(forwarding: Forwarding, address: IPInterface) -> list[str]:
    """The commands for a container: what all share, made anew as it was, and the container's rules."""
    version = address.version
    table = f"{_FAMILIES[version]} {_TABLE}"
    entry = " ".join((*forwarding.conditions[version], "fib daddr type local jump", _ALL))
    lines = [
        f'add table {table} {{ comment "CNI portmap plugin"; }}',
        f"add chain {table} {_PORTS}",
        f"add chain {table} {_OLD_PORTS}",
        f"add chain {table} {_ALL}",
        f"flush chain {table} {_ALL}",
        f"add rule {table} {_ALL} jump {_OLD_PORTS}",
        f"add rule {table} {_ALL} jump {_PORTS}",
    ]
    for chain in ("prerouting", "output"):
        lines += [
            f"add chain {table} {chain} {{ type nat hook {chain} priority -100; }}",
            f"flush chain {table} {chain}",
            f"add rule {table} {chain} {entry}",
        ]
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


def _found(context: NftContext, forwarding: Forwarding, version: int) -> list[tuple[str, int, str]]:
    """Chain, handle and text of the container's rules."""
    return [
        (chain, handle, text)
        for chain, rules in context.chains(f"{_FAMILIES[version]} {_TABLE}").items()
        if chain in (_PORTS, _OLD_PORTS, _MASQUERADING)
        for handle, text in rules.items()
        if text.endswith(_comment(forwarding))
    ]


def _comment(forwarding: Forwarding) -> str:
    return f'comment "{forwarding.container_id}"'
