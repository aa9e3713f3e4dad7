"""``sbr``: source based routing, so that a container with several interfaces answers by the one that was asked.

For each address of the interface a rule leads what is sent from it to a table of its own, the first free one from
100, and the interface's routes move there. Keys: ``table``, ``gateways``, ``addSourceHints``; see
docs/plugins/sbr.md.
"""

import errno
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from weft.cni import IPConfiguration, Result
from weft.kernel import addresses, links, routes, rules
from weft.kernel.netlink import NetlinkError, RouteSocket
from weft.kernel.routes import Route
from weft.kernel.rules import Rule
from weft.plugins.plugin import PluginRequest
from weft.plugins.settings import Settings, invalid, read, refused
from weft.plugins.undo import Undo

FIRST_TABLE = 100
_LARGEST_TABLE = (1 << 32) - 1
_EVERYTHING = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


class SbrSettings(Settings, frozen=True, kw_only=True):
    """The plugin's keys."""

    table: int | None = None
    gateways: tuple[str, ...] = ()
    add_source_hints: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """A configuration, checked. ``gateways`` by IP version."""

    table: int | None
    gateways: dict[int, Address]
    hints: bool


@dataclass(frozen=True, slots=True)
class Moves:
    """What is to be done: ``rules`` (source, table), routes of those tables, routes of the main table that come
    (``hints``) and that go (``removed``)."""

    rules: tuple[tuple[Network, int], ...]
    added: tuple[Route, ...] = ()
    hints: tuple[Route, ...] = ()
    removed: tuple[Route, ...] = ()


class SourceBasedRouting:
    """``weft.plugins.Plugin`` for ``sbr``."""

    def add(self, request: PluginRequest) -> Result:
        """Add the rules, move the routes; the result is that of the plugins before."""
        plan, result, sandbox = parse(request), request.previous_result, request.sandbox
        ifname = request.invocation.ifname
        ips = addresses_of(result, ifname)
        # One at a time, be it ours or the reference's, looks for free tables.
        with sandbox.locked(), RouteSocket.open_in(sandbox) as pod, Undo() as undo:
            if plan.table is not None:
                moves = Moves(tuple((_alone(item), plan.table) for item in ips))
            else:
                index = _find(pod, ifname)
                present = routes.dump_routes(pod, device=index)
                moves = plan_moves(ips, index, present, _taken(pod), plan)
            _carry_out(pod, moves, undo)
        return result

    def delete(self, request: PluginRequest) -> None:
        """Delete the rules for the interface's addresses; the routes go with it."""
        plan = parse(request)
        if request.namespace is None:
            return
        with request.namespace.locked(), RouteSocket.open_in(request.namespace) as pod:
            try:
                index = links.find_index(pod, request.invocation.ifname)
            except NetlinkError as error:
                if error.errno != errno.ENODEV:
                    raise
                return
            own = {item.interface.ip for item in addresses.dump_addresses(pod, index)}
            for rule in rules.dump_rules(pod):
                source = rule.source
                if source is None or source.network_address not in own or plan.table not in (None, rule.table):
                    continue
                (failed,) = pod.attempt([rules.delete_rule(source, table=rule.table)])
                if failed is not None and failed.errno != errno.ENOENT:
                    raise failed

    def check(self, request: PluginRequest) -> None:
        """There is a rule for each address, and its table leads somewhere."""
        plan, ifname = parse(request), request.invocation.ifname
        ips = addresses_of(request.previous_result, ifname)
        with RouteSocket.open_in(request.sandbox) as pod:
            index = _find(pod, ifname)
            present = rules.dump_rules(pod)
            for item in ips:
                tables = [rule.table for rule in present if rule.source == _alone(item)]
                if not tables or plan.table not in (None, *tables):
                    where = "" if plan.table is None else f" to table {plan.table}"
                    raise refused(f"the rule from {item.address.ip}{where} is missing")
                if plan.table is None and not any(
                    _leads_on(pod, index, table, item, plan.gateways.get(item.address.version)) for table in tables
                ):
                    raise refused(f"table {tables[0]}, for {item.address.ip}, lacks routes of {ifname}")

    def gc(self, request: PluginRequest) -> None:
        """Nothing is kept outside of the container."""

    def status(self, request: PluginRequest) -> None:
        """The configuration can be used."""
        parse(request)


def parse(request: PluginRequest) -> Plan:
    """Read and check a configuration. Raises CniError, naming key, value and mend."""
    settings = read(SbrSettings, request.configuration)
    if settings.table is not None:
        if not 0 < settings.table <= _LARGEST_TABLE:
            raise invalid("table", settings.table, f"give 1 to {_LARGEST_TABLE}, or leave it out")
        if settings.gateways or settings.add_source_hints:
            key = "gateways" if settings.gateways else "addSourceHints"
            raise refused(f"{key}: no routes are made where table is given; leave one of the two out")
    gateways: dict[int, Address] = {}
    for text in settings.gateways:
        try:
            gateway = ip_address(text)
        except ValueError:
            raise invalid("gateways", text, "give addresses such as 10.0.0.1") from None
        if gateway.version in gateways:
            raise refused(
                f"gateways list contains multiple IPv{gateway.version} addresses: "
                f"{gateways[gateway.version]} and {gateway}; leave one out"
            )
        gateways[gateway.version] = gateway
    return Plan(settings.table, gateways, settings.add_source_hints)


