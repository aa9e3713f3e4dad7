"""``ptp``: a pair of interfaces between host and container, and routes through the host for everything else.

The container reaches its own subnet, too, by way of the gateway, which is the host's end. Keys: ``ipMasq``,
``ipMasqBackend``, ``mtu``, ``dns``; see docs/plugins/ptp.md.
"""

from ipaddress import ip_address, ip_interface, ip_network

from weft.cni import Interface, IPConfiguration, Result
from weft.kernel import addresses, routes
from weft.kernel.links import Link
from weft.kernel.netlink import Message, RouteSocket
from weft.plugins import devices, interface, masquerade
from weft.plugins.delegation import Ipam
from weft.plugins.pairs import check_mtu, make_pair
from weft.plugins.plugin import PluginRequest
from weft.plugins.settings import NetworkSettings, read, refused
from weft.plugins.undo import Undo

#: The container's end among the result's interfaces: host's end, container's end.
_CONTAINER_END = 1


class PointToPointSettings(NetworkSettings, frozen=True, kw_only=True):
    """The plugin's keys."""

    ip_masq: bool = False
    ip_masq_backend: str | None = None
    mtu: int = 0


class PointToPoint:
    """``weft.plugins.Plugin`` for ``ptp``."""

    def add(self, request: PluginRequest) -> Result:
        """Make the pair, address both ends, set the routes."""
        settings, call, sandbox = parse(request), request.invocation, request.sandbox
        ipam = Ipam(settings.ipam.type, request)
        with RouteSocket() as host, RouteSocket.open_in(sandbox) as pod, Undo() as undo:
            given = ipam.add()
            undo.on_failure(ipam.delete)
            ips = interface.assigned(given, _CONTAINER_END)
            interface.check_routes(given)
            for item in ips:
                if item.gateway is None:
                    raise refused(f"IPAM plugin {settings.ipam.type!r} gave {item.address} without a gateway")
            interface.enable_forwarding({item.address.version for item in ips})
            pair = make_pair(host, pod, sandbox, call.ifname, mtu=settings.mtu)
            undo.on_failure(pair.delete, host)
            found = Result((), ips, given.routes, given.dns)
            # Nobody but the host is on this link who could have the address as well.
            index = interface.configure(sandbox, pod, call.ifname, found, detect_duplicates=False)
            pod.execute(container_routes(index, ips))
            host.execute(host_messages(pair.host, ips))
            if settings.ip_masq:
                masquerade.set_up_for(request, settings.ip_masq_backend, found, undo)
        interfaces = (
            Interface(pair.host.name, pair.host.address),
            Interface(call.ifname, pair.container.address, sandbox=call.netns),
        )
        return Result(interfaces, ips, given.routes, settings.dns.over(given.dns))

    def delete(self, request: PluginRequest) -> None:
        """Give the addresses back, delete the pair, take the rules away."""
        settings, call = read(PointToPointSettings, request.configuration), request.invocation
        Ipam(settings.ipam.type, request).delete()
        held = interface.delete_interface(request.namespace, call.ifname)
        if settings.ip_masq:
            network = request.configuration.name
            masquerade.tear_down(network, call.ifname, call.container_id, held)

    def check(self, request: PluginRequest) -> None:
        """The container's end has the addresses and routes of prevResult."""
        devices.verify(request, parse(request), "veth")

    def gc(self, request: PluginRequest) -> None:
        """Give back addresses and rules of attachments that are not valid."""
        settings = parse(request)
        Ipam(settings.ipam.type, request).gc()
        if settings.ip_masq:
            masquerade.collect_garbage(request.configuration.name, request.configuration.valid_attachments)

    def status(self, request: PluginRequest) -> None:
        """Whether there are addresses."""
        Ipam(parse(request).ipam.type, request).status()


def parse(request: PluginRequest) -> PointToPointSettings:
    """Read and check a configuration. Raises CniError."""
    settings = read(PointToPointSettings, request.configuration)
    check_mtu("mtu", settings.mtu)
    masquerade.check_backend(settings.ip_masq_backend)
    return settings


def container_routes(index: int, ips: tuple[IPConfiguration, ...]) -> list[Message]:
    """In place of the subnet's own route: one to the gateway on the link, one to the subnet by the gateway."""
    messages = []
    for item in ips:
        network, gateway = item.address.network, ip_address(str(item.gateway))
        messages += [
            routes.delete_route(network, device=index),
            routes.add_route(ip_network(gateway), device=index, source=item.address.ip, scope=routes.SCOPE_LINK),
            routes.add_route(network, device=index, gateway=gateway, source=item.address.ip),
        ]
    return messages


def host_messages(link: Link, ips: tuple[IPConfiguration, ...]) -> list[Message]:
    """The gateways on the host's end, and a route to each of the container's addresses."""
    messages = []
    for item in ips:
        gateway = ip_interface(str(item.gateway))
        messages += [
            addresses.add_address(link.index, gateway, detect_duplicates=False),
            routes.put_route(
                routes.Route(
                    destination=ip_network(item.address.ip),
                    gateway=None,
                    device=link.index,
                    on_link=False,
                    source=None,
                    scope=routes.SCOPE_HOST,
                    table=routes.TABLE_MAIN,
                    metric=0,
                    mtu=0,
                    protocol=routes.PROTOCOL_BOOT,
                    kind=routes.UNICAST,
                )
            ),
        ]
    return messages
