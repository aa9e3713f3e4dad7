"""Routes.

Source: rtnetlink(7), include/uapi/linux/rtnetlink.h.
"""

import errno
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from weft.kernel import attributes as attr
from weft.kernel.attributes import MalformedMessage
from weft.kernel.netlink import CREATE, EXCLUSIVE, REPLACE, REQUEST, Message, NetlinkError, RouteSocket

_NEW_ROUTE = 24
_DELETE_ROUTE = 25
_GET_ROUTE = 26

#: struct rtmsg: family, prefix length, source's prefix length, TOS, table, protocol, scope, type, flags.
_HEADER = struct.Struct("=BBBBBBBBI")

_DESTINATION = 1
_DEVICE = 4
_GATEWAY = 5
_METRIC = 6
_SOURCE = 7
_METRICS = 8
_MULTIPATH = 9
_TABLE = 15
_VIA = 18
_METRICS_MTU = 2
_METRICS_ADVERTISED_SEGMENT = 8
#: struct rtnexthop: length, flags, hops, device. Its attributes follow.
_HOP = struct.Struct("=HBBi")

_ON_LINK = 0x4
_CLONED = 0x200

TABLE_MAIN = 254
SCOPE_GLOBAL = 0
SCOPE_LINK = 253
SCOPE_HOST = 254
_SCOPE_ANY = 255

#: Who made a route: the kernel itself; an administrator's command, which ``ip route`` shows without a word.
PROTOCOL_KERNEL = 2
PROTOCOL_BOOT = 3

UNICAST = 1
LOCAL = 2
BROADCAST = 3
BLACKHOLE = 6
UNREACHABLE = 7


@dataclass(frozen=True, slots=True)
class Route:
    """A route as the kernel holds it.

    ``device`` is an index, 0 for none. ``on_link``: the gateway can be reached through the device although no
    subnet there says so. ``source`` is the address that this host's own packets get, ``metric`` the priority
    (lowest first), ``mtu`` and ``advertised_segment`` (TCP's MSS) in bytes, 0 where the route sets none. Of a
    route over several hops, the first.
    """

    destination: IPv4Network | IPv6Network
    gateway: IPv4Address | IPv6Address | None
    device: int
    on_link: bool
    source: IPv4Address | IPv6Address | None
    scope: int
    table: int
    metric: int
    mtu: int
    protocol: int
    kind: int
    advertised_segment: int = 0


def add_route(
    destination: IPv4Network | IPv6Network,
    *,
    gateway: IPv4Address | IPv6Address | None = None,
    device: int = 0,
    on_link: bool = False,
    source: IPv4Address | IPv6Address | None = None,
    scope: int | None = None,
    table: int = TABLE_MAIN,
    metric: int = 0,
    mtu: int = 0,
    protocol: int = PROTOCOL_BOOT,
    kind: int = UNICAST,
) -> Message:
    """A new route, see ``Route``; EEXIST where there is one to the destination with that metric.

    Without ``scope``, a unicast route without gateway is one of the link. BLACKHOLE and UNREACHABLE want no
    device.
    """
    scope = _usual_scope(destination, gateway, kind) if scope is None else scope
    route = Route(destination, gateway, device, on_link, source, scope, table, metric, mtu, protocol, kind)
    flags = REQUEST | CREATE | EXCLUSIVE
    return Message(_NEW_ROUTE, flags, encode_route(route), f"add the route to {destination}")


def replace_route(
    destination: IPv4Network | IPv6Network,
    *,
    gateway: IPv4Address | IPv6Address | None = None,
    device: int = 0,
    on_link: bool = False,
    source: IPv4Address | IPv6Address | None = None,
    scope: int | None = None,
    table: int = TABLE_MAIN,
    metric: int = 0,
    mtu: int = 0,
    protocol: int = PROTOCOL_BOOT,
    kind: int = UNICAST,
) -> Message:
    """Like ``add_route``; takes the place of the route to the destination with that metric, at one stroke."""
    scope = _usual_scope(destination, gateway, kind) if scope is None else scope
    route = Route(destination, gateway, device, on_link, source, scope, table, metric, mtu, protocol, kind)
    flags = REQUEST | CREATE | REPLACE
    return Message(_NEW_ROUTE, flags, encode_route(route), f"set the route to {destination}")


