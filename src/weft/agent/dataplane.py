"""Keeps the kernel as the fabric's plan wants it: looks, compares, changes only what differs."""

import errno
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address

from weft.fabric import weave
from weft.fabric.plan import (
    Devices,
    Forwarding,
    ForwardingEntry,
    IPAddress,
    IPInterface,
    IPNetwork,
    Neighbour,
    Route,
    Vxlan,
)
from weft.kernel import addresses, links, neighbours, nftables, routes, sysctl
from weft.kernel.links import Link
from weft.kernel.netlink import Message, NetlinkError, RouteSocket

_log = logging.getLogger(__name__)


class UnderlayError(Exception):
    """The node's own network cannot carry the pod network; the message says why."""


@dataclass(frozen=True, slots=True)
class Underlay:
    """How this node reaches the others: device, its address there, MTU in bytes."""

    index: int
    device: str
    address: IPv4Address
    mtu: int


@dataclass(frozen=True, slots=True)
class Bridge:
    """The bridge as it is in the kernel: what a plugin needs to put a pod on it (``weave_settings.Bridge``)."""

    index: int
    name: str
    link_address: str
    addresses: tuple[IPInterface, ...]
    mtu: int
    networks: tuple[IPNetwork, ...]


def addresses_of_bridge() -> list[IPAddress]:
    """What the bridge has in the kernel, where there is one."""
    with RouteSocket() as host:
        link = _find(host, weave.BRIDGE)
        found = addresses.dump_addresses(host, link.index) if link else []
        return [item.interface.ip for item in found if not item.interface.ip.is_link_local]


def find_underlay(wanted: IPAddress | None) -> Underlay:
    """The device that holds the wanted address, or the one of the default route, and its IPv4 address.

    Raises UnderlayError where there is none.
    """
    with RouteSocket() as host:
        by_index = {link.index: link for link in links.dump_links(host)}
        everything = [item for item in addresses.dump_addresses(host) if item.index in by_index]
        held = [
            (item.interface.ip, by_index[item.index])
            for item in everything
            if isinstance(item.interface, IPv4Interface)
        ]
        if isinstance(wanted, IPv6Address):
            # What Kubernetes says where a node's IPv6 address is its first.
            holders = {item.index for item in everything if item.interface.ip == wanted}
            candidates = [(address, link) for address, link in held if link.index in holders]
            missing = (
                f"no device holds the node address {wanted} and an IPv4 address, by which nodes reach each other: "
                "give the node one, or its IPv4 address as --node-address"
            )
        elif wanted is not None:
            candidates = [(address, link) for address, link in held if address == wanted]
            missing = f"no device holds the node address {wanted}: give an address of this node"
        else:
            default = [
                route.device for route in routes.dump_routes(host, family=socket.AF_INET) if _is_default(route)
            ]
            candidates = [(address, link) for address, link in held if link.index in default[:1]]
            missing = "no default route with an IPv4 address tells the underlay: give --node-address"
    if not candidates:
        raise UnderlayError(missing)
    address, link = candidates[0]
    return Underlay(link.index, link.name, address, link.mtu)


def foreign_routes() -> list[tuple[IPNetwork, str]]:
    """Destinations of this node's routes and their devices, but for those that we make ourselves."""
    with RouteSocket() as host:
        names = {link.index: link.name for link in links.dump_links(host)}
        return [
            (route.destination, names.get(route.device, "?"))
            for route in routes.dump_routes(host)
            if names.get(route.device) not in (weave.BRIDGE, weave.TUNNEL) and not route.destination.is_link_local
        ]


