"""An interface in a sandbox: given what IPAM gave, and checked against it later."""

import contextlib
import errno
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_network

from weft.cni import CniError, ErrorCode, Interface, IPConfiguration, Result, Route
from weft.kernel import addresses, links, routes, sysctl
from weft.kernel.links import Link
from weft.kernel.namespace import NetworkNamespace
from weft.kernel.netlink import Message, NetlinkError, RouteSocket
from weft.kernel.routes import Route as KernelRoute
from weft.plugins.settings import refused

#: Seconds for duplicate address detection to end, and between two looks at it.
_SETTLE_TIMEOUT = 5.0
_SETTLE_INTERVAL = 0.02

Sysctl = tuple[tuple[str, ...], int]


def configure(
    namespace: NetworkNamespace,
    pod: RouteSocket,
    ifname: str,
    given: Result,
    *,
    optional: Sequence[Sysctl] = (),
    detect_duplicates: bool = True,
    settle: bool = True,
) -> int:
    """Give an interface its addresses, bring it up, add the routes; the interface's index. Raises NetlinkError.

    ``pod`` is a socket of ``namespace``. ``optional`` sysctls are written first, where the kernel has them. IPv6
    is switched on for an IPv6 address. A route without a gateway takes the first of its family that IPAM gave.
    With ``detect_duplicates`` an address of IPv6 is usable when nobody else has it, which this waits for,
    unless ``settle`` is false.
    """
    index = links.find_index(pod, ifname)
    with_ipv6 = any(item.address.version == 6 for item in given.ips)
    if optional or with_ipv6:
        with namespace.entered():
            write_optional(optional)
            if with_ipv6:
                _switch_ipv6_on(ifname)
    pod.execute(
        [
            *(
                addresses.add_address(index, item.address, detect_duplicates=detect_duplicates)
                for item in given.ips
            ),
            links.set_link(index=index, up=True),
        ]
    )
    if with_ipv6 and detect_duplicates and settle:
        await_addresses(pod, index, ifname, given.ips)
    pod.execute([routes.insert_route(item) for item in route_plan(index, given)])
    return index


def route_plan(index: int, given: Result) -> Iterator[KernelRoute]:
    """The routes of a result as the kernel is told them."""
    gateways = {item.gateway.version: item.gateway for item in reversed(given.ips) if item.gateway}
    for route in given.routes:
        destination = ip_network(route.dst, strict=False)
        yield KernelRoute(
            destination=destination,
            gateway=route.gateway or gateways.get(destination.version),
            device=index,
            on_link=False,
            source=None,
            scope=route.scope or routes.SCOPE_GLOBAL,
            table=route.table or routes.TABLE_MAIN,
            metric=route.priority or 0,
            mtu=route.mtu or 0,
            protocol=routes.PROTOCOL_BOOT,
            kind=routes.UNICAST,
            advertised_segment=route.advmss or 0,
        )


def check_routes(given: Result) -> None:
    """Raise CniError, before anything is made, where two routes are the same to the kernel."""
    seen = set()
    for route in route_plan(0, given):
        if route in seen:
            way = f" via {route.gateway}" if route.gateway else ""
            raise refused(f"the route to {route.destination}{way} is asked for twice; leave one out")
        seen.add(route)


def versions(held: Sequence[IPConfiguration]) -> set[int]:
    """The IP versions of addresses that an interface had; both where it is not known."""
    return {item.address.version for item in held} or {4, 6}


def assigned(given: Result, number: int) -> tuple[IPConfiguration, ...]:
    """A result's addresses, all on its interface ``number``."""
    return tuple(replace(item, interface=number) for item in given.ips)


def write_optional(settings: Sequence[Sysctl]) -> None:
    """Write sysctls in the calling thread's namespace; one that the kernel does not have does not matter."""
    for path, value in settings:
        with contextlib.suppress(OSError):
            sysctl.write(path, value)


def enable_forwarding(versions: set[int]) -> None:
    """Let the host forward packets of these IP versions. Raises OSError."""
    if 4 in versions:
        sysctl.write(("net", "ipv4", "ip_forward"), 1)
    if 6 in versions:
        sysctl.write(("net", "ipv6", "conf", "all", "forwarding"), 1)


