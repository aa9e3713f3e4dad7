"""``bridge``: a pair of interfaces, one end in the container, the other on a bridge of the host.

Keys: ``bridge``, ``isGateway``, ``isDefaultGateway``, ``forceAddress``, ``ipMasq``, ``ipMasqBackend``, ``mtu``,
``hairpinMode``, ``promiscMode``, ``vlan``, ``vlanTrunk``, ``preserveDefaultVlan``, ``macspoofchk``, ``enabledad``,
``disableContainerInterface``, ``portIsolation``, and the MAC from the runtime; see docs/plugins/bridge.md.
"""

import errno
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Interface, IPv6Interface, ip_interface

from weft.cni import CniError, ErrorCode, Interface, IPConfiguration, Result, Route
from weft.kernel import addresses, bridge_vlans, links
from weft.kernel.links import Link
from weft.kernel.netlink import Message, NetlinkError, RouteSocket
from weft.plugins import interface, masquerade, spoof_check
from weft.plugins.delegation import Ipam
from weft.plugins.pairs import Pair, check_mac, check_mtu, check_name, make_pair
from weft.plugins.plugin import PluginRequest
from weft.plugins.settings import MacSettings, NetworkSettings, Settings, invalid, read, read_arguments, refused
from weft.plugins.undo import Undo

DEFAULT_BRIDGE = "cni0"
LARGEST_VLAN = 4094
_DEFAULT_ROUTES = {4: "0.0.0.0/0", 6: "::/0"}
#: Seconds for the host's end to become operational.
_PORT_TIMEOUT = 2.5
#: The container's end among the result's interfaces: bridge, host's end, container's end.
_CONTAINER_END = 2


class VlanTrunk(Settings, frozen=True, kw_only=True):
    """VLANs that pass with their tags: a range of them, or one."""

    min_id: int | None = None
    max_id: int | None = None
    id: int | None = None


class _Arguments(Settings, frozen=True, kw_only=True):
    cni: MacSettings = MacSettings()


class BridgeSettings(NetworkSettings, frozen=True, kw_only=True):
    """The plugin's keys."""

    bridge: str = DEFAULT_BRIDGE
    is_gateway: bool = False
    is_default_gateway: bool = False
    force_address: bool = False
    ip_masq: bool = False
    ip_masq_backend: str | None = None
    mtu: int = 0
    hairpin_mode: bool = False
    promisc_mode: bool = False
    vlan: int = 0
    vlan_trunk: tuple[VlanTrunk, ...] | None = None
    preserve_default_vlan: bool = False
    macspoofchk: bool = False
    enabledad: bool = False
    disable_container_interface: bool = False
    port_isolation: bool = False
    args: _Arguments = _Arguments()
    runtime_config: MacSettings = MacSettings()


@dataclass(frozen=True, slots=True)
class Plan:
    """A configuration, checked. ``trunk`` are the VLANs with tags, in order."""

    settings: BridgeSettings
    trunk: tuple[int, ...]
    mac: str | None

    @property
    def gateway(self) -> bool:
        """Whether the bridge has the gateways' addresses."""
        return self.settings.is_gateway or self.settings.is_default_gateway


