"""``ipMasq``: what a container sends beyond its subnet leaves with the host's address.

With iptables a chain for each container, with nftables a rule for each address in one table, both as the reference
plugins make them, so that either can take down what the other made.
"""

import contextlib
import re
from collections.abc import Callable, Sequence
from functools import partial

from weft.cni import IPConfiguration, Result
from weft.cni.results import IPInterface
from weft.kernel import iptables, nftables
from weft.kernel.iptables import IptablesError, Table
from weft.kernel.nftables import NftablesError
from weft.plugins import names, netfilter
from weft.plugins.interface import versions
from weft.plugins.plugin import PluginRequest
from weft.plugins.settings import refused
from weft.plugins.undo import Undo

_NFT_TABLE = "inet cni_plugins_masquerade"
_NFT_CHAIN = "masq_checks"
_NFT_ENTRANCE = "postrouting"
_TABLE = "nat"
_MULTICAST = {4: "224.0.0.0/4", 6: "ff00::/8"}
_NFT_ENTRANCE_RULES = [
    f"ip daddr {_MULTICAST[4]} return",
    f"ip6 daddr {_MULTICAST[6]} return",
    f"goto {_NFT_CHAIN}",
]
#: Characters of a comment that nftables keeps.
_LONGEST_COMMENT = 128
_OUR_CHAIN = re.compile(r"CNI-[0-9a-f]{24}")


def check_backend(backend: str | None) -> None:
    """Raise CniError for a backend that there is not."""
    netfilter.check_backend("ipMasqBackend", backend)


def set_up(
    backend: str | None, interfaces: Sequence[IPInterface], network: str, ifname: str, container_id: str
) -> None:
    """Masquerade what these addresses send. Without a ``backend``: iptables where it works, else nftables.

    Raises CniError.
    """
    try:
        if netfilter.choose_backend(backend) == "iptables":
            _set_up_iptables(interfaces, network, container_id)
        else:
            _set_up_nftables(interfaces, network, ifname, container_id)
    except (IptablesError, NftablesError) as error:
        raise refused(f"ipMasq: {error}") from None


def set_up_for(request: PluginRequest, backend: str | None, found: Result, undo: Undo) -> None:
    """``set_up`` for a request's addresses, taken back where what comes afterwards fails. Raises CniError."""
    network, call = request.configuration.name, request.invocation
    undo.on_failure(tear_down, network, call.ifname, call.container_id)
    set_up(backend, [item.address for item in found.ips], network, call.ifname, call.container_id)


def tear_down(network: str, ifname: str, container_id: str, held: Sequence[IPConfiguration] = ()) -> None:
    """Take away what ``set_up`` made with either backend. ``held`` are the container's addresses, where known.

    Raises CniError.
    """
    errors = []
    chain, comment = names.chain(network, container_id), names.comment(network, container_id)
    for version in sorted(versions(held)):
        own = [item.address for item in held if item.address.version == version]
        if own and iptables.attempt(version, _TABLE, quick_removal(own, chain, comment)):
            continue
        try:
            if iptables.usable(version):
                iptables.edit(version, _TABLE, partial(iptables.removal, chains=[chain]))
        except IptablesError as error:
            errors.append(str(error))
    with contextlib.suppress(NftablesError):
        _delete_rules(lambda text: _instance_hash(network, ifname, container_id) in text)
    if errors:
        raise refused("ipMasq: " + "; ".join(errors))


def collect_garbage(network: str, valid: frozenset[tuple[str, str]]) -> None:
    """Take away what belongs to none of the valid (container, interface) pairs of a network. Raises CniError."""
    keep = {names.chain(network, container_id) for container_id, _ in valid}
    hashes = {_instance_hash(network, ifname, container_id) for container_id, ifname in valid}
    for version in filter(iptables.usable, (4, 6)):
        iptables.edit(version, _TABLE, lambda table: iptables.removal(table, _stale(table, network, keep)))
    ours = names.hashed(16, "", network) + "-"
    with contextlib.suppress(NftablesError):
        _delete_rules(lambda text: f'comment "{ours}' in text and not any(item in text for item in hashes))


def quick_additions(interfaces: Sequence[IPInterface], chain: str, comment: str) -> list[str]:
    """The lines for a container that has no chain yet. Addresses of one family."""
    return [f"-N {chain}", *_rules(interfaces, chain, comment)]


def additions(table: Table, interfaces: Sequence[IPInterface], chain: str, comment: str) -> list[str]:
    """The lines for a container's chain, in the place of one that may be there. Addresses of one family."""
    lines = [f"-D {place} {rule}" for place, rule in table.references(chain)]
    return [*lines, iptables.empty_chain(chain), *_rules(interfaces, chain, comment)]


