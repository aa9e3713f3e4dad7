"""What a pod of ``weave-net`` is given: addresses, routes, and what its result tells of them. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_network,
)

from weft.cni import CniError, ErrorCode, IPConfiguration, Result, Route
from weft.plugins.main.weave_settings import Bridge, Settings, gateway_of, interface_of

_DEFAULT_ROUTE = {4: Route("0.0.0.0/0"), 6: Route("::/0")}
#: A pod's MAC is this and its address: an address that is used again keeps its MAC, and no cache is stale.
POD_LINK_ADDRESS_PREFIX = b"\x0a\x58"
#: The pod's end among the result's interfaces: bridge, host end, pod's end.
POD_INTERFACE = 2


@dataclass(frozen=True, slots=True)
class PodRoute:
    """A route to be made in the pod; without a gateway the destination is on the link."""

    destination: IPv4Network | IPv6Network
    gateway: IPv4Address | IPv6Address | None


@dataclass(frozen=True, slots=True)
class Assignment:
    """What IPAM gave: addresses, routes to make, and the routes as the result tells them."""

    ips: tuple[IPConfiguration, ...]
    routes: tuple[PodRoute, ...]
    told: tuple[Route, ...]


@dataclass(frozen=True, slots=True)
class PodEnd:
    """The pod's first IPv4 address, the MAC that goes with it, and its IPv6 addresses."""

    address: IPv4Address
    link_address: bytes
    ipv6: tuple[IPv6Address, ...]

    @property
    def addresses(self) -> tuple[IPv4Address | IPv6Address, ...]:
        """All of them."""
        return self.address, *self.ipv6

    @classmethod
    def of(cls, assigned: Assignment) -> "PodEnd":
        """Raises CniError 7 where IPAM gave no IPv4 address."""
        ipv6 = tuple(item.address.ip for item in assigned.ips if isinstance(item.address, IPv6Interface))
        for item in assigned.ips:
            if isinstance(item.address, IPv4Interface):
                return cls(item.address.ip, POD_LINK_ADDRESS_PREFIX + item.address.ip.packed, ipv6)
        raise CniError(ErrorCode.INVALID_CONFIG, "IPAM gave no IPv4 address, and the bridge carries no other")


def own(settings: Settings, bridge: Bridge, given: Sequence[IPv4Address | IPv6Address]) -> Assignment:
    """Of the node's own addresses: each with the prefix of its range, one of IPv6 by itself, the bridge's address
    of that range as gateway, default routes.

    Where the configuration has routes or a gateway of its own, the other ranges are reached all the same.
    """
    gateways = {item.version: gateway_of(bridge, item) for item in given}
    shown = {version: gateway.ip for version, gateway in gateways.items()}
    if settings.gateway:
        shown[4] = settings.gateway
    ips = tuple(IPConfiguration(interface_of(bridge, item), shown[item.version], POD_INTERFACE) for item in given)
    named = {ip_network(route.dst, strict=False) for route in settings.routes}
    # Families whose default route may not lead through the bridge.
    elsewhere = {network.version for network in named}
    if settings.routes or settings.gateway:
        elsewhere.add(4)
    others = tuple(
        Route(str(network), gateways[network.version].ip)
        for network in bridge.networks
        if network.version in elsewhere & gateways.keys()
        and network not in (*named, gateways[network.version].network)
    )
    return _assignment(Result((), ips, settings.routes), bridge, others)


def delegated(given: Result, bridge: Bridge) -> Assignment:
    """Of what another IPAM plugin gave."""
    ips = tuple(replace(item, interface=POD_INTERFACE) for item in given.ips)
    return _assignment(replace(given, ips=ips), bridge)


def _assignment(given: Result, bridge: Bridge, others: Sequence[Route] = ()) -> Assignment:
    """Routes as Weave made them: those that IPAM gave, else a default route; through IPAM's gateway, else the
    bridge. Of a family that none was given for, the default route. Then ``others``."""
    gateways = {item.gateway.version: item.gateway for item in reversed(given.ips) if item.gateway}
    gateways.setdefault(4, next(each.ip for each in bridge.addresses if isinstance(each, IPv4Interface)))
    told = given.routes or (_DEFAULT_ROUTE[4],)
    with_ipv6 = any(item.address.version == 6 for item in given.ips)
    if with_ipv6 and 6 in gateways and not any(ip_network(route.dst, strict=False).version == 6 for route in told):
        told = (*told, _DEFAULT_ROUTE[6])
    told = (*told, *others)
    made = []
    for route in told:
        destination = ip_network(route.dst, strict=False)
        made.append(PodRoute(destination, route.gateway or gateways.get(destination.version)))
    # A gateway outside of the pod's subnet is reached over the link all the same.
    on_link = {
        PodRoute(ip_network(route.gateway), None)
        for route in made
        if route.gateway and not any(route.gateway in item.address.network for item in given.ips)
    }
    return Assignment(given.ips, (*on_link, *made), told)