class Bridge:
    """``weft.plugins.Plugin`` for ``bridge``."""

    def add(self, request: PluginRequest) -> Result:
        """Ensure the bridge, make the pair, address the container's end, then the bridge."""
        plan, call, sandbox = parse(request), request.invocation, request.sandbox
        settings = plan.settings
        ipam = Ipam(settings.ipam.type, request)
        ipam.require()
        with RouteSocket() as host, RouteSocket.open_in(sandbox) as pod, Undo() as undo:
            found = Result()
            if ipam.early:
                found = _addressed(ipam, plan, undo)
            bridge = ensure_bridge(host, plan)
            _check_addresses(host, bridge, plan, found)
            pair = make_pair(
                host,
                pod,
                sandbox,
                call.ifname,
                mtu=settings.mtu,
                address=plan.mac,
                master=bridge.index,
                more=lambda name: port_messages(name, plan),
            )
            undo.on_failure(pair.delete, host)
            _set_vlans(host, pair.host.index, plan)
            if settings.macspoofchk:
                identifier = f"{call.container_id}-{call.ifname}"
                undo.on_failure(spoof_check.tear_down, identifier)
                spoof_check.set_up(pair.host.name, pair.container.address, identifier)
            more: tuple[Interface, ...] = ()
            if ipam.named:
                if not ipam.early:
                    found = _addressed(ipam, plan, undo)
                sysctls = _container_sysctls(call.ifname, settings.enabledad)
                interface.configure(sandbox, pod, call.ifname, found, optional=sysctls)
                if plan.gateway:
                    more = _address_host(host, bridge, plan, found)
                if settings.ip_masq:
                    masquerade.set_up_for(request, settings.ip_masq_backend, found, undo)
            elif not settings.disable_container_interface:
                pod.execute(interface.up(pod, call.ifname))
            port = pair.host if settings.disable_container_interface else _await_operational(host, pair)
            # The bridge's own MAC may have changed with its first port, or with its address.
            bridge = links.get_link(host, index=bridge.index)
        interfaces = (
            Interface(bridge.name, bridge.address),
            Interface(port.name, port.address),
            Interface(call.ifname, pair.container.address, sandbox=call.netns),
            *more,
        )
        return Result(interfaces, found.ips, found.routes, settings.dns.over(found.dns))

    def delete(self, request: PluginRequest) -> None:
        """Give the addresses back, delete the pair, take the rules away."""
        settings = read(BridgeSettings, request.configuration)  # whatever else is wrong keeps nobody
        call, name = request.invocation, request.configuration.name
        # First, as the reference does: a DHCP lease is given back through the interface.
        Ipam(settings.ipam.type, request).delete()
        held = interface.delete_interface(request.namespace, call.ifname)
        if settings.macspoofchk:
            spoof_check.tear_down(f"{call.container_id}-{call.ifname}")
        if settings.ip_masq and settings.ipam.type:
            masquerade.tear_down(name, call.ifname, call.container_id, held)

    def check(self, request: PluginRequest) -> None:
        """The pair is there, on the bridge, with the addresses and routes of prevResult."""
        plan, call, sandbox = parse(request), request.invocation, request.sandbox
        settings = plan.settings
        Ipam(settings.ipam.type, request).check()
        result = request.previous_result
        expected = interface.find_interface(result, call.ifname, call.netns)
        with RouteSocket() as host, RouteSocket.open_in(sandbox) as pod:
            bridge = _find_bridge(host, settings.bridge)
            told = next(
                (item for item in result.interfaces if item.name == bridge.name and not item.sandbox), None
            )
            if told is not None and told.mac and told.mac.lower() != bridge.address:
                raise refused(f"bridge {bridge.name} has MAC {bridge.address}, not {told.mac}")
            if (bridge.promiscuity > 0) != settings.promisc_mode:
                raise refused(f"bridge {bridge.name}: promiscMode is {settings.promisc_mode}, the bridge's is not")
            link = interface.verify(pod, expected, result, "veth")
            try:
                port = links.get_link(host, index=link.peer_index)
            except NetlinkError:
                raise refused(f"the host's end of {call.ifname} is gone") from None
            if port.master != bridge.index:
                raise refused(f"{port.name}, the host's end of {call.ifname}, is not on bridge {bridge.name}")

    def gc(self, request: PluginRequest) -> None:
        """Give back addresses and rules of attachments that are not valid."""
        settings = parse(request).settings
        Ipam(settings.ipam.type, request).gc()
        if settings.ip_masq:
            masquerade.collect_garbage(request.configuration.name, request.configuration.valid_attachments)

    def status(self, request: PluginRequest) -> None:
        """Whether there are addresses."""
        Ipam(parse(request).settings.ipam.type, request).status()


def parse(request: PluginRequest) -> Plan:
    """Read and check a configuration. Raises CniError, naming key, value and mend."""
    settings = read(BridgeSettings, request.configuration)
    arguments = read_arguments(request.invocation, "MAC")
    if not 0 <= settings.vlan <= LARGEST_VLAN:
        raise invalid("vlan", settings.vlan, f"give 0 to {LARGEST_VLAN}; 0 is none")
    if settings.ipam.type and settings.disable_container_interface:
        raise refused("disableContainerInterface: an interface that stays down has no use for ipam; leave one out")
    if settings.hairpin_mode and settings.promisc_mode:
        raise refused("hairpinMode and promiscMode cannot be set at the same time; leave one out")
    check_mtu("mtu", settings.mtu)
    masquerade.check_backend(settings.ip_masq_backend)
    check_name("bridge", settings.bridge)
    mac = settings.runtime_config.mac or settings.args.cni.mac or arguments.get("MAC", "")
    return Plan(settings, trunk_vlans(settings.vlan_trunk or ()), check_mac("mac", mac) if mac else None)