def insert_route(route: Route) -> Message:
    """Add a route as it stands; fine where another way to the destination is there. EEXIST for the same one."""
    return Message(_NEW_ROUTE, REQUEST | CREATE, encode_route(route), f"add the route to {route.destination}")


def put_route(route: Route) -> Message:
    """Add a route as it stands, in the place of one to the destination with its metric."""
    flags = REQUEST | CREATE | REPLACE
    return Message(_NEW_ROUTE, flags, encode_route(route), f"set the route to {route.destination}")


def remove_route(route: Route) -> Message:
    """Delete just this route; ESRCH where it is gone."""
    return Message(_DELETE_ROUTE, REQUEST, encode_route(route), f"delete the route to {route.destination}")


def find_device(host: RouteSocket, address: IPv4Address | IPv6Address) -> int:
    """The index of the device that packets to an address leave by. Raises NetlinkError: ENETUNREACH and others."""
    header = _HEADER.pack(_family(address), address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    payload = header + attr.attribute(_DESTINATION, address.packed)
    answer = host.get(Message(_GET_ROUTE, REQUEST, payload, f"find the route to {address}"))
    return _u32(attr.decode(answer, _HEADER.size), _DEVICE)


def delete_route(
    destination: IPv4Network | IPv6Network,
    *,
    gateway: IPv4Address | IPv6Address | None = None,
    device: int = 0,
    table: int = TABLE_MAIN,
    metric: int = 0,
) -> Message:
    """Delete the route to the destination that also matches what else is given; ESRCH where there is none."""
    route = Route(destination, gateway, device, False, None, _SCOPE_ANY, table, metric, 0, 0, 0)
    return Message(_DELETE_ROUTE, REQUEST, encode_route(route), f"delete the route to {destination}")


def dump_routes(
    host: RouteSocket, *, family: int | None = None, table: int | None = TABLE_MAIN, device: int = 0
) -> list[Route]:
    """The routes of a table (None: of all), of both families or one, through any device or one.

    ``family`` is AF_INET or AF_INET6. Raises NetlinkError.
    """
    families = (socket.AF_INET, socket.AF_INET6) if family is None else (family,)
    return [route for each in families for route in _dump(host, each, table, device)]


def encode_route(route: Route) -> bytes:
    """What the kernel is told of a route."""
    destination, gateway = route.destination, route.gateway
    flags = _ON_LINK if route.on_link else 0
    # The header has but one byte for the table; the attribute counts.
    parts = [
        _HEADER.pack(
            _family(destination), destination.prefixlen, 0, 0, 0, route.protocol, route.scope, route.kind, flags
        ),
        attr.attribute(_DESTINATION, destination.network_address.packed),
        attr.u32(_TABLE, route.table),
    ]
    if gateway is not None and gateway.version == destination.version:
        parts.append(attr.attribute(_GATEWAY, gateway.packed))
    elif gateway is not None:
        parts.append(attr.attribute(_VIA, struct.pack("=H", _family(gateway)) + gateway.packed))
    if route.source is not None:
        parts.append(attr.attribute(_SOURCE, route.source.packed))
    if route.device:
        parts.append(attr.u32(_DEVICE, route.device))
    if route.metric:
        parts.append(attr.u32(_METRIC, route.metric))
    metrics = []
    if route.mtu:
        metrics.append(attr.u32(_METRICS_MTU, route.mtu))
    if route.advertised_segment:
        metrics.append(attr.u32(_METRICS_ADVERTISED_SEGMENT, route.advertised_segment))
    if metrics:
        parts.append(attr.nested(_METRICS, *metrics))
    return b"".join(parts)


def parse_route(payload: bytes) -> Route | None:
    """A route from the kernel's message; None for another family than IP. Raises MalformedMessage."""
    if len(payload) < _HEADER.size:
        raise MalformedMessage(f"a route's message of {len(payload)} bytes")
    family, length, _, _, table, protocol, scope, kind, flags = _HEADER.unpack_from(payload)
    if family not in (socket.AF_INET, socket.AF_INET6) or flags & _CLONED:
        return None
    found = attr.decode(payload, _HEADER.size)
    metrics = attr.decode(found.get(_METRICS, b""))
    if _MULTIPATH in found:
        hop, flags = _first_hop(found[_MULTIPATH])
        found |= hop
    return Route(
        destination=_network(family, found.get(_DESTINATION), length),
        gateway=_gateway(found),
        device=_u32(found, _DEVICE),
        on_link=bool(flags & _ON_LINK),
        source=attr.as_ip_address(found[_SOURCE]) if _SOURCE in found else None,
        scope=scope,
        table=_u32(found, _TABLE) or table,
        metric=_u32(found, _METRIC),
        mtu=_u32(metrics, _METRICS_MTU),
        protocol=protocol,
        kind=kind,
        advertised_segment=_u32(metrics, _METRICS_ADVERTISED_SEGMENT),
    )


def _dump(host: RouteSocket, family: int, table: int | None, device: int) -> list[Route]:
    parts = [_HEADER.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)]
    if table is not None:
        parts.append(attr.u32(_TABLE, table))
    if device:
        parts.append(attr.u32(_DEVICE, device))
    try:
        payloads = host.dump(Message(_GET_ROUTE, REQUEST, b"".join(parts), "list the routes"))
    except NetlinkError as error:
        # A table that never had a route, or a device that is gone.
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return []
        raise
    # A kernel without IPv6 answers a question for IPv6 with the other families' routes.
    return [
        route
        for route in map(parse_route, payloads)
        if route is not None
        and _family(route.destination) == family
        and table in (None, route.table)
        and device in (0, route.device)
    ]


