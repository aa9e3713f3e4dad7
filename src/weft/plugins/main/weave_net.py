"""``weave-net``: puts a pod on the node's bridge with an address out of the cluster's flat range.

Configuration keys, as Weave Net had them: ``bridge`` (must be the node's bridge), ``mtu`` (bytes; 0 is the
bridge's), ``hairpinMode`` (default true), ``ipam``: without ``type`` the node's own addresses, with
``gateway`` and ``routes`` in place of the default route; with ``type`` the named IPAM plugin from CNI_PATH.
"""

import errno
import hashlib
import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any, Protocol

from weft.cni import CniError, ErrorCode, Interface, IPConfiguration, Result, Route, delegate
from weft.kernel import addresses, announce, links, routes
from weft.kernel.links import Link
from weft.kernel.namespace import NetworkNamespace
from weft.kernel.netlink import NetlinkError, RouteSocket
from weft.plugins.plugin import PluginRequest

TYPE = "weave-net"
HOST_PREFIX = "vethwepl"
DEFAULT_ROUTE = IPv4Network("0.0.0.0/0")


class Bridge(Protocol):
    """The bridge that pods are put on."""

    index: int
    name: str
    link_address: str
    address: IPv4Interface
    mtu: int


class Reservation(Protocol):
    """An attachment in the node's journal; ``address`` is None where another IPAM plugin keeps it."""

    host_interface: str
    address: IPv4Address | None


class AttachmentBook(Protocol):
    """What this plugin asks of the node it runs on. Every verb journals before it returns."""

    @property
    def bridge(self) -> Bridge:
        """The node's bridge as it is in the kernel."""

    @property
    def host(self) -> RouteSocket:
        """This thread's socket in the node's own namespace."""

    def find(self, container_id: str, ifname: str) -> Reservation | None:
        """The attachment of a container's interface."""

    def reserve(
        self, container_id: str, ifname: str, network: str, host_interface: str, *, own_address: bool
    ) -> Reservation:
        """Write an attachment down and take an address for it. Raises CniError."""

    def confirm(self, reservation: Reservation) -> None:
        """The interface is made."""

    def retire(self, reservation: Reservation) -> None:
        """Cut the interface off; it is deleted, and its address freed, soon after."""

    def wait_for_retired(self) -> None:
        """Return when the interfaces retired so far are gone."""

    def retire_others(self, network: str, valid: frozenset[tuple[str, str]]) -> None:
        """Retire every attachment of the network that is not among the valid (container, interface)."""

    def ensure_ready(self) -> None:
        """Raise CniError where an attachment could not be made now."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The plugin's own keys, checked."""

    mtu: int
    hairpin: bool
    ipam_type: str
    gateway: IPv4Address | None
    routes: tuple[Route, ...]


class WeaveNet:
    """``weft.plugins.Plugin`` for ``weave-net``."""

    def __init__(self, book: AttachmentBook) -> None:
        self._book = book

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
        reservation = book.reserve(
            call.container_id,
            call.ifname,
            request.configuration.name,
            host_interface_name(call.container_id, call.ifname),
            own_address=not settings.ipam_type,
        )
        delegated = False
        try:
            if settings.ipam_type:
                delegated = True
                assigned = delegate("ADD", settings.ipam_type, request.configuration, call)
            else:
                assigned = self._own(settings, reservation)
            host_link, pod_link = self._connect(request, namespace, settings, reservation, assigned)
            book.confirm(reservation)
        except BaseException:
            book.retire(reservation)
            if delegated:
                delegate("DEL", settings.ipam_type, request.configuration, call)
            raise
        return _result(request, book.bridge, host_link, pod_link, assigned)

    def delete(self, request: PluginRequest) -> None:
        """Cut the pod off; nothing to do where there is no such attachment."""
        call = request.invocation
        ipam = request.configuration.raw.get("ipam")
        if isinstance(ipam, dict) and ipam.get("type"):
            delegate("DEL", str(ipam["type"]), request.configuration, call)
        reservation = self._book.find(call.container_id, call.ifname)
        if reservation is not None:
            self._book.retire(reservation)

    def check(self, request: PluginRequest) -> None:
        """The pair is there, on the bridge, up, and the pod's end has its addresses and a default route."""

    def _own(self, settings: Settings, reservation: Reservation) -> Assignment:
        """What the node's own IPAM gives: an address with the whole range's prefix, a default route."""
        bridge = self._book.bridge
        if reservation.address is None:
            raise RuntimeError("an address of our own was asked for and none reserved")
        gateway = settings.gateway or bridge.address.ip
        interface = IPv4Interface((reservation.address, bridge.address.network.prefixlen))
        return Assignment((interface,), gateway, settings.routes or (DEFAULT_ROUTE,))

    def _connect(
        self,
        request: PluginRequest,
        namespace: NetworkNamespace,
        settings: Settings,
        reservation: Reservation,
        assigned: Assignment,
    ) -> tuple[Link, Link]:
        """Make the pair and address the pod's end; both ends as the kernel has them then."""
        host, host_interface, ifname = self._book.host, reservation.host_interface, request.invocation.ifname
        # The sockets belong to the pod's namespace for life; the thread is back home at once.
        with namespace.entered():
            pod, packets = RouteSocket(), announce.open_packet_socket()
        with pod, packets:
            self._make_pair(namespace, ifname, settings, host_interface)
            pod_link = links.get_link(pod, name=ifname)
            pod.execute(
                [
                    links.set_link(index=pod_link.index, up=True),
                    *(addresses.add_address(pod_link.index, item) for item in assigned.interfaces),
                    *(
                        routes.add_route(item.destination, gateway=item.gateway, device=pod_link.index)
                        for item in assigned.routes
                    ),
                ]
            )
            # After this question the port forwards, so the announcement below is heard (see get_link).
            host_link = links.get_link(host, name=host_interface)
            for item in assigned.interfaces:
                if isinstance(item, IPv4Interface):
                    announce.gratuitous_arp(packets, ifname, pod_link.address, item.ip)
        return host_link, pod_link

    def _make_pair(self, namespace: NetworkNamespace, ifname: str, settings: Settings, host_interface: str) -> None:
        messages = [
            links.create_veth(
                name=host_interface,
                peer_name=ifname,
                peer_namespace_fd=namespace.fd,
                mtu=settings.mtu,
                master=self._book.bridge.index,
            ),
            # The host end carries pods' frames only: no IPv6 link-local address of its own.
            links.set_bridge_port(name=host_interface, hairpin=settings.hairpin, link_local=False),
        ]
        for attempt in (1, 2):
            refused = next(filter(None, self._book.host.attempt(messages)), None)
            if refused is None:
                return
            # A DEL that has answered may not have deleted yet what has the same name.
            if refused.errno == errno.EEXIST and attempt == 1:
                self._book.wait_for_retired()
                continue
            raise CniError(ErrorCode.GENERIC, f"CNI_IFNAME {ifname}: {refused}") from refused

    def gc(self, request: PluginRequest) -> None:
        """Retire what no valid attachment names."""
        self._book.retire_others(request.configuration.name, request.configuration.valid_attachments)

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
