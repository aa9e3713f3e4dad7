"""``tap``: a TAP device in the container, which a virtual machine there opens.

Keys: ``multiQueue``, ``mtu``, ``mac``, ``owner``, ``group``, ``selinuxContext``, ``bridge``; see
docs/plugins/tap.md.
"""

from dataclasses import dataclass

from weft.cni import CniError, Result
from weft.kernel import links, taps
from weft.kernel.links import Link
from weft.kernel.namespace import NetworkNamespace
from weft.kernel.netlink import NetlinkError, RouteSocket
from weft.plugins import devices, interface, names
from weft.plugins.delegation import Ipam
from weft.plugins.pairs import check_mac, check_mtu, check_name
from weft.plugins.plugin import PluginRequest
from weft.plugins.settings import MacSettings, NetworkSettings, invalid, read, read_arguments, refused
from weft.plugins.undo import Undo

#: User and group IDs; the largest number stands for "none".
_LARGEST_ID = (1 << 32) - 2


class TapSettings(NetworkSettings, frozen=True, kw_only=True):
    """The plugin's keys."""

    multi_queue: bool = False
    mtu: int = 0
    mac: str = ""
    owner: int | None = None
    group: int | None = None
    selinux_context: str = ""
    bridge: str = ""
    runtime_config: MacSettings = MacSettings()


@dataclass(frozen=True, slots=True)
class Plan:
    """A configuration, checked."""

    settings: TapSettings
    mac: str | None


class Tap:
    """``weft.plugins.Plugin`` for ``tap``."""

    def add(self, request: PluginRequest) -> Result:
        """Make the device, address it where there is IPAM."""
        plan, ifname, sandbox = parse(request), request.invocation.ifname, request.sandbox
        settings = plan.settings

        def find(host: RouteSocket, pod: RouteSocket) -> int | None:
            return _find_bridge(pod, settings.bridge) if settings.bridge else None

        def make(host: RouteSocket, pod: RouteSocket, master: int | None, undo: Undo) -> Link:
            name = names.host_interface()
            create(sandbox, name, settings)
            index = devices.rename(pod, name, ifname).index
            undo.on_failure(interface.delete_interface, sandbox, ifname)
            change(pod, index, plan, master)
            return links.get_link(pod, index=index)

        # Until somebody opens the device there is no carrier, and no detection of duplicates to wait for.
        sysctls = [(("net", "ipv4", "conf", ifname, "arp_notify"), 1)]
        return devices.attach(request, settings, find, make, sysctls=sysctls, settle=False)

    def delete(self, request: PluginRequest) -> None:
        """Delete the device, give its addresses back."""
        devices.detach(request, read(TapSettings, request.configuration))

    def check(self, request: PluginRequest) -> None:
        """The device is there, with the addresses and routes of prevResult."""
        devices.verify(request, parse(request).settings, "tun")

    def gc(self, request: PluginRequest) -> None:
        """Give back addresses of attachments that are not valid."""
        Ipam(parse(request).settings.ipam.type, request).gc()

    def status(self, request: PluginRequest) -> None:
        """Whether there are addresses."""
        Ipam(parse(request).settings.ipam.type, request).status()


def parse(request: PluginRequest) -> Plan:
    """Read and check a configuration. Raises CniError, naming key, value and mend."""
    settings = read(TapSettings, request.configuration)
    arguments = read_arguments(request.invocation, "MAC")
    check_mtu("mtu", settings.mtu)
    for key, value in (("owner", settings.owner), ("group", settings.group)):
        if value is not None and not 0 <= value <= _LARGEST_ID:
            raise invalid(key, value, f"give a numerical ID, 0 to {_LARGEST_ID}")
    if "\0" in settings.selinux_context:
        raise invalid("selinuxContext", settings.selinux_context, "give one as system_u:system_r:container_t:s0")
    if settings.bridge:
        check_name("bridge", settings.bridge)
    mac = settings.runtime_config.mac or arguments.get("MAC") or settings.mac
    return Plan(settings, check_mac("mac", mac) if mac else None)


def create(sandbox: NetworkNamespace, name: str, settings: TapSettings) -> None:
    """Make the device in the container. Raises CniError."""
    try:
        with sandbox.entered():
            if settings.selinux_context:
                taps.create_labelled_tap(
                    name,
                    settings.selinux_context,
                    owner=settings.owner,
                    group=settings.group,
                    multi_queue=settings.multi_queue,
                )
            else:
                taps.create_tap(
                    name,
                    owner=settings.owner,
                    group=settings.group,
                    multi_queue=settings.multi_queue,
                    # As the reference does; who opens the device decides it anew.
                    virtio_header=settings.owner is not None and settings.group is not None,
                )
    except OSError as error:
        raise _not_created(settings, error) from None


def change(pod: RouteSocket, index: int, plan: Plan, master: int | None) -> None:
    """Give the device what is configured. Raises CniError, naming what the kernel refuses."""
    settings = plan.settings
    wanted = [
        ("mac", plan.mac, links.set_link(index=index, address=plan.mac)),
        ("mtu", settings.mtu, links.set_link(index=index, mtu=settings.mtu)),
        ("bridge", settings.bridge, links.set_link(index=index, master=master)),
    ]
    wanted = [item for item in wanted if item[1]]
    for (key, value, _), failed in zip(wanted, pod.attempt([item[2] for item in wanted]), strict=True):
        if failed is not None:
            raise refused(f"{key} {value!r}: the kernel refuses that for a tap: {failed.strerror}") from None


def _not_created(settings: TapSettings, error: OSError) -> CniError:
    context = f" with selinuxContext {settings.selinux_context!r}" if settings.selinux_context else ""
    return refused(f"failed to create tap{context}: {error.filename or ''} {error.strerror}".replace(":  ", ": "))


def _find_bridge(pod: RouteSocket, name: str) -> int:
    """The index of the bridge in the container that the device becomes a port of. Raises CniError."""
    try:
        return links.find_index(pod, name)
    except NetlinkError:
        raise refused(f"bridge {name!r}: the container has no device of that name") from None
