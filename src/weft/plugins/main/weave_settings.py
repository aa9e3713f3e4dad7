"""The keys of the plugin ``weave-net``, checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface
from typing import Any, Protocol

from weft.cni import CniError, ErrorCode, Result, Route

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


def invalid(key: str, value: object, mend: str) -> CniError:
    """What a key that cannot be honoured is answered with."""
    return CniError(ErrorCode.INVALID_CONFIG, f"{key} {value!r}: {mend}")
