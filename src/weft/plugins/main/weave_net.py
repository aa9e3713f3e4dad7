"""``weave-net``: puts a pod on the node's bridge with an address out of the cluster's flat range.

Configuration keys, as Weave Net had them: ``bridge`` (must be the node's bridge), ``mtu`` (bytes; 0 is the
bridge's), ``hairpinMode`` (default true), ``ipam``: without ``type`` the node's own addresses, with
``gateway`` and ``routes`` in place of the default route; with ``type`` the named IPAM plugin from CNI_PATH.

Where the cluster has an IPv6 range, a pod has an address of each family (``weft.fabric.weave``).
"""

import errno
import hashlib
import re
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
from typing import Generic

from weft.cni import (
    CniError,
    Command,
    Dns,
    ErrorCode,
    Interface,
    IPConfiguration,
    PodArguments,
    Result,
    Route,
    delegate,
)
from weft.kernel import addresses, announce, links, neighbours, routes
from weft.kernel.links import Link
from weft.kernel.namespace import NetworkNamespace
from weft.kernel.netlink import Message, NetlinkError, RouteSocket
from weft.plugins.interface import write_optional
from weft.plugins.main.weave_book import AttachmentBook, Reservation, Reserved
from weft.plugins.main.weave_gate import Gate, OpenGate
from weft.plugins.main.weave_requests import Requests, requested_by_runtime
from weft.plugins.main.weave_settings import (
    Settings,
    gateway_of,
    interface_of,
    parse_settings,
)
from weft.plugins.plugin import PluginRequest

HOST_PREFIX = "vethwepl"
_DEFAULT_ROUTE = {4: Route("0.0.0.0/0"), 6: Route("::/0")}
#: A pod's MAC is this and its address: an address that is used again keeps its MAC, and no cache is stale.
POD_LINK_ADDRESS_PREFIX = b"\x0a\x58"
#: The pod's end among the result's interfaces: bridge, host end, pod's end.
POD_INTERFACE = 2
#: What a pod's interface must be told for IPv6: to have it; to take no route from anybody but us.
_IPV6 = (("disable_ipv6", 0), ("accept_ra", 0), ("accept_redirects", 0))


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