def delete_interface(namespace: NetworkNamespace | None, ifname: str) -> tuple[IPConfiguration, ...]:
    """Delete an interface of a sandbox; the addresses that it had. Nothing where it is gone.

    Raises NetlinkError.
    """
    if namespace is None:
        return ()
    with RouteSocket.open_in(namespace) as pod:
        try:
            index = links.find_index(pod, ifname)
            found = addresses.dump_addresses(pod, index)
            pod.execute([links.delete_link(index)])
        except NetlinkError as error:
            if error.errno != errno.ENODEV:
                raise
            return ()
    return tuple(IPConfiguration(item.interface) for item in found if not item.interface.is_link_local)


def find_interface(result: Result, ifname: str, netns: str) -> Interface:
    """The interface of a result that is in the sandbox. Raises CniError."""
    for item in result.interfaces:
        if item.name == ifname and item.sandbox == netns:
            return item
    told = ", ".join(f"{item.name} in {item.sandbox or 'the host'}" for item in result.interfaces) or "none"
    raise CniError(ErrorCode.GENERIC, f"prevResult has no interface {ifname} in {netns}; it has: {told}")


def verify(pod: RouteSocket, expected: Interface, result: Result, kind: str | None) -> Link:
    """Check an interface of a sandbox against a result: kind, MAC, addresses, routes. Raises CniError."""
    try:
        link = links.get_link(pod, name=expected.name)
    except NetlinkError:
        raise refused(f"interface {expected.name} not found in {expected.sandbox}") from None
    if kind is not None and link.kind != kind:
        raise refused(f"interface {expected.name} is not of type {kind}, but {link.kind or 'a device of its own'}")
    if expected.mac and expected.mac.lower() != link.address:
        raise refused(f"interface {expected.name} has MAC {link.address}, not {expected.mac}")
    verify_addresses(pod, link, result.ips)
    verify_routes(pod, result.routes)
    return link


def verify_addresses(pod: RouteSocket, link: Link, ips: Sequence[IPConfiguration]) -> None:
    """Raise CniError where an address is missing, or no route leads to its subnet."""
    present = {item.interface for item in addresses.dump_addresses(pod, link.index)}
    ways = {route.destination for route in routes.dump_routes(pod, table=None)}
    for item in ips:
        if item.address not in present:
            raise refused(f"interface {link.name} lacks the address {item.address}")
        if item.address.network not in ways:
            raise refused(f"interface {link.name} has no route to {item.address.network}")


def verify_routes(pod: RouteSocket, wanted: Sequence[Route]) -> None:
    """Raise CniError where a route of a result is missing; a default route may go through any gateway."""
    present = routes.dump_routes(pod, table=None)
    for route in wanted:
        destination = ip_network(route.dst, strict=False)
        found = [item for item in present if item.destination == destination]
        if destination.prefixlen and route.gateway is not None:
            found = [item for item in found if item.gateway == route.gateway]
        if not found:
            way = f" via {route.gateway}" if route.gateway else ""
            raise refused(f"the route to {route.dst}{way} is missing")


def _switch_ipv6_on(ifname: str) -> None:
    for name in ("lo", ifname):
        sysctl.write(("net", "ipv6", "conf", name, "disable_ipv6"), 0)
    # Else the addresses would be gone after the interface was down for a moment.
    sysctl.write(("net", "ipv6", "conf", ifname, "keep_addr_on_down"), 1)


def await_addresses(pod: RouteSocket, index: int, ifname: str, ips: Sequence[IPConfiguration]) -> None:
    """Wait until an interface's addresses of IPv6 can be used. Raises CniError where another host has one."""
    ours = {item.address for item in ips}
    deadline = time.monotonic() + _SETTLE_TIMEOUT
    while True:
        found = [item for item in addresses.dump_addresses(pod, index) if item.interface in ours]
        for item in found:
            if item.duplicate:
                raise refused(f"{item.interface} of {ifname} is in use elsewhere (duplicate address detection)")
        waiting = [item.interface for item in found if item.tentative]
        if not waiting:
            return
        if time.monotonic() > deadline:
            if links.get_link(pod, index=index).operational:
                raise refused(f"{waiting[0]} of {ifname} is still tentative after {_SETTLE_TIMEOUT:g} s")
            return
        time.sleep(_SETTLE_INTERVAL)


def family(address: IPv4Address | IPv6Address) -> int:
    """AF_INET or AF_INET6."""
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def exists(pod: RouteSocket, ifname: str) -> bool:
    """Whether there is an interface of that name."""
    try:
        links.find_index(pod, ifname)
    except NetlinkError:
        return False
    return True


def up(pod: RouteSocket, ifname: str) -> list[Message]:
    """What brings an interface up that has no addresses."""
    return [links.set_link(index=links.find_index(pod, ifname), up=True)]