def _usual_scope(
    destination: IPv4Network | IPv6Network, gateway: IPv4Address | IPv6Address | None, kind: int
) -> int:
    return SCOPE_LINK if kind == UNICAST and gateway is None and destination.version == 4 else SCOPE_GLOBAL


def _first_hop(hops: bytes) -> tuple[dict[int, bytes], int]:
    """Device and gateway of the first of several hops, as attributes of a plain route, and its flags."""
    if len(hops) < _HOP.size:
        raise MalformedMessage(f"next hops of {len(hops)} bytes")
    length, flags, _, device = _HOP.unpack_from(hops)
    if not _HOP.size <= length <= len(hops):
        raise MalformedMessage(f"a next hop of {length} bytes where {len(hops)} are left")
    return {**attr.decode(hops[:length], _HOP.size), _DEVICE: struct.pack("=i", device)}, flags


def _gateway(found: dict[int, bytes]) -> IPv4Address | IPv6Address | None:
    if _GATEWAY in found:
        return attr.as_ip_address(found[_GATEWAY])
    if _VIA in found:
        return attr.as_ip_address(found[_VIA][2:])
    return None


def _network(family: int, address: bytes | None, length: int) -> IPv4Network | IPv6Network:
    size = 4 if family == socket.AF_INET else 16
    packed = bytes(size) if address is None else address
    if length > 8 * size or len(packed) != size:
        raise MalformedMessage(f"a destination of {length} bits in {len(packed)} bytes")
    try:
        return IPv4Network((packed, length)) if size == 4 else IPv6Network((packed, length))
    except ValueError as error:
        raise MalformedMessage(str(error)) from None


def _family(address: IPv4Address | IPv6Address | IPv4Network | IPv6Network) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def _u32(found: dict[int, bytes], kind: int) -> int:
    return attr.as_u32(found[kind]) if kind in found else 0