def trunk_vlans(trunk: Sequence[VlanTrunk]) -> tuple[int, ...]:
    """The VLANs of ``vlanTrunk``, each once, in order. Raises CniError."""
    found: set[int] = set()
    for item in trunk:
        if (item.min_id is None) != (item.max_id is None):
            raise refused("vlanTrunk: minID and maxID go together; one is missing")
        if item.min_id is not None and item.max_id is not None:
            for key, value in (("minID", item.min_id), ("maxID", item.max_id)):
                _check_trunk_vlan(key, value)
            if item.max_id < item.min_id:
                raise refused(f"vlanTrunk: minID {item.min_id} is greater than maxID {item.max_id}")
            found.update(range(item.min_id, item.max_id + 1))
        if item.id is not None:
            _check_trunk_vlan("id", item.id)
            found.add(item.id)
    return tuple(sorted(found))


def with_gateways(given: Result, plan: Plan) -> Result:
    """What IPAM gave, on the container's end, with gateways and default routes where the bridge is those."""
    ips: list[IPConfiguration] = []
    routes = list(given.routes)
    done: set[int] = set()
    for item in interface.assigned(given, _CONTAINER_END):
        gateway, version = item.gateway, item.address.version
        if gateway is None and plan.gateway:
            gateway = item.address.network.network_address + 1
        ips.append(replace(item, gateway=gateway))
        if plan.settings.is_default_gateway and version not in done:
            done.add(version)
            default = _DEFAULT_ROUTES[version]
            if not any(route.dst == default and route.gateway for route in routes):
                routes.append(Route(default, gateway))
    return replace(given, ips=tuple(ips), routes=tuple(routes))


def ensure_bridge(host: RouteSocket, plan: Plan) -> Link:
    """The bridge, made where it is not there, and up. Raises CniError where the name is another device's."""
    settings = plan.settings
    filtering = settings.vlan != 0 or settings.vlan_trunk is not None
    try:
        bridge = _find_bridge(host, settings.bridge)
    except BridgeMissing:
        message = links.create_bridge(
            name=settings.bridge, mtu=settings.mtu or None, up=False, vlan_filtering=filtering
        )
        (failed,) = host.attempt([message])
        if failed is not None and failed.errno != errno.EEXIST:
            raise refused(f"failed to create bridge {settings.bridge!r}: {failed}") from None
        bridge = _find_bridge(host, settings.bridge)
    if settings.promisc_mode and not bridge.promiscuity:
        host.execute([links.set_link(index=bridge.index, promiscuous=True)])
    # The host does not take routes from routers among the containers.
    interface.write_optional([(("net", "ipv6", "conf", bridge.name, "accept_ra"), 0)])
    if not bridge.up:
        host.execute([links.set_link(index=bridge.index, up=True)])
    return bridge


class BridgeMissing(CniError):
    """There is no device of the bridge's name."""


def _find_bridge(host: RouteSocket, name: str) -> Link:
    try:
        link = links.get_link(host, name=name)
    except NetlinkError as error:
        if error.errno == errno.ENODEV:
            raise BridgeMissing(ErrorCode.GENERIC, f"bridge {name!r} is gone") from None
        raise
    if link.kind != "bridge":
        raise refused(f"bridge {name!r}: the device of that name is not a bridge, but {link.kind or 'hardware'}")
    return link


def port_messages(name: str, plan: Plan) -> list[Message]:
    """What makes the host's end the port that the configuration wants."""
    settings = plan.settings
    return [links.set_bridge_port(name=name, hairpin=settings.hairpin_mode, isolated=settings.port_isolation)]


def _set_vlans(host: RouteSocket, port: int, plan: Plan) -> None:
    settings = plan.settings
    if not settings.vlan and not plan.trunk:
        return
    messages = []
    if not settings.preserve_default_vlan:
        messages += [bridge_vlans.delete_vlan(port, item[0]) for item in bridge_vlans.dump_vlans(host, port)]
    if settings.vlan:
        messages.append(bridge_vlans.add_vlan(port, settings.vlan, port_vlan=True, untagged=True))
    messages += [bridge_vlans.add_vlan(port, vlan) for vlan in plan.trunk]
    if plan.trunk and not settings.vlan:
        messages.append(bridge_vlans.add_vlan(port, 1, port_vlan=True, untagged=True))
    host.execute(messages)


def _addressed(ipam: Ipam, plan: Plan, undo: Undo) -> Result:
    given = ipam.add()
    undo.on_failure(ipam.delete)
    found = with_gateways(given, plan)
    interface.check_routes(found)
    return found


