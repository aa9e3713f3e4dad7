"""The keys of the plugin ``weave-net``, checked, and the addresses that a runtime asks for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_interface
from typing import Any, Protocol

from weft.cni import CniError, ErrorCode, Result, Route
from weft.plugins.plugin import PluginRequest

TYPE = "weave-net"
#: Bytes; the least that IPv4 asks of a link with room for a header (RFC 791).
SMALLEST_MTU = 576


class Bridge(Protocol):
    """The bridge that pods are put on."""

    @property
    def index(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def link_address(self) -> str: ...
    @property
    def address(self) -> IPv4Interface: ...
    @property
    def address6(self) -> IPv6Interface | None: ...
    @property
    def mtu(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Settings:
    """The plugin's own keys, checked. MTU in bytes; ``ipam_type`` is empty for the node's own addresses.

    ``routes`` are those that the configuration gives; none means default routes.
    """

    mtu: int
    hairpin: bool
    ipam_type: str
    gateway: IPv4Address | None
    routes: tuple[Route, ...]


def parse_settings(raw: Mapping[str, Any], bridge: Bridge) -> Settings:
    """Check the plugin's own keys. Raises CniError 7, naming the key, its value and the mend."""
    name = raw.get("bridge", bridge.name)
    if name != bridge.name:
        raise invalid("bridge", name, f"this node's bridge is {bridge.name!r}")
    for key in ("isGateway", "ipMasq"):
        if raw.get(key):
            raise invalid(key, raw[key], "the node does that for all pods; leave it out")
    mtu = raw.get("mtu", 0)
    if not isinstance(mtu, int) or isinstance(mtu, bool) or not (mtu == 0 or SMALLEST_MTU <= mtu <= bridge.mtu):
        raise invalid("mtu", mtu, f"give {SMALLEST_MTU} to {bridge.mtu} bytes, or 0 for the bridge's")
    hairpin = raw.get("hairpinMode", True)
    if not isinstance(hairpin, bool):
        raise invalid("hairpinMode", hairpin, "give true or false")
    ipam = raw.get("ipam") or {}
    kind = ipam.get("type") or ""
    if not isinstance(kind, str):
        raise invalid("ipam.type", kind, "give the name of an IPAM plugin")
    if kind in (TYPE, "weave-ipam"):
        kind = ""
    if kind:
        return Settings(mtu or bridge.mtu, hairpin, kind, None, ())
    if not ipam:
        return Settings(mtu or bridge.mtu, hairpin, "", None, ())
    if ipam.get("subnet"):
        raise invalid("ipam.subnet", ipam["subnet"], "addresses come from the node's blocks; leave it out")
    try:
        given = Result.from_json({"cniVersion": "1.0.0", "routes": ipam.get("routes") or []}).routes
        gateway = IPv4Address(ipam["gateway"]) if ipam.get("gateway") else None
    except (CniError, ValueError) as error:
        raise CniError(ErrorCode.INVALID_CONFIG, f"ipam: {error}") from None
    if gateway is not None and gateway not in bridge.address.network:
        raise invalid("ipam.gateway", gateway, f"a pod reaches gateways in {bridge.address.network} only")
    return Settings(mtu or bridge.mtu, hairpin, "", gateway, given)


def requested_addresses(request: PluginRequest) -> tuple[IPv4Address | IPv6Address, ...]:
    """The addresses that a runtime asks for, in the place that counts: ``runtimeConfig.ips``, then
    ``args.cni.ips``, then IP of CNI_ARGS; CIDR notation is fine, its prefix is the range's.

    Raises CniError.
    """
    cni = (request.configuration.raw.get("args") or {}).get("cni") or {}
    for key, given in (
        ("runtimeConfig.ips", list(request.configuration.runtime.ips)),
        ("args.cni.ips", cni.get("ips") if isinstance(cni, dict) else cni),
        ("IP of CNI_ARGS", request.invocation.arguments.get("IP", "").split(",")),
    ):
        if not isinstance(given, list | None) or not all(isinstance(text, str) for text in given or ()):
            raise invalid(key, given, "give a list of addresses")
        if texts := [text.strip() for text in given or () if text.strip()]:
            return _addresses(key, texts)
    return ()


def _addresses(key: str, texts: Sequence[str]) -> tuple[IPv4Address | IPv6Address, ...]:
    found = []
    for text in texts:
        try:
            found.append(ip_interface(text).ip)
        except ValueError:
            raise invalid(key, text, "give an address, such as 10.32.0.7") from None
    return tuple(found)


def invalid(key: str, value: object, mend: str) -> CniError:
    """What a key that cannot be honoured is answered with."""
    return CniError(ErrorCode.INVALID_CONFIG, f"{key} {value!r}: {mend}")
