"""``dummy``: a device that leads nowhere, to hold an address. Needs ``ipam``; see docs/plugins/dummy.md."""

from weft.cni import Result
from weft.kernel import kinds, links
from weft.kernel.links import Link
from weft.kernel.netlink import RouteSocket
from weft.plugins import devices, interface
from weft.plugins.delegation import Ipam
from weft.plugins.plugin import PluginRequest
from weft.plugins.settings import NetworkSettings, read, refused
from weft.plugins.undo import Undo


class Dummy:
    """``weft.plugins.Plugin`` for ``dummy``."""

    def add(self, request: PluginRequest) -> Result:
        """Make the device, address it."""
        ifname, sandbox = request.invocation.ifname, request.sandbox

        def find(host: RouteSocket, pod: RouteSocket) -> None:
            """It is made of nothing."""

        def make(host: RouteSocket, pod: RouteSocket, found: None, undo: Undo) -> Link:
            (failed,) = pod.attempt([kinds.create_dummy(ifname)])
            if failed is not None:
                raise devices.not_created("dummy", ifname, failed) from None
            undo.on_failure(interface.delete_interface, sandbox, ifname)
            return links.get_link(pod, name=ifname)

        return devices.attach(request, parse(request), find, make, addressed=True)

    def delete(self, request: PluginRequest) -> None:
        """Delete the device, give its addresses back."""
        devices.detach(request, parse(request))

    def check(self, request: PluginRequest) -> None:
        """The device is there and up, with the addresses and routes of prevResult."""
        settings = parse(request)
        if not settings.ipam.type:
            raise refused("dummy needs ipam.type: the plugin that gives the addresses")
        link = devices.verify(request, settings, "dummy")
        if not link.up:
            raise refused(f"interface {link.name} is down")

    def gc(self, request: PluginRequest) -> None:
        """Give back addresses of attachments that are not valid."""
        Ipam(parse(request).ipam.type, request).gc()

    def status(self, request: PluginRequest) -> None:
        """Whether there are addresses."""
        Ipam(parse(request).ipam.type, request).status()


def parse(request: PluginRequest) -> NetworkSettings:
    """Read a configuration. Raises CniError."""
    return read(NetworkSettings, request.configuration)
