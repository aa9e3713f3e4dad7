"""``host-device``: moves a device of the host into the container, and back on DEL.

Keys: ``device``, ``hwaddr``, ``kernelpath``, ``pciBusID``, ``runtimeConfig.deviceID``; see
docs/plugins/host-device.md. In the container the device's alias is the name that it has on the host. Where the
container's namespace ends before the DEL, the kernel moves hardware back by itself, under the name that it had
there; the alias tells its own.
"""

import errno
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from weft.cni import CniError, Interface, Result
from weft.kernel import links
from weft.kernel.attributes import packed_name
from weft.kernel.links import Link
from weft.kernel.namespace import NetworkNamespace
from weft.kernel.netlink import NetlinkError, RouteSocket
from weft.kernel.sysfs import Sysfs, driver, network_device
from weft.plugins import devices, interface
from weft.plugins.delegation import Ipam
from weft.plugins.pairs import check_mac, check_name
from weft.plugins.plugin import PluginRequest
from weft.plugins.settings import NetworkSettings, Settings, read, refused
from weft.plugins.undo import Undo

#: Drivers that leave a device to a program (DPDK).
USERSPACE_DRIVERS = frozenset({"vfio-pci", "uio_pci_generic", "igb_uio"})
#: Bytes of link addresses: Ethernet, EUI-64, InfiniBand.
_ADDRESS_LENGTHS = (6, 8, 20)
#: What the kernel calls a device that it moves back where its name is taken.
_KERNELS_NAME = re.compile(r"dev\d+")


class _Runtime(Settings, frozen=True, kw_only=True):
    device_id: str = ""


class HostDeviceSettings(NetworkSettings, frozen=True, kw_only=True):
    """The plugin's keys."""

    device: str = ""
    hwaddr: str = ""
    kernelpath: str = ""
    pci_bus_id: str = ""
    dpdk_mode: bool = False
    runtime_config: _Runtime = _Runtime()


@dataclass(frozen=True, slots=True)
class Plan:
    """Which device: of that name, else of that link address, else the one that sysfs has in that folder.

    ``passed_through``: a program drives it by itself, there is nothing to move.
    """

    settings: HostDeviceSettings
    address: str
    folder: Path | None
    passed_through: bool


class HostDevice:
    """``weft.plugins.Plugin`` for ``host-device``."""

    def __init__(self, sysfs: Sysfs | None = None) -> None:
        """Hardware is looked up in ``sysfs``, usually the host's own."""
        self._sysfs = sysfs or Sysfs()

    def add(self, request: PluginRequest) -> Result:
        """Move the device in, address it where there is IPAM."""
        plan, sandbox, ifname = parse(request, self._sysfs), request.sandbox, request.invocation.ifname
        if plan.passed_through:
            return _pass_through(request, plan.settings)
        with NetworkNamespace.current() as home:

            def look(host: RouteSocket, pod: RouteSocket) -> Link:
                return find(host, plan)

            def make(host: RouteSocket, pod: RouteSocket, found: Link, undo: Undo) -> Link:
                link = restored(host, found, plan, ifname)
                undo.on_failure(_take_back, home, host, pod, link, ifname)
                message = links.set_link(
                    index=link.index, namespace_fd=sandbox.fd, new_name=ifname, alias=link.name
                )
                (failed,) = host.attempt([message])
                if failed is not None:
                    raise refused(f"failed to move {link.name} into the container: {failed}") from None
                return links.get_link(pod, name=ifname)

            return devices.attach(request, plan.settings, look, make)

    def delete(self, request: PluginRequest) -> None:
        """Move the device back under its own name, give its addresses back."""
        settings, ifname = read(HostDeviceSettings, request.configuration), request.invocation.ifname
        plan = None
        with suppress(CniError):  # the hardware may be gone; what is in the container is known by its name there
            plan = parse(request, self._sysfs)
        if plan is None or not plan.passed_through:
            with RouteSocket() as host, NetworkNamespace.current() as home:
                moved = request.namespace and move_out(home, host, request.namespace, ifname)
                if not moved and plan is not None:
                    with suppress(CniError):
                        restored(host, find(host, plan), plan, ifname)
        Ipam(settings.ipam.type, request).delete()

    def check(self, request: PluginRequest) -> None:
        """The device is there, with the addresses and routes of prevResult."""
        plan = parse(request, self._sysfs)
        if plan.passed_through:
            Ipam(plan.settings.ipam.type, request).check()
        else:
            devices.verify(request, plan.settings, None)

    def gc(self, request: PluginRequest) -> None:
        """Give back addresses of attachments that are not valid."""
        Ipam(read(HostDeviceSettings, request.configuration).ipam.type, request).gc()

    def status(self, request: PluginRequest) -> None:
        """Whether there are addresses. That the device is in use is no fault of the network."""
        Ipam(read(HostDeviceSettings, request.configuration).ipam.type, request).status()


