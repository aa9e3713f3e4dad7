"""``vrf``: puts an interface of the container into a VRF, a device whose ports use the routes of one table only.

The VRF is made where the container has none of that name, and goes with its last port. Keys: ``vrfname``,
``table``; see docs/plugins/vrf.md. Source: https://docs.kernel.org/networking/vrf.html
"""

import errno
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Interface, IPv6Interface

from weft.cni import IPConfiguration, Result
from weft.kernel import addresses, kinds, links, routes
from weft.kernel.links import Link
from weft.kernel.netlink import NetlinkError, RouteSocket
from weft.kernel.routes import Route
from weft.plugins import interface
from weft.plugins.devices import not_created
from weft.plugins.pairs import check_name
from weft.plugins.plugin import PluginRequest
from weft.plugins.settings import Settings, invalid, read, refused
from weft.plugins.undo import Undo

_LARGEST_TABLE = (1 << 32) - 1
#: The kernel's own: default, main, local.
_RESERVED_TABLES = (253, 254, 255)


class VrfSettings(Settings, frozen=True, kw_only=True):
    """The plugin's keys. Table 0 is the first free one."""

    vrfname: str = ""
    table: int = 0


@dataclass(frozen=True, slots=True)
class Held:
    """What an interface loses when it changes its master: addresses of IPv6, and routes that lead on."""

    addresses: tuple[IPv4Interface | IPv6Interface, ...]
    routes: tuple[Route, ...]


class Vrf:
    """``weft.plugins.Plugin`` for ``vrf``."""

    def add(self, request: PluginRequest) -> Result:
        """Ensure the VRF, put the interface into it; the result is that of the plugins before."""
        settings, result, sandbox = parse(request), request.previous_result, request.sandbox
        with sandbox.locked(), RouteSocket.open_in(sandbox) as pod, Undo() as undo:
            link = _port(pod, request)
            vrf = find_vrf(pod, settings.vrfname)
            if vrf is None:
                vrf = _create(pod, settings, undo)
            elif settings.table not in (0, vrf.table):
                raise refused(f"VRF {vrf.name} already exist with different routing table {vrf.table}")
            enslave(pod, link, vrf.index, vrf.table, undo)
        return result

    def delete(self, request: PluginRequest) -> None:
        """Take the interface out; delete the VRF that has no other. What is gone is no error."""
        settings, ifname = parse(request), request.invocation.ifname
        if request.namespace is None:
            return
        with request.namespace.locked(), RouteSocket.open_in(request.namespace) as pod:
            vrf = find_vrf(pod, settings.vrfname)
            if vrf is None:
                return
            ports = [link for link in links.dump_links(pod) if link.master == vrf.index]
            own = [links.set_link(index=link.index, master=0) for link in ports if link.name == ifname]
            last = [links.delete_link(vrf.index)] if len(own) == len(ports) else []
            for failed in pod.attempt([*own, *last]):
                if failed is not None and failed.errno != errno.ENODEV:
                    raise failed

    def check(self, request: PluginRequest) -> None:
        """The interface is in the VRF, which has the configuration's table."""
        settings, ifname = parse(request), request.invocation.ifname
        _ = request.previous_result
        with RouteSocket.open_in(request.sandbox) as pod:
            vrf = find_vrf(pod, settings.vrfname)
            if vrf is None:
                raise refused(f"VRF {settings.vrfname} not found")
            if settings.table not in (0, vrf.table):
                raise refused(f"VRF {vrf.name} has table {vrf.table}, not {settings.table}")
            if not any(link.name == ifname and link.master == vrf.index for link in links.dump_links(pod)):
                raise refused(f"failed to find {ifname} associated to vrf {vrf.name}")

    def gc(self, request: PluginRequest) -> None:
        """Nothing is kept outside of the container."""

    def status(self, request: PluginRequest) -> None:
        """The configuration can be used."""
        parse(request)