class WeaveNet(Generic[Reserved]):
    """``weft.plugins.Plugin`` for ``weave-net``."""

    def __init__(
        self,
        book: AttachmentBook[Reserved],
        requests: Requests = requested_by_runtime,
        gate: Gate | None = None,
    ) -> None:
        """``requests`` tells what a call asks for; without a ``gate`` no policies are enforced."""
        self._book = book
        self._requests = requests
        self._gate = gate or OpenGate()
        with NetworkNamespace.current() as own:
            self._own_namespace = own.identity

    def add(self, request: PluginRequest) -> Result:
        """Make the pair, put the host end on the bridge, address the pod's end, tell the neighbours."""
        book, call = self._book, request.invocation
        settings = parse_settings(request.configuration.raw, book.bridge)
        namespace = _required_namespace(request)
        if book.find(call.container_id, call.ifname):
            raise CniError(
                ErrorCode.INVALID_ENVIRONMENT,
                f"CNI_CONTAINERID {call.container_id}, CNI_IFNAME {call.ifname}: already added; DEL it first",
            )
        pod = PodArguments.from_arguments(call.arguments)
        reservation = book.reserve(
            call.container_id,
            call.ifname,
            request.configuration.name,
            host_interface_name(call.container_id, call.ifname),
            own_address=not settings.ipam_type,
            wanted=None if settings.ipam_type else self._requests(request),
            pod=pod.key,
            pod_uid=pod.uid,
        )
        try:
            assigned = (
                self._delegated(settings, request) if settings.ipam_type else self._own(settings, reservation)
            )
            self._gate.admit(call, [item.address for item in assigned.ips])
            host_link, link_address = self._connect(
                request, namespace, settings, reservation.host_interface, assigned
            )
            book.confirm(reservation)
        except BaseException:
            book.retire(reservation)
            self._gate.dismiss(call)
            if settings.ipam_type:
                delegate(Command.DEL, settings.ipam_type, request.configuration, call)
            raise
        interfaces = (
            Interface(book.bridge.name, book.bridge.link_address, book.bridge.mtu),
            Interface(host_link.name, host_link.address, settings.mtu),
            Interface(call.ifname, link_address, settings.mtu, call.netns),
        )
        return Result(interfaces, assigned.ips, assigned.told, _dns(request))

    def delete(self, request: PluginRequest) -> None:
        """Cut the pod off; nothing to do where there is no such attachment."""
        call = request.invocation
        ipam = request.configuration.raw.get("ipam")
        if isinstance(ipam, dict) and ipam.get("type"):
            delegate(Command.DEL, str(ipam["type"]), request.configuration, call)
        reservation = self._book.find(call.container_id, call.ifname)
        if reservation is not None:
            self._book.retire(reservation)
        self._gate.dismiss(call)

    def _own(self, settings: Settings, reservation: Reservation) -> Assignment:
        """What the node's own IPAM gives: an address with its whole range's prefix, one of IPv6 by itself, default
        routes. Where the configuration has routes or a gateway of its own, the other ranges are reached all the
        same."""
        bridge = self._book.bridge
        if reservation.address is None:
            raise RuntimeError("an address of our own was asked for and none reserved")
        given = _given(reservation)
        gateways = {item.version: gateway_of(bridge, item) for item in given}
        own = gateways | ({4: IPv4Interface(settings.gateway)} if settings.gateway else {})
        ips = tuple(
            IPConfiguration(interface_of(bridge, item), own[item.version].ip, POD_INTERFACE) for item in given
        )
        named = {ip_network(route.dst, strict=False) for route in settings.routes}
        own_ways = {4} if settings.routes or settings.gateway else set()
        own_ways |= {network.version for network in named}
        others = tuple(
            Route(str(network), gateways[network.version].ip)
            for network in bridge.networks
            if network.version in own_ways & gateways.keys()
            and network not in (*named, gateways[network.version].network)
        )
        return _assignment(Result((), ips, settings.routes), bridge.addresses, others)

    def _delegated(self, settings: Settings, request: PluginRequest) -> Assignment:
        """What another IPAM plugin gives."""
        given = delegate(Command.ADD, settings.ipam_type, request.configuration, request.invocation)
        if given is None or not given.ips:
            raise CniError(ErrorCode.INVALID_CONFIG, f"IPAM plugin {settings.ipam_type!r} gave no address")
        ips = tuple(replace(item, interface=POD_INTERFACE) for item in given.ips)
        return _assignment(replace(given, ips=ips), self._book.bridge.addresses)

    def _connect(
        self,
        request: PluginRequest,
        namespace: NetworkNamespace,
        settings: Settings,
        host_interface: str,
        assigned: Assignment,
    ) -> tuple[Link, str]:
        """Make the pair and address the pod's end; the host end as the kernel has it, and the pod's MAC."""
        book, ifname, pod_end = self._book, request.invocation.ifname, PodEnd.of(assigned)
        # The socket belongs to the pod's namespace for life; the thread is back home at once.
        with RouteSocket.open_in(namespace) as pod:
            self._make_pair(self._host_messages(namespace, ifname, settings, host_interface, pod_end), ifname)
            index = links.find_index(pod, ifname)
            if pod_end.ipv6:
                with namespace.entered():
                    write_optional([(("net", "ipv6", "conf", ifname, key), value) for key, value in _IPV6])
            pod.execute(
                [
                    links.set_link(index=index, up=True),
                    *(addresses.add_address(index, item.address) for item in assigned.ips),
                    *(
                        routes.add_route(item.destination, gateway=item.gateway, device=index)
                        for item in assigned.routes
                    ),
                ]
            )
        host_link = links.await_forwarding(book.host, name=host_interface)
        # Sent on the bridge, so that every pod of the node hears which MAC the address has now.
        announce.gratuitous_arp(book.packets, book.bridge.name, pod_end.link_address, pod_end.address)
        for address in pod_end.ipv6:
            announce.unsolicited_advertisement(book.packets, book.bridge.name, pod_end.link_address, address)
        return host_link, pod_end.link_address.hex(":")

    def _host_messages(
        self, namespace: NetworkNamespace, ifname: str, settings: Settings, host_interface: str, pod: PodEnd
    ) -> list[Message]:
        """The pair, its host end on the bridge and up, and what the node itself must know of the pod."""
        bridge = self._book.bridge
        messages = [
            links.create_veth(
                name=host_interface,
                peer_name=ifname,
                peer_namespace_fd=namespace.fd,
                mtu=settings.mtu,
                master=bridge.index,
                peer_address=pod.link_address,
            ),
            # The host end carries pods' frames only: no IPv6 link-local address of its own.
            links.set_bridge_port(name=host_interface, hairpin=settings.hairpin, link_local=False),
        ]
        # The node hears no announcement that it sends itself.
        return messages + [
            neighbours.replace_neighbour(bridge.index, address, pod.link_address, state=neighbours.STALE)
            for address in pod.addresses
            if any(address in own.network for own in bridge.addresses)
        ]

    def _make_pair(self, messages: list[Message], ifname: str) -> None:
        for attempt in (1, 2):
            refused = next(filter(None, self._book.host.attempt(messages)), None)
            if refused is None:
                return
            # A DEL that has answered may not have deleted yet what has the same name.
            if refused.errno == errno.EEXIST and attempt == 1:
                self._book.wait_for_retired()
                continue
            raise CniError(ErrorCode.GENERIC, f"CNI_IFNAME {ifname}: {refused}") from refused

    def check(self, request: PluginRequest) -> None:
        """The pair is there, on the bridge, up, and the pod's end has the addresses of prevResult."""
        call, bridge = request.invocation, self._book.bridge
        parse_settings(request.configuration.raw, bridge)
        namespace = _required_namespace(request)
        reservation = self._book.find(call.container_id, call.ifname)
        if reservation is None:
            raise CniError(
                ErrorCode.UNKNOWN_CONTAINER, f"{call.ifname} of container {call.container_id} is not attached"
            )
        try:
            host_link = links.get_link(self._book.host, name=reservation.host_interface)
            with RouteSocket.open_in(namespace) as pod:
                pod_link = links.get_link(pod, name=call.ifname)
                present = {item.interface for item in addresses.dump_addresses(pod, pod_link.index)}
                ways = {route.destination for route in routes.dump_routes(pod, device=pod_link.index)}
        except NetlinkError as error:
            raise CniError(ErrorCode.GENERIC, f"container {call.container_id}: {error}") from error
        if host_link.master != bridge.index or not host_link.up:
            raise CniError(ErrorCode.GENERIC, f"{host_link.name} is not up on bridge {bridge.name}")
        if not pod_link.up:
            raise CniError(ErrorCode.GENERIC, f"{call.ifname} in {call.netns} is down")
        previous = request.configuration.previous_result
        wanted = {item.address for item in previous.ips} if previous else set()
        wanted |= {interface_of(bridge, address) for address in _given(reservation)}
        if missing := wanted - present:
            listed = ", ".join(sorted(map(str, missing)))
            raise CniError(ErrorCode.GENERIC, f"{call.ifname} in {call.netns} lacks the address {listed}")
        for route in previous.routes if previous else ():
            if ip_network(route.dst, strict=False) not in ways:
                raise CniError(ErrorCode.GENERIC, f"{call.ifname} in {call.netns} lacks the route to {route.dst}")

    def gc(self, request: PluginRequest) -> None:
        """Retire what no valid attachment names."""
        self._book.retire_others(request.configuration.name, request.configuration.valid_attachments)
        self._gate.retain(request.configuration.valid_attachments)

    def status(self, request: PluginRequest) -> None:
        """Whether there is an address left to give."""
        parse_settings(request.configuration.raw, self._book.bridge)
        self._book.ensure_ready()


