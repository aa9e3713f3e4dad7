"""The keys of the plugin ``weave-net``, checked, and the bridge that its pods are put on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Any, Protocol

from weft.cni import CniError, ErrorCode, Result, Route

TYPE = "weave-net"
#: Bytes; the least that IPv4 asks of a link with room for a header (RFC 791).
SMALLEST_MTU = 576


class Bridge(Protocol):
    """The bridge that pods are put on.

    ``addresses`` are its own, one of each range that the node serves, the gateway of the pods in it; the first is
    of IPv4. ``networks`` are all ranges of the pod network, other nodes' too.
    """

    @property
    def index(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def link_address(self) -> str: ...
    @property
    def addresses(self) -> Sequence[IPv4Interface | IPv6Interface]: ...
    @property
    def mtu(self) -> int: ...
    @property
    def networks(self) -> Sequence[IPv4Network | IPv6Network]: ...


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
    if gateway is not None and not any(gateway in network for network in bridge.networks):
        four = " and ".join(str(network) for network in bridge.networks if network.version == 4)
        raise invalid("ipam.gateway", gateway, f"a pod reaches gateways in {four} only")
    return Settings(mtu or bridge.mtu, hairpin, "", gateway, given)


def gateway_of(bridge: Bridge, address: IPv4Address | IPv6Address) -> IPv4Interface | IPv6Interface:
    """The bridge's address of the range that a pod's address is in. Raises RuntimeError where it has none."""
    for own in bridge.addresses:
        if address in own.network:
            return own
    raise RuntimeError(f"bridge {bridge.name} has no address of the range that {address} is in")


def interface_of(bridge: Bridge, address: IPv4Address | IPv6Address) -> IPv4Interface | IPv6Interface:
    """A pod's address as its interface has it: of IPv4 with the prefix of its range, of IPv6 alone."""
    if isinstance(address, IPv6Address):
        return IPv6Interface(address)
    return IPv4Interface((address, gateway_of(bridge, address).network.prefixlen))


def invalid(key: str, value: object, mend: str) -> CniError:
    """What a key that cannot be honoured is answered with."""
    return CniError(ErrorCode.INVALID_CONFIG, f"{key} {value!r}: {mend}")