def parse(request: PluginRequest, sysfs: Sysfs) -> Plan:
    """Read and check a configuration. What the runtime says of hardware goes before it. Raises CniError."""
    settings = read(HostDeviceSettings, request.configuration)
    given, pci, auxiliary = settings.runtime_config.device_id, settings.pci_bus_id, None
    if given:
        auxiliary = None if sysfs.pci_device(given) else sysfs.auxiliary_device(given)
        if auxiliary is None and sysfs.pci_device(given) is None:
            raise refused(f"runtimeConfig.deviceID {given!r}: there is no PCI or auxiliary device of that name")
        pci = "" if auxiliary else given
    if not (settings.device or settings.hwaddr or settings.kernelpath or pci or auxiliary):
        raise refused("nothing says which device: give one of device, hwaddr, kernelpath, pciBusID")
    passed_through, folder = settings.dpdk_mode, auxiliary
    if pci:
        folder = sysfs.pci_device(pci)
        if folder is None:
            raise refused(f"pciBusID {pci!r}: there is no PCI device of that address, such as 0000:00:1f.6")
        passed_through = _driver(pci, folder) in USERSPACE_DRIVERS
    if settings.kernelpath:
        try:
            folder = sysfs.kernel_device(settings.kernelpath)
        except ValueError as error:
            raise refused(f"kernelpath {error}") from None
    if settings.device:
        check_name("device", settings.device)
    address = check_mac("hwaddr", settings.hwaddr, _ADDRESS_LENGTHS) if settings.hwaddr else ""
    return Plan(settings, address, folder, passed_through)


def find(host: RouteSocket, plan: Plan) -> Link:
    """The device, on the host. Raises CniError where it is not there."""
    name = plan.settings.device
    if not name and plan.address:
        return _first(host, f"with the link address {plan.address}", address=plan.address)
    if not name and plan.folder is not None:
        try:
            name = network_device(plan.folder)
        except OSError as error:
            raise refused(f"{plan.folder} has no network device: {error.strerror}") from None
    try:
        return links.get_link(host, name=name)
    except NetlinkError as error:
        if error.errno != errno.ENODEV:
            raise
    # It may have come back from a container that ended, and not have its name yet.
    return _first(host, f"named {name}", alias=name)


def restored(host: RouteSocket, link: Link, plan: Plan, ifname: str) -> Link:
    """The device, with its own name where it came back from a container by itself and has not.

    It is one that is down, whose alias can be a name and is no other device's: the name that is configured, or any
    where it is called as it was in the container, or as the kernel calls one whose name is taken.
    """
    strange = link.alias == plan.settings.device or link.name == ifname or _KERNELS_NAME.fullmatch(link.name)
    if link.up or not strange or link.alias == link.name or not _is_name(link.alias):
        return link
    if interface.exists(host, link.alias):
        return link
    host.execute([links.set_link(index=link.index, new_name=link.alias, alias="")])
    return links.get_link(host, index=link.index)


def move_out(home: NetworkNamespace, host: RouteSocket, sandbox: NetworkNamespace, ifname: str) -> bool:
    """Move the container's device back under the name that its alias tells; whether there was one, down there.

    Raises CniError, the device where it was, where there is no alias or the host has a device of that name.
    """
    with RouteSocket.open_in(sandbox) as pod:
        try:
            link = links.get_link(pod, name=ifname)
        except NetlinkError as error:
            if error.errno != errno.ENODEV:
                raise
            return False
        if not _is_name(link.alias):
            raise refused(
                f"{ifname} in the container has no alias that tells its name on the host (it is {link.alias!r}): "
                "it was not put there by host-device; set the alias, or delete it"
            )
        if interface.exists(host, link.alias):
            raise refused(f"failed to move {ifname} back: the host has another device {link.alias}; rename that")
        _send_back(home, pod, link, link.alias, "")
    return True


def _send_back(home: NetworkNamespace, pod: RouteSocket, link: Link, name: str, alias: str) -> None:
    """Rename a device and move it, by one send: whoever watches the host's devices sees it arrive as it stays."""
    down, renamed, moved = pod.attempt(
        [
            links.set_link(index=link.index, up=False),
            links.set_link(index=link.index, new_name=name),
            links.set_link(index=link.index, namespace_fd=home.fd, new_name=name, alias=alias),
        ]
    )
    # The container may have another device of that name; the kernel then renames on the way.
    if moved is None:
        return
    pod.attempt([links.set_link(index=link.index, new_name=link.name)])
    pod.attempt([links.set_link(index=link.index, up=link.up)])
    raise refused(f"failed to move {link.name} back as {name}: {down or renamed or moved}")


def _take_back(home: NetworkNamespace, host: RouteSocket, pod: RouteSocket, link: Link, ifname: str) -> None:
    """Put the host's device back as it was, however far it came."""
    for name in (ifname, link.name):
        with suppress(NetlinkError):
            moved = links.get_link(pod, name=name)
            if moved.address == link.address:
                _send_back(home, pod, moved, link.name, link.alias)
    if link.up:
        host.attempt([links.set_link(name=link.name, up=True)])


def _pass_through(request: PluginRequest, settings: HostDeviceSettings) -> Result:
    """The result for a device that the kernel's network does not know: addresses for whoever drives it."""
    call, ipam = request.invocation, Ipam(settings.ipam.type, request)
    given = ipam.add() if ipam.named else Result()
    return devices.result(Interface(call.ifname, "", sandbox=call.netns), settings, given)


def _driver(address: str, folder: Path) -> str:
    try:
        return driver(folder)
    except OSError:
        raise refused(f"pciBusID {address!r}: the device is bound to no driver") from None


def _first(host: RouteSocket, what: str, *, address: str = "", alias: str = "") -> Link:
    for link in links.dump_links(host):
        if (address and link.address == address) or (alias and link.alias == alias):
            return link
    raise refused(f"failed to find host device: there is none {what}")


def _is_name(text: str) -> bool:
    try:
        packed_name(text)
    except ValueError:
        return False
    return True
