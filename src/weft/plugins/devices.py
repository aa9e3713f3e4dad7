"""What the plugins share whose attachment is one device in the container: made there, addressed, taken away."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from weft.cni import CniError, Interface, Result
from weft.kernel import links
from weft.kernel.links import Link
from weft.kernel.netlink import NetlinkError, RouteSocket
from weft.plugins import interface
from weft.plugins.delegation import Ipam
from weft.plugins.plugin import PluginRequest
from weft.plugins.settings import NetworkSettings, refused
from weft.plugins.undo import Undo

Found = TypeVar("Found")
#: Finds what the device is made of or upon; the sockets are the host's and the container's. Changes nothing.
Finder = Callable[[RouteSocket, RouteSocket], Found]
#: Puts a device named CNI_IFNAME into the container, down; leaves with the Undo how that is taken back.
Maker = Callable[[RouteSocket, RouteSocket, Found, Undo], Link]


def attach(
    request: PluginRequest,
    settings: NetworkSettings,
    find: Finder[Found],
    make: Maker[Found],
    *,
    previous: Result | None = None,
    addressed: bool = False,
    sysctls: Sequence[interface.Sysctl] = (),
    settle: bool = True,
) -> Result:
    """Find, make the device, ask IPAM, address it, bring it up; the result. Raises CniError, NetlinkError.

    ``previous`` are addresses in place of IPAM's. Without either the device has none, which ``addressed``
    refuses. ``sysctls`` are for a device with addresses; ``settle`` is that of ``interface.configure``.
    IPAM plugins that need no device are asked before there is one.
    """
    call, sandbox = request.invocation, request.sandbox
    ipam = Ipam(settings.ipam.type, request)
    if addressed and previous is None and not ipam.named:
        raise refused(f"{request.configuration.type} needs ipam.type: the plugin that gives the addresses")
    ipam.require()
    with RouteSocket() as host, RouteSocket.open_in(sandbox) as pod, Undo() as undo:
        if interface.exists(pod, call.ifname):
            raise refused(f"CNI_IFNAME {call.ifname}: the container has an interface of that name already")
        found = find(host, pod)
        given = previous
        if given is None and ipam.early:
            given = _addresses(ipam, undo)
        link = make(host, pod, found, undo)
        if given is None and ipam.named:
            given = _addresses(ipam, undo)
        if given is None:
            pod.execute(interface.up(pod, call.ifname))
        else:
            interface.configure(sandbox, pod, call.ifname, given, optional=sysctls, settle=settle)
    made = Interface(call.ifname, link.address, sandbox=call.netns)
    return result(made, settings, given or Result())


def result(made: Interface, settings: NetworkSettings, given: Result) -> Result:
    """What ADD answers: the device, on it the addresses that were given, routes, DNS."""
    ips = interface.assigned(given, 0)
    return replace(given, interfaces=(made,), ips=ips, dns=settings.dns.over(given.dns))


def detach(request: PluginRequest, settings: NetworkSettings) -> None:
    """Give the addresses back, then delete the device: a DHCP lease is given back through it.

    What is gone is no error.
    """
    Ipam(settings.ipam.type, request).delete()
    interface.delete_interface(request.namespace, request.invocation.ifname)


def verify(request: PluginRequest, settings: NetworkSettings, kind: str | None) -> Link:
    """The device, found as ADD left it: of this kind, with the addresses and routes of prevResult.

    Raises CniError.
    """
    call = request.invocation
    Ipam(settings.ipam.type, request).check()
    told = request.previous_result
    expected = interface.find_interface(told, call.ifname, call.netns)
    with RouteSocket.open_in(request.sandbox) as pod:
        return interface.verify(pod, expected, told, kind)


def announcing(ifname: str) -> tuple[interface.Sysctl, ...]:
    """Sysctls of a device on a segment with others: it tells its addresses to them when it comes up."""
    return (
        (("net", "ipv4", "conf", ifname, "arp_notify"), 1),
        (("net", "ipv6", "conf", ifname, "ndisc_notify"), 1),
    )


def rename(pod: RouteSocket, name: str, ifname: str) -> Link:
    """Give a device that was just made in the container its final name. Raises CniError, the device deleted.

    Devices are made under a name of their own: the kernel looks the wanted one up on the host first, too.
    """
    index = links.find_index(pod, name)
    (failed,) = pod.attempt([links.set_link(index=index, new_name=ifname)])
    if failed is not None:
        pod.attempt([links.delete_link(index)])
        raise refused(f"failed to name the device {ifname}: {failed}") from None
    return links.get_link(pod, index=index)


def not_created(kind: str, ifname: str, error: NetlinkError, module: str = "") -> CniError:
    """What to say where the kernel refuses to make a device. ``module`` has the kind, where it is not its name."""
    mend = ""
    if error.unknown_kind:
        mend = f"; this kernel has no {kind} devices: load the module {module or kind} or use another plugin"
    said = f" ({error.explanation.rstrip('.')})" if error.explanation else ""
    return refused(f"failed to create {kind} {ifname}: {error.strerror}{said}{mend}")


def _addresses(ipam: Ipam, undo: Undo) -> Result:
    given = ipam.add()
    undo.on_failure(ipam.delete)
    interface.check_routes(given)
    return given
