"""``vlan``: an 802.1Q VLAN of a device of the host.

Keys: ``master``, ``vlanId``, ``mtu``, ``linkInContainer``; see docs/plugins/vlan.md.
"""

from dataclasses import dataclass

from weft.cni import Result
from weft.kernel import kinds
from weft.kernel.netlink import Message
from weft.plugins import devices, masters
from weft.plugins.delegation import Ipam
from weft.plugins.masters import UponSettings
from weft.plugins.plugin import PluginRequest
from weft.plugins.settings import invalid, read, refused

LARGEST_VLAN = 4094
#: The kernel module that has devices of this kind.
_MODULE = "8021q"


class VlanSettings(UponSettings, frozen=True, kw_only=True):
    """The plugin's keys."""

    vlan_id: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """A configuration, checked."""

    settings: VlanSettings

    def creation(self, name: str, lower: int, namespace_fd: int) -> Message:
        """What makes the device."""
        settings = self.settings
        return kinds.create_vlan(
            name, lower=lower, vlan_id=settings.vlan_id, mtu=settings.mtu, namespace_fd=namespace_fd
        )


class Vlan:
    """``weft.plugins.Plugin`` for ``vlan``."""

    def add(self, request: PluginRequest) -> Result:
        """Make the device, address it."""
        plan = parse(request)
        upon = masters.Upon(request, plan.settings, "vlan", plan.creation, module=_MODULE)
        return devices.attach(request, plan.settings, upon.find, upon.make, addressed=True)

    def delete(self, request: PluginRequest) -> None:
        """Delete the device, give its addresses back."""
        devices.detach(request, read(VlanSettings, request.configuration))

    def check(self, request: PluginRequest) -> None:
        """The device is there, of the right VLAN and MTU, with the addresses and routes of prevResult."""
        settings = parse(request).settings
        link = masters.verify(request, settings, "vlan")
        if link.vlan_id != settings.vlan_id:
            raise refused(f"vlan {link.name} is of VLAN {link.vlan_id}, not {settings.vlan_id}")
        if settings.mtu and link.mtu != settings.mtu:
            raise refused(f"vlan {link.name} has MTU {link.mtu}, not {settings.mtu}")

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
    settings = read(VlanSettings, request.configuration)
    if not settings.master:
        raise refused("master is missing: name the device whose VLAN this is")
    masters.check(settings)
    if not 0 <= settings.vlan_id <= LARGEST_VLAN:
        raise invalid("vlanId", settings.vlan_id, f"give 0 to {LARGEST_VLAN}")
    return Plan(settings)
