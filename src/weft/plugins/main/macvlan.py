"""``macvlan``: a device with a MAC of its own on a device of the host.

Keys: ``master``, ``mode``, ``mtu``, ``mac``, ``linkInContainer``, ``bcqueuelen``; see docs/plugins/macvlan.md.
"""

from dataclasses import dataclass

from weft.cni import Result
from weft.kernel import kinds
from weft.kernel.netlink import Message
from weft.plugins import devices, masters
from weft.plugins.delegation import Ipam
from weft.plugins.masters import UponSettings
from weft.plugins.pairs import check_mac
from weft.plugins.plugin import PluginRequest
from weft.plugins.settings import MacSettings, chosen, invalid, read, read_arguments, refused

_LARGEST_QUEUE = (1 << 32) - 1


class MacvlanSettings(UponSettings, frozen=True, kw_only=True):
    """The plugin's keys."""

    mode: str = "bridge"
    mac: str = ""
    bcqueuelen: int = 0
    runtime_config: MacSettings = MacSettings()


@dataclass(frozen=True, slots=True)
class Plan:
    """A configuration, checked."""

    settings: MacvlanSettings
    mode: int
    mac: str | None

    def creation(self, name: str, lower: int, namespace_fd: int) -> Message:
        """What makes the device."""
        return kinds.create_macvlan(
            name,
            lower=lower,
            mode=self.mode,
            mtu=self.settings.mtu,
            namespace_fd=namespace_fd,
            address=self.mac,
            broadcast_queue_length=self.settings.bcqueuelen,
        )


class Macvlan:
    """``weft.plugins.Plugin`` for ``macvlan``."""

    def add(self, request: PluginRequest) -> Result:
        """Make the device, address it where there is IPAM."""
        plan, ifname = parse(request), request.invocation.ifname
        upon = masters.Upon(request, plan.settings, "macvlan", plan.creation)
        return devices.attach(request, plan.settings, upon.find, upon.make, sysctls=devices.announcing(ifname))

    def delete(self, request: PluginRequest) -> None:
        """Delete the device, give its addresses back."""
        devices.detach(request, read(MacvlanSettings, request.configuration))

    def check(self, request: PluginRequest) -> None:
        """The device is there, of the right mode, with the addresses and routes of prevResult."""
        plan = parse(request)
        link = masters.verify(request, plan.settings, "macvlan")
        if link.mode != plan.mode:
            raise refused(f"macvlan {link.name} has mode {link.mode}, not {plan.mode} ({plan.settings.mode})")

    def gc(self, request: PluginRequest) -> None:
        """Give back addresses of attachments that are not valid."""
        Ipam(parse(request).settings.ipam.type, request).gc()

    def status(self, request: PluginRequest) -> None:
        """Whether there are a master and addresses."""
        settings = parse(request).settings
        masters.require_available(settings)
        Ipam(settings.ipam.type, request).status()


def parse(request: PluginRequest) -> Plan:
    """Read and check a configuration. Raises CniError, naming key, value and mend."""
    settings = read(MacvlanSettings, request.configuration)
    arguments = read_arguments(request.invocation, "MAC")
    masters.check(settings)
    mode = chosen("mode", settings.mode, kinds.MACVLAN_MODES, "bridge")
    if not 0 <= settings.bcqueuelen <= _LARGEST_QUEUE:
        raise invalid("bcqueuelen", settings.bcqueuelen, f"give 0 (the kernel's) to {_LARGEST_QUEUE} packets")
    mac = settings.runtime_config.mac or arguments.get("MAC") or settings.mac
    return Plan(settings, mode, check_mac("mac", mac) if mac else None)