def quick_removal(interfaces: Sequence[IPInterface], chain: str, comment: str) -> list[str]:
    """The lines that take away what ``additions`` made, and nothing else leads to."""
    lines = [rule for rule in _rules(interfaces, chain, comment) if rule.startswith("-A POSTROUTING ")]
    return [*(rule.replace("-A", "-D", 1) for rule in lines), f"-F {chain}", f"-X {chain}"]


def _rules(interfaces: Sequence[IPInterface], chain: str, comment: str) -> list[str]:
    noted = iptables.quoted(["-m", "comment", "--comment", comment])
    lines = []
    for item in interfaces:
        lines.append(f"-A {chain} -d {item.network} -j ACCEPT {noted}")
        multicast = f"-A {chain} ! -d {_MULTICAST[item.version]} -j MASQUERADE {noted}"
        if multicast not in lines:
            lines.append(multicast)
        lines.append(f"-A POSTROUTING -s {item.ip} -j {chain} {noted}")
    return lines


def _set_up_iptables(interfaces: Sequence[IPInterface], network: str, container_id: str) -> None:
    chain, comment = names.chain(network, container_id), names.comment(network, container_id)
    for version in (4, 6):
        own = [item for item in interfaces if item.version == version]
        if own and not iptables.attempt(version, _TABLE, quick_additions(own, chain, comment)):
            change = partial(additions, interfaces=own, chain=chain, comment=comment)
            iptables.edit(version, _TABLE, change)


def _set_up_nftables(interfaces: Sequence[IPInterface], network: str, ifname: str, container_id: str) -> None:
    comment = _nft_comment(network, ifname, container_id)
    instance = _instance_hash(network, ifname, container_id)
    context = nftables.context()
    stale = [handle for handle, text in context.rules(f"{_NFT_TABLE} {_NFT_CHAIN}").items() if instance in text]
    lines = [
        f"add table {_NFT_TABLE} "
        '{ comment "Masquerading for plugins from github.com/containernetworking/plugins"; }',
        f"add chain {_NFT_TABLE} {_NFT_CHAIN} "
        '{ comment "Masquerade traffic from certain IPs to any (non-multicast) IP outside their subnet"; }',
        f"add chain {_NFT_TABLE} {_NFT_ENTRANCE} {{ type nat hook postrouting priority 100; }}",
    ]
    # What is right already stays: to delete rules makes what comes next wait for their readers.
    if list(context.rules(f"{_NFT_TABLE} {_NFT_ENTRANCE}").values()) != _NFT_ENTRANCE_RULES:
        lines.append(f"flush chain {_NFT_TABLE} {_NFT_ENTRANCE}")
        lines += [f"add rule {_NFT_TABLE} {_NFT_ENTRANCE} {rule}" for rule in _NFT_ENTRANCE_RULES]
    lines += [f"delete rule {_NFT_TABLE} {_NFT_CHAIN} handle {handle}" for handle in stale]
    for item in interfaces:
        word = "ip" if item.version == 4 else "ip6"
        lines.append(
            f"add rule {_NFT_TABLE} {_NFT_CHAIN} {word} saddr {item.ip} {word} daddr != {item.network} "
            f'masquerade comment "{comment}"'
        )
    context.apply("\n".join(lines) + "\n")


def _delete_rules(matches: Callable[[str], bool]) -> None:
    chain = f"{_NFT_TABLE} {_NFT_CHAIN}"
    rules = nftables.context().rules(chain)
    lines = [f"delete rule {chain} handle {handle}" for handle, text in rules.items() if matches(text)]
    if lines:
        nftables.apply("\n".join(lines) + "\n")


def _stale(table: Table, network: str, keep: set[str]) -> list[str]:
    """The chains of a network's containers but those to keep."""
    return [
        chain
        for chain, rules in table.chains.items()
        if _OUR_CHAIN.fullmatch(chain)
        and chain not in keep
        and any((names.commented(rule) or ("",))[0] == network for rule in rules)
    ]


def _instance_hash(network: str, ifname: str, container_id: str) -> str:
    return names.hashed(16, "", network) + "-" + names.hashed(16, "", f"{ifname}:{container_id}")


def _nft_comment(network: str, ifname: str, container_id: str) -> str:
    told = f"{_instance_hash(network, ifname, container_id)}, net: {network}, if: {ifname}, id: {container_id}"
    return told.replace('"', "")[:_LONGEST_COMMENT]