class Dataplane:
    """The devices of this node and the way to its peers. Safe for several threads."""

    def __init__(
        self,
        devices: Devices,
        ranges: Sequence[IPNetwork],
        underlay: Underlay,
        bridge_addresses: Callable[[], Sequence[IPInterface]] | None = None,
    ) -> None:
        """``bridge_addresses`` are those that the bridge is to have now; otherwise those planned, for good."""
        self._bridge_addresses = bridge_addresses or (lambda: devices.bridge_addresses)
        self._underlay = underlay
        self._devices = devices
        self._ranges = ranges
        self._with_ipv6 = any(pods.version == 6 for pods in ranges)
        self._lock = threading.Lock()
        # Of its own, so that an attach does not wait for thousands of peers' routes.
        self._bridge_lock = threading.Lock()
        self._bridge: Bridge | None = None

    @property
    def bridge(self) -> Bridge:
        """The bridge, once ``ensure_devices`` was called."""
        if self._bridge is None:
            raise RuntimeError("the bridge is not there yet")
        return self._bridge

    def ensure_devices(self) -> None:
        """Make the bridge and the tunnel as planned, repair what differs. Raises NetlinkError, OSError."""
        with self._lock, RouteSocket() as host:
            with self._bridge_lock:
                self._bridge = self._ensure_bridge(host)
            self._ensure_tunnel(host)
        for path, value in weave.sysctls(self._ranges).items():
            sysctl.write(path, value)
        if self._with_ipv6:
            self._keep_router_advertisements()
            for path, value in weave.sysctls_ipv6().items():
                sysctl.write(path, value)
        nftables.apply(weave.masquerade(self._ranges))

    def serve(self) -> None:
        """Give the bridge the addresses that it is to have now, where it has others. Raises NetlinkError."""
        with self._bridge_lock:
            if self._bridge is not None and self._bridge.addresses != tuple(self._bridge_addresses()):
                with RouteSocket() as host:
                    self._bridge = self._ensure_bridge(host)

    def apply(self, plan: Forwarding, *, withdraw: bool = True) -> int:
        """Bring routes, neighbours and forwarding entries of the tunnel to the plan; how many changed.

        Without ``withdraw``, what the plan does not ask for stays.

        New ways come before old ones go, so that traffic flows on while peers come and go.
        Raises NetlinkError where the kernel refuses one; the others are made all the same.
        """
        with self._lock, RouteSocket() as host:
            tunnel = links.get_link(host, name=weave.TUNNEL).index
            present = _observe(host, tunnel, None if self._with_ipv6 else socket.AF_INET)
            new, old = plan - present, present - plan if withdraw else Forwarding()
            return _carry_out(host, [*_additions(tunnel, new), *_removals(tunnel, plan, old)])

    def change(self, new: Forwarding, old: Forwarding) -> int:
        """Add what is new, take away what is old, without a look at the rest; how many changed.

        Raises NetlinkError as ``apply`` does.
        """
        with self._lock, RouteSocket() as host:
            tunnel = links.get_link(host, name=weave.TUNNEL).index
            return _carry_out(host, [*_additions(tunnel, new), *_removals(tunnel, new, old)])

    def _ensure_bridge(self, host: RouteSocket) -> Bridge:
        wanted = self._devices.bridge
        link = _find(host, wanted.name)
        if link is None:
            host.execute([links.create_bridge(name=wanted.name, address=wanted.address)])
            _log.info("bridge %s made", wanted.name)
        elif link.kind != "bridge":
            raise UnderlayError(
                f"device {wanted.name} is a {link.kind or 'device'}, not a bridge: rename or remove it"
            )
        link = links.get_link(host, name=wanted.name)
        if (link.address, link.mtu, link.up) != (wanted.address, wanted.mtu, True):
            host.execute([links.set_link(index=link.index, address=wanted.address, mtu=wanted.mtu, up=True)])
        mine = tuple(self._bridge_addresses())
        if self._with_ipv6:
            sysctl.write(("net", "ipv6", "conf", wanted.name, "disable_ipv6"), 0)
        _ensure_addresses(host, link.index, mine, self._ranges)
        self._ensure_ranges(host, link.index, mine)
        return Bridge(link.index, wanted.name, wanted.address, mine, wanted.mtu, tuple(self._ranges))

    def _ensure_ranges(self, host: RouteSocket, bridge: int, mine: Sequence[IPInterface]) -> None:
        """The bridge has a route to every range: its addresses' own, and ours to ranges that it has none of.

        Made last, since they vanish with the address that they give as source.
        """
        sources = {item.version: item.ip for item in reversed(mine)}
        served = {item.network for item in mine}
        wanted = {pods: sources.get(pods.version) for pods in self._ranges if pods not in served}
        present = {
            route.destination: route.source
            for route in routes.dump_routes(host, device=bridge)
            if route.metric == weave.RANGE_METRIC and route.gateway is None
        }
        if wanted == present:
            return
        messages = [
            routes.delete_route(pods, device=bridge, metric=weave.RANGE_METRIC)
            for pods in present.keys() - wanted.keys()
        ]
        messages += [
            routes.replace_route(pods, device=bridge, source=source, metric=weave.RANGE_METRIC)
            for pods, source in wanted.items()
            if pods not in present or present[pods] != source
        ]
        host.execute(messages)

    def _keep_router_advertisements(self) -> None:
        """Let the underlay hear routers although the host forwards: its own default route may hang on them.

        https://docs.kernel.org/networking/ip-sysctl.html, accept_ra.
        """
        path = ("net", "ipv6", "conf", self._underlay.device, "accept_ra")
        if sysctl.read(path) == "1":
            sysctl.write(path, 2)

    def _ensure_tunnel(self, host: RouteSocket) -> None:
        wanted = self._devices.tunnel
        link = _find(host, wanted.name)
        if link is not None and not _fits(link, wanted):
            host.execute([links.delete_link(index=link.index)])
            link = None
        if link is None:
            host.execute(
                [
                    links.create_vxlan(
                        name=wanted.name,
                        vni=wanted.vni,
                        port=wanted.port,
                        local=wanted.local,
                        underlay_index=self._underlay.index,
                        mtu=wanted.mtu,
                        address=wanted.address,
                    )
                ]
            )
            _log.info("tunnel %s made", wanted.name)
        link = links.get_link(host, name=wanted.name)
        if self._with_ipv6:
            sysctl.write(("net", "ipv6", "conf", wanted.name, "disable_ipv6"), 0)
        _ensure_addresses(host, link.index, weave.tunnel_addresses(self._bridge_addresses()), self._ranges)
        # Only what differs: setting even the same MAC makes the kernel forget the neighbours, our way to peers.
        if (link.address, link.mtu, link.up) != (wanted.address, wanted.mtu, True):
            host.execute([links.set_link(index=link.index, address=wanted.address, mtu=wanted.mtu, up=True)])