def host_interface_name(container_id: str, ifname: str) -> str:
    """The host end's name: ``vethwepl`` and seven hex digits.

    As Weave did, the digits of the container ID where it is hexadecimal; a further interface of the same
    container, or an ID of another kind, takes seven digits of a hash of both.
    """
    if ifname == "eth0" and re.fullmatch(r"[0-9a-f]{7,}", container_id):
        return HOST_PREFIX + container_id[:7]
    return HOST_PREFIX + hashlib.sha256(f"{container_id}/{ifname}".encode()).hexdigest()[:7]


def _given(reservation: Reservation) -> list[IPv4Address | IPv6Address]:
    """The addresses that the node's own IPAM gave."""
    return [item for item in (reservation.address, reservation.address6) if item is not None]


def _assignment(
    given: Result, bridge_addresses: Sequence[IPv4Interface | IPv6Interface], others: Sequence[Route] = ()
) -> Assignment:
    """Routes as Weave made them: those that IPAM gave, else a default route; through IPAM's gateway, else the
    bridge. Of a family that none was given for, the default route. Then ``others``."""
    gateways = {item.gateway.version: item.gateway for item in reversed(given.ips) if item.gateway}
    gateways.setdefault(4, next(own.ip for own in bridge_addresses if isinstance(own, IPv4Interface)))
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


def _required_namespace(request: PluginRequest) -> NetworkNamespace:
    """The sandbox's namespace. Raises CniError 4 where it is missing."""
    netns = request.invocation.netns
    if request.namespace is None:
        raise CniError(
            ErrorCode.INVALID_ENVIRONMENT, f"CNI_NETNS {netns!r}: the namespace did not come with the call"
        )
    return request.namespace


def _dns(request: PluginRequest) -> Dns:
    """The configuration's DNS, passed on."""
    dns = request.configuration.raw.get("dns")
    if not dns:
        return Dns()
    return Result.from_json({"cniVersion": "1.0.0", "dns": dns}).dns
