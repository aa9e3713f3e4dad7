"""``ipvlan``: addresses of its own on a device of the host, behind that device's MAC.

Keys: ``master``, ``mode``, ``mtu``, ``linkInContainer``; see docs/plugins/ipvlan.md. Chained behind another
plugin it takes that one's interface as master, and without ``ipam`` its addresses.
"""

from dataclasses import dataclass

import msgspec

from weft.cni import Result
from weft.kernel import kinds
from weft.kernel.netlink import Message
from weft.plugins import devices, masters
from weft.plugins.delegation import Ipam
from weft.plugins.masters import UponSettings
from weft.plugins.plugin import PluginRequest
from weft.plugins.settings import chosen, read, refused


class IpvlanSettings(UponSettings, frozen=True, kw_only=True):
    """The plugin's keys."""

    mode: str = "l2"


@dataclass(frozen=True, slots=True)
class Plan:
    """A configuration, checked. ``previous`` are addresses of the plugin before, to be used as IPAM's."""

    settings: IpvlanSettings
    mode: int
    previous: Result | None = None

    def creation(self, name: str, lower: int, namespace_fd: int) -> Message:
        """What makes the device."""
        return kinds.create_ipvlan(
            name, lower=lower, mode=self.mode, mtu=self.settings.mtu, namespace_fd=namespace_fd
        )


class Ipvlan:
    """``weft.plugins.Plugin`` for ``ipvlan``."""

    def add(self, request: PluginRequest) -> Result:
        """Make the device, address it."""
        plan, ifname = chained(parse(request), request.configuration.previous_result), request.invocation.ifname
        upon = masters.Upon(request, plan.settings, "ipvlan", plan.creation, larger=True)
        return devices.attach(
            request,
            plan.settings,
            upon.find,
            upon.make,
            previous=plan.previous,
            addressed=True,
            sysctls=devices.announcing(ifname),
        )

    def delete(self, request: PluginRequest) -> None:
        """Delete the device, give its addresses back."""
        devices.detach(request, read(IpvlanSettings, request.configuration))

    def check(self, request: PluginRequest) -> None:
        """The device is there, of the right mode, with the addresses and routes of prevResult."""
        plan = parse(request)
        link = masters.verify(request, plan.settings, "ipvlan")
        if link.mode != plan.mode:
            raise refused(f"ipvlan {link.name} has mode {link.mode}, not {plan.mode} ({plan.settings.mode})")

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
    settings = read(IpvlanSettings, request.configuration)
    masters.check(settings)
    return Plan(settings, chosen("mode", settings.mode, kinds.IPVLAN_MODES, "l2"))


def chained(plan: Plan, previous: Result | None) -> Plan:
    """With what the plugin before left: a master where none is named, addresses where there is no IPAM.

    Raises CniError where it left another number of interfaces than one, and a master is wanted.
    """
    settings = plan.settings
    if previous is None:
        return plan
    if not settings.master:
        found = [item.name for item in previous.interfaces]
        if len(found) != 1 or not found[0]:
            raise refused(
                f"master is missing, and prevResult has not one interface that could be it, but {len(found)}: "
                f"{', '.join(found) or 'none'}; name the master"
            )
        settings = msgspec.structs.replace(settings, master=found[0])
    usable = previous.ips and not settings.ipam.type
    return Plan(settings, plan.mode, previous if usable else None)
