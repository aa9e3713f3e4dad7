"""``portmap``: ports of the host that lead to ports of the container, by iptables or by nftables.

Keys: ``backend``, ``snat``, ``markMasqBit``, ``externalSetMarkChain``, ``conditionsV4``, ``conditionsV6``,
``masqAll``, and ``portMappings`` from the runtime; see docs/plugins/portmap.md.
"""

import contextlib
import logging
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from weft.cni import CniError, ErrorCode, Result
from weft.cni.results import IPInterface
from weft.kernel import conntrack, iptables, links, routes, sysctl
from weft.kernel.iptables import IptablesError
from weft.kernel.netlink import NetlinkError, RouteSocket
from weft.kernel.nftables import NftablesError
from weft.plugins import interface, netfilter
from weft.plugins.meta import portmap_iptables, portmap_nftables
from weft.plugins.meta.port_mappings import Forwarding, Mapping
from weft.plugins.plugin import PluginRequest
from weft.plugins.settings import Settings, invalid, read, refused
from weft.plugins.undo import Undo

_log = logging.getLogger(__name__)

PROTOCOLS = ("tcp", "udp", "sctp")
#: Kubernetes has 14 and 15, Calico 20 to 31.
DEFAULT_MARK_BIT = 13
LARGEST_PORT = 65535
#: What would end an nftables rule before its verdict.
_NOT_IN_CONDITIONS = frozenset("\n\r\0;#")


class _PortMapping(Settings, frozen=True, kw_only=True):
    host_port: int = 0
    container_port: int = 0
    protocol: str = ""
    host_ip: str = ""


class _RuntimeConfig(Settings, frozen=True, kw_only=True):
    port_mappings: tuple[_PortMapping, ...] = ()


class PortMapSettings(Settings, frozen=True, kw_only=True):
    """The plugin's keys."""

    backend: str | None = None
    snat: bool = True
    mark_masq_bit: int | None = None
    external_set_mark_chain: str | None = None
    conditions_v4: tuple[str, ...] = ()
    conditions_v6: tuple[str, ...] = ()
    masq_all: bool = False
    runtime_config: _RuntimeConfig = _RuntimeConfig()


class PortMap:
    """``weft.plugins.Plugin`` for ``portmap``."""

    def add(self, request: PluginRequest) -> Result:
        """Lead the host's ports to the container; the previous result."""
        forwarding, backend = parse(request)
        previous = request.previous_result
        if not forwarding.mappings:
            return previous
        addresses = container_addresses(previous, request.invocation.ifname)
        backend = netfilter.choose_backend(backend)
        try:
            with Undo() as undo:
                for address in addresses:
                    undo.on_failure(_FORMS[backend].tear_down, forwarding, [address.version])
                    _FORMS[backend].set_up(forwarding, address)
                if forwarding.masquerade:
                    _let_loopback_out(addresses)
        except (IptablesError, NftablesError) as error:
            raise refused(f"portmap: {error}") from None
        _forget_flows(forwarding.mappings, addresses)
        return previous

    def delete(self, request: PluginRequest) -> None:
        """Take the container's rules away, of both backends where the configuration names none."""
        settings = read_settings(request)
        if not settings.runtime_config.port_mappings:
            return
        forwarding, backend = _forwarding(request, settings, deleting=True), settings.backend
        previous = request.configuration.previous_result
        versions = sorted(interface.versions(previous.ips if previous else ()))
        used = netfilter.choose_backend(backend)
        for other in _FORMS.keys() - {used} if backend is None else ():
            # The plugin of ADD may have chosen otherwise.
            with contextlib.suppress(IptablesError, NftablesError):
                _FORMS[other].tear_down(forwarding, versions)
        try:
            _FORMS[used].tear_down(forwarding, versions)
        except (IptablesError, NftablesError) as error:
            raise refused(f"portmap: {error}") from None

    def check(self, request: PluginRequest) -> None:
        """The rules are there."""
        forwarding, backend = parse(request)
        previous = request.previous_result
        form = _FORMS[netfilter.choose_backend(backend)]
        if not forwarding.mappings:
            return
        try:
            for address in container_addresses(previous, request.invocation.ifname):
                form.check(forwarding, address)
        except (IptablesError, NftablesError) as error:
            raise refused(f"portmap: the rules are not as ADD made them: {error}") from None

    def gc(self, request: PluginRequest) -> None:
        """Take away the chains of containers that are gone; nftables' rules name no network, so they stay."""
        _, backend = parse(request)
        if netfilter.choose_backend(backend) == "iptables":
            try:
                configuration = request.configuration
                portmap_iptables.collect_garbage(configuration.name, configuration.valid_attachments)
            except IptablesError as error:
                raise refused(f"portmap: {error}") from None

    def status(self, request: PluginRequest) -> None:
        """Whether the backend works on this host."""
        _, backend = parse(request)
        try:
            _FORMS[netfilter.choose_backend(backend)].probe()
        except (IptablesError, NftablesError) as error:
            raise CniError(ErrorCode.NOT_AVAILABLE, f"portmap: {error}") from None


_FORMS = {"iptables": portmap_iptables, "nftables": portmap_nftables}