def addresses_of(result: Result, ifname: str) -> tuple[IPConfiguration, ...]:
    """A result's addresses, less those of interfaces of other names. Raises CniError where it has none at all."""
    if not result.ips:
        raise refused(
            f"No IP addresses supplied on interface: {ifname}; sbr needs a plugin before it that has ipam"
        )
    return tuple(item for item in result.ips if _is_on(item, result, ifname))


def _is_on(item: IPConfiguration, result: Result, ifname: str) -> bool:
    if item.interface is None or not 0 <= item.interface < len(result.interfaces):
        return True
    return result.interfaces[item.interface].name == ifname


def plan_moves(
    ips: Sequence[IPConfiguration], index: int, present: Sequence[Route], taken: set[int], plan: Plan
) -> Moves:
    """A table per address, out of those that are not ``taken``, with the routes that concern it.

    ``present`` are the routes of the interface ``index`` in the main table. A route concerns an address where its
    source or its gateway is in the address's subnet, or where it has neither.
    """
    found: list[tuple[Network, int]] = []
    added: list[Route] = []
    table = FIRST_TABLE
    for item in ips:
        while table in taken:
            table += 1
        found.append((_alone(item), table))
        given = plan.gateways.get(item.address.version)
        if gateway := given or item.gateway:
            added.append(_route(_EVERYTHING[item.address.version], index, gateway=gateway, table=table))
        for route in present:
            # It would take the place of the default route by the gateway that was asked for.
            instead = given is not None and route.destination == _EVERYTHING[given.version]
            if _concerns(route, item.address.network) and not instead:
                added.append(replace(route, table=table))
        table += 1
    if not plan.hints:
        return Moves(tuple(found), tuple(added), (), tuple(present))
    hints = tuple(
        replace(
            _route(item.address.network, index, table=routes.TABLE_MAIN),
            source=item.address.ip,
            scope=routes.SCOPE_LINK,
        )
        for item in ips
    )
    return Moves(
        tuple(found), tuple(added), hints, tuple(route for route in present if route.scope != routes.SCOPE_LINK)
    )


def _concerns(route: Route, subnet: Network) -> bool:
    ends = [end for end in (route.source, route.gateway) if end is not None]
    return not ends or any(end in subnet for end in ends)


def _route(destination: Network, index: int, *, table: int, gateway: Address | None = None) -> Route:
    return Route(
        destination=destination,
        gateway=gateway,
        device=index,
        on_link=False,
        source=None,
        scope=routes.SCOPE_GLOBAL,
        table=table,
        metric=0,
        mtu=0,
        protocol=routes.PROTOCOL_BOOT,
        kind=routes.UNICAST,
    )


def _carry_out(pod: RouteSocket, moves: Moves, undo: Undo) -> None:
    for source, table in moves.rules:
        pod.execute([rules.add_rule(source, table=table)])
        undo.on_failure(pod.attempt, [rules.delete_rule(source, table=table)])
    undo.on_failure(pod.attempt, [routes.insert_route(item) for item in moves.removed])
    undo.on_failure(pod.attempt, [routes.remove_route(item) for item in (*moves.added, *moves.hints)])
    pod.execute([routes.put_route(item) for item in moves.added])
    if not moves.hints:
        pod.execute([routes.remove_route(item) for item in moves.removed])
        return
    # A hint that the kernel does not take, or a route that went with another, is no reason to fail.
    pod.attempt([routes.put_route(item) for item in moves.hints])
    pod.attempt([routes.remove_route(item) for item in moves.removed])


def _taken(pod: RouteSocket) -> set[int]:
    """The tables that a rule leads to, or that have routes."""
    present: list[Rule] = rules.dump_rules(pod)
    return {rule.table for rule in present} | {route.table for route in routes.dump_routes(pod, table=None)}


def _leads_on(pod: RouteSocket, index: int, table: int, item: IPConfiguration, given: Address | None) -> bool:
    """Whether a table has routes of an interface, and where there is a gateway, the default route by it."""
    present = routes.dump_routes(pod, table=table, device=index)
    gateway = given or item.gateway
    if gateway is None:
        return bool(present)
    return any(route.gateway == gateway and not route.destination.prefixlen for route in present)


def _alone(item: IPConfiguration) -> Network:
    return ip_network(item.address.ip)


def _find(pod: RouteSocket, ifname: str) -> int:
    try:
        return links.find_index(pod, ifname)
    except NetlinkError:
        raise refused(f"Cannot find network interface {ifname}: no such interface in the container") from None
