"""Reads what Weave Net left on this node, and changes nothing."""

from collections.abc import Iterator
from ipaddress import IPv4Interface
from pathlib import Path

from weft.agent.takeover.layout import Device, FilterTable, Layout, PodPair, is_own_set, is_pod_pair
from weft.agent.takeover.rules import TABLES
from weft.fabric import weave
from weft.kernel import addresses, ipsets, iptables, links
from weft.kernel.ipsets import IpsetSocket
from weft.kernel.links import Link
from weft.kernel.netlink import RouteSocket

#: Where Weave keeps its ring and its peers on the host, and its plugins; an agent in a pod does not see all of it.
_DATABASES = "/var/lib/weave/*.db"
_FILES = (_DATABASES, "/opt/cni/bin/weave-plugin-*", "/opt/cni/bin/weave-ipam")


def look() -> Layout:
    """What is there in the calling thread's network namespace. Raises NetlinkError, OSError."""
    with RouteSocket() as host:
        found = links.dump_links(host)
        names = {link.index: link.name for link in found}
        bridge = next((link for link in found if link.name == weave.BRIDGE), None)
        held = _ipv4(host, bridge.index) if bridge else ()
        pairs = tuple(
            PodPair(link.name, _pod_addresses(host, link))
            for link in found
            if is_pod_pair(link.name) and link.kind == "veth"
        )
    tables, unreadable = _tables()
    with IpsetSocket() as sets:
        own_sets = tuple(name for name in ipsets.names(sets) if is_own_set(name))
    return Layout(
        devices=tuple(
            Device(link.name, link.kind, link.address, link.mtu, names.get(link.master, "")) for link in found
        ),
        bridge_addresses=held,
        pairs=pairs,
        tables=tables,
        sets=own_sets,
        files=tuple(_files()),
        unreadable=unreadable,
    )


def _ipv4(host: RouteSocket, index: int, namespace_id: int | None = None) -> tuple[IPv4Interface, ...]:
    return tuple(
        item.interface
        for item in addresses.dump_addresses(host, index, target_namespace_id=namespace_id)
        if isinstance(item.interface, IPv4Interface)
    )


def _pod_addresses(host: RouteSocket, link: Link) -> tuple[IPv4Interface, ...]:
    """Read through the pair; none where the other end is in no other namespace: a pod comes or goes."""
    if link.peer_namespace_id is None:
        return ()
    return _ipv4(host, link.peer_index, link.peer_namespace_id)


def _tables() -> tuple[tuple[FilterTable, ...], tuple[str, ...]]:
    wanted = [(name, False) for name in TABLES]
    wanted += [(name, True) for name in TABLES if name in iptables.legacy_tables()]
    found, unreadable = [], []
    for name, legacy in wanted:
        try:
            found.append(FilterTable(iptables.read(4, name, legacy=legacy), legacy))
        except iptables.IptablesError as error:
            unreadable.append(f"table {name} of iptables cannot be read: {error}")
    return tuple(found), tuple(unreadable)


def database_files() -> list[str]:
    """Weave's databases. What is in them is no matter: what the kernel and the API have is true now, and they may
    be of an older cluster."""
    return list(_matching(_DATABASES))


def _files() -> Iterator[str]:
    for pattern in _FILES:
        yield from _matching(pattern)


def _matching(pattern: str) -> Iterator[str]:
    path = Path(pattern)
    yield from (str(found) for found in sorted(path.parent.glob(path.name)))