_GONE = (errno.ESRCH, errno.ENOENT, errno.EADDRNOTAVAIL)


def _find(host: RouteSocket, name: str) -> Link | None:
    try:
        return links.get_link(host, name=name)
    except NetlinkError as error:
        if error.errno == errno.ENODEV:
            return None
        raise


def _ensure_addresses(
    host: RouteSocket, index: int, wanted: Sequence[IPInterface], ranges: Sequence[IPNetwork]
) -> None:
    """Give a device these addresses, and of the ranges' families no others but link-local ones."""
    present = {item.interface for item in addresses.dump_addresses(host, index)}
    # Others first: with a subnet's first address go all that were added later.
    versions = {pods.version for pods in ranges}
    for other in present.difference(wanted):
        if other.version in versions and not other.ip.is_link_local:
            host.execute([addresses.delete_address(index, other)])
    present = {item.interface for item in addresses.dump_addresses(host, index)}
    host.execute([addresses.add_address(index, item) for item in wanted if item not in present])


def _fits(link: Link, wanted: Vxlan) -> bool:
    vxlan = link.vxlan
    return vxlan is not None and (vxlan.vni, vxlan.port, vxlan.local) == (wanted.vni, wanted.port, wanted.local)


def _is_default(route: routes.Route) -> bool:
    return isinstance(route.destination, IPv4Network) and route.destination.prefixlen == 0


def _observe(host: RouteSocket, tunnel: int, family: int | None) -> Forwarding:
    """What the kernel has on the tunnel, in the plan's terms."""
    return Forwarding(
        frozenset(
            Route(route.destination, route.gateway, route.source)
            for route in routes.dump_routes(host, family=family, device=tunnel)
            if route.gateway is not None and route.source is not None
        ),
        frozenset(
            Neighbour(item.address, item.link_address)
            for item in neighbours.dump_neighbours(host, tunnel)
            if item.permanent and item.link_address
        ),
        frozenset(
            ForwardingEntry(item.link_address, item.destination)
            for item in neighbours.dump_forwarding_entries(host, tunnel)
            if isinstance(item.destination, IPv4Address)
        ),
    )


def _carry_out(host: RouteSocket, messages: Sequence[Message]) -> int:
    errors = [error for error in host.attempt(messages) if error and error.errno not in _GONE]
    if errors:
        raise errors[0]
    return len(messages)


def _additions(tunnel: int, new: Forwarding) -> Iterator[Message]:
    """A way in before the way that uses it; an entry that differs from one with the same key takes its place."""
    yield from (_neighbour(tunnel, item) for item in new.neighbours)
    yield from (_entry(tunnel, item) for item in new.entries)
    yield from (_route(tunnel, item) for item in new.routes)


def _route(tunnel: int, item: Route) -> Message:
    return routes.replace_route(
        item.destination,
        gateway=item.gateway,
        device=tunnel,
        source=item.source,
        on_link=item.destination.version == 4,
    )


def _neighbour(tunnel: int, item: Neighbour) -> Message:
    return neighbours.replace_neighbour(tunnel, item.gateway, item.link_address)


def _entry(tunnel: int, item: ForwardingEntry) -> Message:
    return neighbours.replace_forwarding_entry(tunnel, item.link_address, item.address)


def _removals(tunnel: int, plan: Forwarding, present: Forwarding) -> Iterator[Message]:
    """What no plan asks for any more; what was replaced by an item with the same key is gone already."""
    for destination in {item.destination for item in present.routes} - {item.destination for item in plan.routes}:
        yield routes.delete_route(destination, device=tunnel)
    for gateway in {item.gateway for item in present.neighbours} - {item.gateway for item in plan.neighbours}:
        yield neighbours.delete_neighbour(tunnel, gateway)
    wanted = {item.link_address for item in plan.entries}
    for entry in present.entries:
        if entry.link_address not in wanted:
            yield neighbours.delete_forwarding_entry(tunnel, entry.link_address, entry.address)
