"""``loopback``: brings ``lo`` up in the container, whatever CNI_IFNAME says. No keys of its own."""

from weft.cni import Interface, IPConfiguration, Result
from weft.kernel import addresses, links
from weft.kernel.netlink import RouteSocket
from weft.plugins.plugin import PluginRequest
from weft.plugins.settings import refused

_NAME = "lo"
_MAC = "00:00:00:00:00:00"


class Loopback:
    """``weft.plugins.Plugin`` for ``loopback``."""

    def add(self, request: PluginRequest) -> Result:
        """Bring it up; its addresses, or what the plugins before gave."""
        previous = request.configuration.previous_result
        with RouteSocket.open_in(request.sandbox) as pod:
            index = links.find_index(pod, _NAME)
            pod.execute([links.set_link(index=index, up=True)])
            found = addresses.dump_addresses(pod, index)
        for item in found:
            if not item.interface.is_loopback:
                raise refused(f"loopback interface found with non-loopback address {item.interface.ip}")
        if previous is not None:
            return previous
        first = {item.interface.version: item.interface for item in reversed(found)}
        ips = tuple(IPConfiguration(first[version], interface=0) for version in (4, 6) if version in first)
        return Result((Interface(_NAME, _MAC, sandbox=request.invocation.netns),), ips)

    def delete(self, request: PluginRequest) -> None:
        """Take it down."""
        if request.namespace is None:
            return
        with RouteSocket.open_in(request.namespace) as pod:
            pod.execute([links.set_link(index=links.find_index(pod, _NAME), up=False)])

    def check(self, request: PluginRequest) -> None:
        """It is up."""
        with RouteSocket.open_in(request.sandbox) as pod:
            if not links.get_link(pod, name=_NAME).up:
                raise refused("loopback interface is down")

    def gc(self, request: PluginRequest) -> None:
        """Nothing is kept."""

    def status(self, request: PluginRequest) -> None:
        """Every kernel has one."""