def _check_addresses(host: RouteSocket, bridge: Link, plan: Plan, found: Result) -> None:
    """Raise CniError, before anything is made, where the bridge has another address."""
    if plan.gateway and not plan.settings.vlan and not plan.settings.force_address:
        for gateway in _gateways(found):
            clashing_addresses(host, bridge, gateway, force=False)


def _gateways(found: Result) -> list[IPv4Interface | IPv6Interface]:
    return [ip_interface(f"{item.gateway}/{item.address.network.prefixlen}") for item in found.ips if item.gateway]


def _address_host(host: RouteSocket, bridge: Link, plan: Plan, found: Result) -> tuple[Interface, ...]:
    """Give the bridge, or the host's own port of the VLAN, the gateways' addresses; the port, if it was that."""
    more: tuple[Interface, ...] = ()
    device = bridge
    if plan.settings.vlan:
        device = _ensure_vlan_interface(host, bridge, plan)
        more = (Interface(device.name, device.address),)
    for gateway in _gateways(found):
        ensure_address(host, device, gateway, force=plan.settings.force_address)
    interface.enable_forwarding({item.address.version for item in found.ips})
    return more


def ensure_address(host: RouteSocket, device: Link, wanted: IPv4Interface | IPv6Interface, *, force: bool) -> None:
    """Give a device of the host an address. Raises CniError where it has another one and ``force`` is not set."""
    clashing = clashing_addresses(host, device, wanted, force=force)
    if clashing is None:
        return
    host.execute([addresses.delete_address(device.index, item) for item in clashing])
    (failed,) = host.attempt([addresses.add_address(device.index, wanted, detect_duplicates=True)])
    if failed is not None and failed.errno != errno.EEXIST:
        raise refused(f"could not add IP address {wanted} to {device.name!r}: {failed}") from None
    # Its own MAC, set once more, no longer follows the ports'.
    host.execute([links.set_link(index=device.index, address=device.address)])


def clashing_addresses(
    host: RouteSocket, device: Link, wanted: IPv4Interface | IPv6Interface, *, force: bool
) -> list[IPv4Interface | IPv6Interface] | None:
    """What must go from a device before it has an address; None where it has that address already.

    IPv4 has one address, of IPv6 those go that share a subnet. Raises CniError for any, unless ``force`` is set.
    """
    present = [item.interface for item in addresses.dump_addresses(host, device.index)]
    if wanted in present:
        return None
    clashing = [
        item
        for item in present
        if item.version == wanted.version
        and (wanted.version == 4 or wanted.ip in item.network or item.ip in wanted.network)
    ]
    if clashing and not force:
        raise refused(
            f"{device.name!r} already has an IP address different from {wanted}: {clashing[0]}; "
            "use another bridge, or forceAddress"
        )
    return clashing


def _ensure_vlan_interface(host: RouteSocket, bridge: Link, plan: Plan) -> Link:
    """The host's own port of a VLAN, named ``<bridge>.<vlan>``: a pair with both ends on the host."""
    name = f"{bridge.name}.{plan.settings.vlan}"
    try:
        return links.get_link(host, name=name)
    except NetlinkError as error:
        if error.errno != errno.ENODEV:
            raise
    pair = make_pair(host, host, None, name, mtu=bridge.mtu, master=bridge.index)
    host.execute([links.set_bridge_port(pair.host.index, hairpin=False, isolated=False)])
    _set_vlans(host, pair.host.index, replace(plan, trunk=()))
    host.execute([links.set_link(index=pair.container.index, up=True)])
    return links.get_link(host, name=name)


def _await_operational(host: RouteSocket, pair: Pair) -> Link:
    try:
        return links.await_forwarding(host, index=pair.host.index, timeout=_PORT_TIMEOUT)
    except TimeoutError:
        link = links.get_link(host, index=pair.host.index)
        if link.operational:  # a bridge that runs the spanning tree protocol takes its time
            return link
        raise refused(f"bridge port {link.name} is in error state: it does not come up") from None


def _container_sysctls(ifname: str, detect_duplicates: bool) -> list[interface.Sysctl]:
    found: list[interface.Sysctl] = []
    if detect_duplicates:
        found.append((("net", "ipv6", "conf", ifname, "enhanced_dad"), 1))
    found.append((("net", "ipv6", "conf", ifname, "accept_dad"), int(detect_duplicates)))
    found.append((("net", "ipv4", "conf", ifname, "arp_notify"), 1))
    return found


def _check_trunk_vlan(key: str, value: int) -> None:
    if not 0 < value <= LARGEST_VLAN:
        raise invalid(f"vlanTrunk.{key}", value, f"give 1 to {LARGEST_VLAN}")