def parse(request: PluginRequest) -> VrfSettings:
    """Read and check a configuration. Raises CniError."""
    settings = read(VrfSettings, request.configuration)
    if not settings.vrfname:
        raise refused("configuration is expected to have a valid vrf name: give vrfname")
    check_name("vrfname", settings.vrfname)
    if not 0 <= settings.table <= _LARGEST_TABLE:
        raise invalid("table", settings.table, f"give 1 to {_LARGEST_TABLE}, or 0 for a free one")
    return settings


def find_vrf(pod: RouteSocket, name: str) -> Link | None:
    """The VRF of that name. Raises CniError where the name is another device's."""
    try:
        link = links.get_link(pod, name=name)
    except NetlinkError as error:
        if error.errno != errno.ENODEV:
            raise
        return None
    if link.kind != "vrf":
        raise refused(f"vrfname {name}: the device of that name is not a VRF, but {link.kind or 'hardware'}")
    return link


def free_table(present: Sequence[Link]) -> int:
    """The first table that none of these devices, if it is a VRF, has."""
    taken = {link.table for link in present if link.kind == "vrf"}
    taken.update(_RESERVED_TABLES)
    return next(number for number in range(1, len(taken) + 2) if number not in taken)


def enslave(pod: RouteSocket, link: Link, master: int, table: int, undo: Undo) -> None:
    """Put an interface into a VRF with its addresses, and its routes into the VRF's table. Raises NetlinkError.

    For that the kernel takes the interface down and up; IPv6 addresses and the routes that lead on are lost then.
    """
    held = _held(pod, link.index)
    undo.on_failure(_release, pod, link.index, held)
    pod.execute([links.set_link(index=link.index, master=master)])
    lost = _readdress(pod, link.index, held)
    interface.await_addresses(pod, link.index, link.name, [IPConfiguration(item) for item in lost])
    pod.execute([routes.put_route(replace(route, table=table)) for route in held.routes])


def _held(pod: RouteSocket, index: int) -> Held:
    own = [
        item.interface
        for item in addresses.dump_addresses(pod, index)
        if item.interface.version == 6 and item.scope == addresses.SCOPE_GLOBAL
    ]
    ways = [route for route in routes.dump_routes(pod, device=index) if route.scope == routes.SCOPE_GLOBAL]
    # Those on the link come first: gateways are reached by them.
    return Held(tuple(own), tuple(sorted(ways, key=lambda route: route.gateway is not None)))


def _readdress(pod: RouteSocket, index: int, held: Held) -> list[IPv4Interface | IPv6Interface]:
    """Give back the addresses that are gone; which they were. Nobody else can have taken them meanwhile."""
    present = {item.interface for item in addresses.dump_addresses(pod, index)}
    lost = [item for item in held.addresses if item not in present]
    pod.execute([addresses.add_address(index, item, detect_duplicates=False) for item in lost])
    return lost


def _release(pod: RouteSocket, index: int, held: Held) -> None:
    pod.attempt([links.set_link(index=index, master=0)])
    _readdress(pod, index, held)
    pod.attempt([routes.put_route(route) for route in held.routes])


def _create(pod: RouteSocket, settings: VrfSettings, undo: Undo) -> Link:
    table = settings.table or free_table(links.dump_links(pod, "vrf"))
    (failed,) = pod.attempt([kinds.create_vrf(settings.vrfname, table=table)])
    if failed is not None:
        raise not_created("vrf", settings.vrfname, failed)
    link = links.get_link(pod, name=settings.vrfname)
    undo.on_failure(pod.attempt, [links.delete_link(link.index)])
    return link


def _port(pod: RouteSocket, request: PluginRequest) -> Link:
    """The interface, which must not have a master. Raises CniError."""
    ifname = request.invocation.ifname
    try:
        link = links.get_link(pod, name=ifname)
    except NetlinkError:
        raise refused(f"could not get link by name {ifname}: no such interface in the container") from None
    if link.master:
        name = next((item.name for item in links.dump_links(pod) if item.index == link.master), str(link.master))
        raise refused(f"interface {ifname} has already a master set: {name}")
    return link