def parse(request: PluginRequest) -> tuple[Forwarding, str | None]:
    """A configuration, checked: what to forward, and the backend that it names. Raises CniError."""
    settings = read_settings(request)
    return _forwarding(request, settings), settings.backend


def read_settings(request: PluginRequest) -> PortMapSettings:
    """The keys, checked but for the mappings. Raises CniError."""
    settings = read(PortMapSettings, request.configuration)
    netfilter.check_backend("backend", settings.backend)
    bit, chain = settings.mark_masq_bit, settings.external_set_mark_chain
    if bit is not None and chain is not None:
        raise refused("externalSetMarkChain and markMasqBit cannot be set at the same time; leave one out")
    if bit is not None and not 0 <= bit <= 31:
        raise invalid("markMasqBit", bit, "give 0 to 31")
    if chain is not None and not iptables.CHAIN_NAME.fullmatch(chain):
        raise invalid("externalSetMarkChain", chain, "give at most 28 characters, without spaces")
    _check_conditions(settings)
    return settings


def _forwarding(request: PluginRequest, settings: PortMapSettings, *, deleting: bool = False) -> Forwarding:
    """What to forward. A mapping that ADD refuses does not keep DEL from its work. Raises CniError."""
    mappings = []
    for item in settings.runtime_config.port_mappings:
        try:
            mappings.append(_mapping(item))
        except CniError:
            if not deleting:
                raise
    return Forwarding(
        request.configuration.name,
        request.invocation.container_id,
        tuple(mappings),
        masquerade=settings.snat,
        masquerade_all=settings.masq_all,
        mark=1 << (DEFAULT_MARK_BIT if settings.mark_masq_bit is None else settings.mark_masq_bit),
        external_mark_chain=settings.external_set_mark_chain,
        conditions={4: settings.conditions_v4, 6: settings.conditions_v6},
    )


def container_addresses(previous: Result, ifname: str) -> list[IPInterface]:
    """The first address of either family that is on the container's interface, or on none that is named."""
    found: dict[int, IPInterface] = {}
    for item in previous.ips:
        if item.interface is not None and 0 <= item.interface < len(previous.interfaces):
            device = previous.interfaces[item.interface]
            if device.name != ifname or not device.sandbox:
                continue
        found.setdefault(item.address.version, item.address)
    return [found[version] for version in sorted(found)]


def _mapping(given: _PortMapping) -> Mapping:
    for key, port in (("containerPort", given.container_port), ("hostPort", given.host_port)):
        if not 0 < port <= LARGEST_PORT:
            raise invalid(f"portMappings.{key}", port, f"give 1 to {LARGEST_PORT}")
    protocol = given.protocol.lower()
    if protocol not in PROTOCOLS:
        raise invalid("portMappings.protocol", given.protocol, f"give {', '.join(PROTOCOLS)}")
    return Mapping(protocol, given.host_port, given.container_port, _host_address(given.host_ip))


def _host_address(text: str) -> IPv4Address | IPv6Address | None:
    if not text:
        return None
    try:
        address = ip_address(text)
    except ValueError:
        raise invalid("portMappings.hostIP", text, "give an address of IPv4 or IPv6") from None
    if isinstance(address, IPv6Address):
        if address.scope_id:
            raise invalid("portMappings.hostIP", text, "leave the zone out")
        return address.ipv4_mapped or address
    return address


def _check_conditions(settings: PortMapSettings) -> None:
    """Raise CniError for conditions that no rule can hold, and for keys that are not the used backend's."""
    meant = {} if settings.external_set_mark_chain is None else {"externalSetMarkChain": "iptables"}
    for key, words in (("conditionsV4", settings.conditions_v4), ("conditionsV6", settings.conditions_v6)):
        if any(set(word) & _NOT_IN_CONDITIONS for word in words):
            raise invalid(key, list(words), "leave out line ends, ';' and '#'")
        if words and words[0]:
            # Options of iptables begin so, an expression of nftables never does.
            meant[key] = "iptables" if words[0][0] in "-!" else "nftables"
    used = netfilter.choose_backend(settings.backend) if meant else ""
    for key, backend in meant.items():
        if backend != used:
            raise refused(f"{key} is for the backend {backend}, and {used} is used; leave it out or set backend")


def _let_loopback_out(addresses: Sequence[IPInterface]) -> None:
    """Let what processes of the host send from 127.0.0.1 leave towards the container. Raises OSError."""
    for address in addresses:
        if address.version == 4:
            with RouteSocket() as host:
                try:
                    device = links.get_link(host, index=routes.find_device(host, address.ip))
                except NetlinkError:
                    return  # no way to the container from here: nothing to let out
            sysctl.write(("net", "ipv4", "conf", device.name, "route_localnet"), 1)


def _forget_flows(mappings: Sequence[Mapping], addresses: Sequence[IPInterface]) -> None:
    """Else a client of the host's port that sends on and on would reach what was there before."""
    ports = {item.host_port for item in mappings if item.protocol == "udp"}
    for address in addresses if ports else ():
        try:
            conntrack.forget_udp(interface.family(address.ip), ports)
        except OSError as error:
            _log.warning("cannot forget UDP flows to the ports %s: %s", ports, error)
