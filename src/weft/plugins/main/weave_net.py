"""``weave-net``: puts a pod on the node's bridge with an address out of the cluster's flat range.

Configuration keys, as Weave Net had them: ``bridge`` (must be the node's bridge), ``mtu`` (bytes; 0 is the
bridge's), ``hairpinMode`` (default true), ``ipam``: without ``type`` the node's own addresses, with
``gateway`` and ``routes`` in place of the default route; with ``type`` the named IPAM plugin from CNI_PATH.

Where the cluster has an IPv6 range, a pod has an address of each family (``weft.fabric.weave``).
"""

import errno
import hashlib
import re
from ipaddress import (
    IPv4Address,
    IPv6Address,
    ip_network,
)
from typing import Generic

from weft.cni import (
    CniError,
    Command,
    Dns,
    ErrorCode,
    Interface,
    PodArguments,
    Result,
    delegate,
)
from weft.kernel import addresses, announce, links, neighbours, routes
from weft.kernel.links import Link
from weft.kernel.namespace import NetworkNamespace
from weft.kernel.netlink import Message, NetlinkError, RouteSocket
from weft.plugins.interface import write_optional
from weft.plugins.main import weave_assignment
from weft.plugins.main.weave_assignment import Assignment, PodEnd
from weft.plugins.main.weave_book import AttachmentBook, Reservation, Reserved
from weft.plugins.main.weave_gate import Gate, OpenGate
from weft.plugins.main.weave_requests import Requests, requested_by_runtime
from weft.plugins.main.weave_settings import (
    Settings,
    interface_of,
    parse_settings,
)
from weft.plugins.plugin import PluginRequest

HOST_PREFIX = "vethwepl"
#: What a pod's interface must be told for IPv6: to have it; to take no route from anybody but us.
_IPV6 = (("disable_ipv6", 0), ("accept_ra", 0), ("accept_redirects", 0))


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
            assigned = self._assigned(settings, request, reservation)
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

    def _assigned(self, settings: Settings, request: PluginRequest, reservation: Reservation) -> Assignment:
        """What the node's own IPAM gave, or what another IPAM plugin gives now. Raises CniError."""
        bridge = self._book.bridge
        if not settings.ipam_type:
            return weave_assignment.own(settings, bridge, _given(reservation))
        given = delegate(Command.ADD, settings.ipam_type, request.configuration, request.invocation)
        if given is None or not given.ips:
            raise CniError(ErrorCode.INVALID_CONFIG, f"IPAM plugin {settings.ipam_type!r} gave no address")
        return weave_assignment.delegated(given, bridge)

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
            self._make_pair(
                self._pair_messages(namespace, ifname, settings, host_interface, pod_end),
                self._neighbour_messages(pod_end),
                ifname,
            )
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

    def _pair_messages(
        self, namespace: NetworkNamespace, ifname: str, settings: Settings, host_interface: str, pod: PodEnd
    ) -> list[Message]:
        """The pair, its host end on the bridge and up."""
        return [
            links.create_veth(
                name=host_interface,
                peer_name=ifname,
                peer_namespace_fd=namespace.fd,
                mtu=settings.mtu,
                master=self._book.bridge.index,
                peer_address=pod.link_address,
            ),
            # The host end carries pods' frames only: no IPv6 link-local address of its own.
            links.set_bridge_port(name=host_interface, hairpin=settings.hairpin, link_local=False),
        ]

    def _neighbour_messages(self, pod: PodEnd) -> list[Message]:
        """What the node itself must know of the pod: it hears no announcement that it sends itself."""
        bridge = self._book.bridge
        return [
            neighbours.replace_neighbour(bridge.index, address, pod.link_address, state=neighbours.STALE)
            for address in pod.addresses
            if any(address in own.network for own in bridge.addresses)
        ]

    def _make_pair(self, pair: list[Message], known: list[Message], ifname: str) -> None:
        for attempt in (1, 2):
            errors = self._book.host.attempt([*pair, *known])
            # The kernel's table of neighbours, which all namespaces share, may be full of what pods asked for.
            # The node can do without the entry.
            full = [error for error in errors[len(pair) :] if error and error.errno == errno.ENOBUFS]
            refused = next((error for error in errors if error and error not in full), None)
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
        """Whether an ADD can be served: the IPAM plugin says so or there is an address, and policies are enforced.

        Raises CniError 50, or 51 where pods that are attached may be cut off too.
        """
        settings = parse_settings(request.configuration.raw, self._book.bridge)
        if settings.ipam_type:
            delegate(Command.STATUS, settings.ipam_type, request.configuration, request.invocation)
        else:
            self._book.ensure_ready()
        self._gate.ensure_ready()


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
