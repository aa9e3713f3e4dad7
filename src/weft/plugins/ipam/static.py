"""``static``: addresses as the configuration, or the runtime, gives them. Keeps nothing.

``ipam.addresses`` are what a configuration says; IP and GATEWAY of CNI_ARGS add to them, ``args.cni.ips`` and,
before all, ``runtimeConfig.ips`` take their place.
"""

from dataclasses import replace
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from typing import Any

from weft.cni import IPConfiguration, Result
from weft.plugins.ipam.host_local import check_family_count, parse_routes
from weft.plugins.ipam.ranges import parse_address
from weft.plugins.plugin import PluginRequest
from weft.plugins.settings import DnsSettings, IpamSettings, Settings, read, read_arguments, refused


class AddressSettings(Settings, frozen=True, kw_only=True):
    """One address with its prefix."""

    address: str = ""
    gateway: str = ""


class StaticIpam(IpamSettings, frozen=True, kw_only=True):
    """``ipam``."""

    addresses: tuple[AddressSettings, ...] = ()
    routes: tuple[dict[str, Any], ...] = ()
    dns: DnsSettings = DnsSettings()


class _Requested(Settings, frozen=True, kw_only=True):
    ips: tuple[str, ...] = ()


class _Arguments(Settings, frozen=True, kw_only=True):
    cni: _Requested = _Requested()


class StaticSettings(Settings, frozen=True, kw_only=True):
    """The configuration of the plugin that delegates."""

    ipam: StaticIpam | None = None
    runtime_config: _Requested = _Requested()
    args: _Arguments = _Arguments()


class Static:
    """``weft.plugins.Plugin`` for ``static``."""

    def add(self, request: PluginRequest) -> Result:
        """The addresses."""
        return parse(request)

    def delete(self, request: PluginRequest) -> None:
        """Nothing is kept."""

    def check(self, request: PluginRequest) -> None:
        """The addresses of prevResult have the gateways of the configuration."""
        wanted = parse(request)
        previous = request.previous_result
        for item in wanted.ips:
            for found in previous.ips:
                same = item.address.ip == found.address.ip
                if same and item.gateway is not None and item.gateway != found.gateway:
                    raise refused(f"static: {item.address} has gateway {found.gateway}, not {item.gateway}")

    def gc(self, request: PluginRequest) -> None:
        """Nothing is kept."""

    def status(self, request: PluginRequest) -> None:
        """The configuration can be used."""
        parse(request)


def parse(request: PluginRequest) -> Result:
    """The result of a configuration. Raises CniError."""
    settings = read(StaticSettings, request.configuration)
    ipam = settings.ipam
    if ipam is None:
        raise refused("IPAM config missing 'ipam' key")
    named = read_arguments(request.invocation, "IP", "GATEWAY")
    gateways = [parse_address(text.strip(), "GATEWAY of CNI_ARGS") for text in _listed(named.get("GATEWAY", ""))]
    more = [_interface(text.strip(), "IP of CNI_ARGS") for text in _listed(named.get("IP", ""))]
    ips = [_configured(item) for item in ipam.addresses] + [IPConfiguration(item) for item in more]
    for gateway in gateways:
        ips = [replace(item, gateway=gateway) if gateway in item.address.network else item for item in ips]
    for key, given in (
        ("args.cni.ips", settings.args.cni.ips),
        ("runtimeConfig.ips", settings.runtime_config.ips),
    ):
        if given:
            ips = [IPConfiguration(_interface(text, key)) for text in given]
    check_family_count([item.address.version for item in ips], request.configuration.cni_version)
    return Result((), tuple(ips), parse_routes(ipam.routes), ipam.dns.result())


def _listed(text: str) -> list[str]:
    return text.split(",") if text else []


def _configured(settings: AddressSettings) -> IPConfiguration:
    address = _interface(settings.address, "ipam.addresses.address")
    gateway = parse_address(settings.gateway, "ipam.addresses.gateway") if settings.gateway else None
    return IPConfiguration(address, gateway)


def _interface(text: str, what: str) -> IPv4Interface | IPv6Interface:
    try:
        if "/" not in text:
            raise ValueError
        return ip_interface(text)
    except ValueError:
        raise refused(f"{what} {text!r}: an address in CIDR notation is expected, such as 10.22.0.5/16") from None
