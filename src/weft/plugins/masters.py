"""Devices that sit on another one, their master: on the host, or in the container with ``linkInContainer``."""

import errno
from collections.abc import Callable
from dataclasses import dataclass

from weft.cni import CniError, ErrorCode
from weft.kernel import links, routes
from weft.kernel.links import Link
from weft.kernel.netlink import Message, NetlinkError, RouteSocket
from weft.plugins import devices, interface, names
from weft.plugins.pairs import check_mtu, check_name
from weft.plugins.plugin import PluginRequest
from weft.plugins.settings import NetworkSettings, invalid, refused
from weft.plugins.undo import Undo

#: The message that makes a device: its name, the master's index, the descriptor of the container's namespace.
Create = Callable[[str, int, int], Message]


class UponSettings(NetworkSettings, frozen=True, kw_only=True):
    """The keys of every plugin whose device has a master."""

    master: str = ""
    mtu: int = 0
    link_in_container: bool = False


def check(settings: UponSettings) -> None:
    """Raise CniError for what is wrong whatever the master is."""
    if settings.master:
        check_name("master", settings.master)
    check_mtu("mtu", settings.mtu)


def find(home: RouteSocket, name: str) -> Link:
    """The master; without a name, the device of the default route. Raises CniError."""
    if not name:
        return _default(home)
    try:
        return links.get_link(home, name=name)
    except NetlinkError as error:
        if error.errno != errno.ENODEV:
            raise
        raise refused(f"master {name!r}: there is no device of that name") from None


@dataclass(frozen=True, slots=True)
class Upon:
    """A device of this kind on a master. ``module`` has the kind, ``larger``: its MTU may exceed the master's."""

    request: PluginRequest
    settings: UponSettings
    kind: str
    create: Create
    module: str = ""
    larger: bool = False

    def find(self, host: RouteSocket, pod: RouteSocket) -> Link:
        """The master. Raises CniError, also for an MTU that it does not allow."""
        master = find(self._home(host, pod), self.settings.master)
        mtu = self.settings.mtu
        if mtu > master.mtu and not self.larger:
            raise invalid("mtu", mtu, f"give at most {master.mtu}, the MTU of master {master.name}, or 0 for that")
        return master

    def make(self, host: RouteSocket, pod: RouteSocket, master: Link, undo: Undo) -> Link:
        """Make the device. Raises CniError."""
        sandbox, ifname, name = self.request.sandbox, self.request.invocation.ifname, names.host_interface()
        (failed,) = self._home(host, pod).attempt([self.create(name, master.index, sandbox.fd)])
        if failed is not None:
            raise devices.not_created(self.kind, f"{ifname} on {master.name}", failed, self.module) from None
        link = devices.rename(pod, name, ifname)
        undo.on_failure(interface.delete_interface, sandbox, ifname)
        return link

    def _home(self, host: RouteSocket, pod: RouteSocket) -> RouteSocket:
        return pod if self.settings.link_in_container else host


def verify(request: PluginRequest, settings: UponSettings, kind: str) -> Link:
    """As ``devices.verify``; and the master that the configuration names is there. Raises CniError."""
    if settings.master:
        with RouteSocket.open_in(request.sandbox) if settings.link_in_container else RouteSocket() as home:
            find(home, settings.master)
    return devices.verify(request, settings, kind)


def require_available(settings: UponSettings) -> None:
    """Raise CniError 50 where the host has no such master now; one in a container can not be known."""
    if settings.link_in_container:
        return
    with RouteSocket() as host:
        try:
            find(host, settings.master)
        except CniError as error:
            raise CniError(ErrorCode.NOT_AVAILABLE, error.message) from None


def _default(home: RouteSocket) -> Link:
    for route in routes.dump_routes(home):
        if route.destination.prefixlen == 0 and route.kind == routes.UNICAST and route.device:
            return links.get_link(home, index=route.device)
    raise refused("master is missing, and there is no default route whose device could be it; name the device")
