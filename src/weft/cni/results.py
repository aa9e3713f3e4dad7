"""Results of ADD, in every version of the specification.

``Result`` is the newest version's; ``from_json`` reads any version, ``to_json`` writes any. What an older
version has no word for is treated as by the reference library, so that a chain loses no more than there: 1.0.0
and 1.1.0 are written alike, before 1.0.0 an interface has name, MAC and sandbox only, before 0.3.0 a route has
target and gateway only.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address, ip_interface
from typing import Any, Self

import msgspec

from weft.cni.errors import CniError, ErrorCode
from weft.cni.versions import NEWEST, OLDEST, at_least, is_supported

_CIDR = re.compile(r"/\d{1,3}$")
IPAddress = IPv4Address | IPv6Address
IPInterface = IPv4Interface | IPv6Interface


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface that the plugin made; ``sandbox`` is the namespace's path, empty on the host. MTU in bytes."""

    name: str
    mac: str = ""
    mtu: int = 0
    sandbox: str = ""
    socket_path: str = ""
    pci_id: str = ""


@dataclass(frozen=True, slots=True)
class IPConfiguration:
    """An address with its prefix; ``interface`` is an index into the result's interfaces."""

    address: IPInterface
    gateway: IPAddress | None = None
    interface: int | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """A route in the sandbox. None stands for "not said"; ``dst`` is CIDR as text."""

    dst: str
    gateway: IPAddress | None = None
    mtu: int | None = None
    advmss: int | None = None
    priority: int | None = None
    table: int | None = None
    scope: int | None = None


@dataclass(frozen=True, slots=True)
class Dns:
    """What goes into resolv.conf."""

    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """What ADD made (specification, section 5, "ADD Success")."""

    interfaces: tuple[Interface, ...] = ()
    ips: tuple[IPConfiguration, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: Dns = field(default_factory=Dns)

    @classmethod
    def from_json(cls, data: bytes | Mapping[str, Any], version: str = OLDEST) -> Self:
        """Read a result of any version; ``version`` is that of a result which names none.

        Raises CniError 6, or 1 for a version that Weft does not speak.
        """
        body = data if isinstance(data, Mapping) else _decode(data)
        version = body.get("cniVersion") or version
        if not isinstance(version, str) or not is_supported(version):
            raise CniError(ErrorCode.INCOMPATIBLE_VERSION, f"result of unsupported cniVersion {version!r}")
        try:
            dns = _read_dns(body.get("dns") or {})
            if not at_least(version, "0.3.0"):
                ips, routes = _read_families(body)
                return cls((), ips, routes, dns)
            return cls(
                tuple(_read_interface(item) for item in body.get("interfaces") or ()),
                tuple(_read_ip(item) for item in body.get("ips") or ()),
                tuple(_read_route(item) for item in body.get("routes") or ()),
                dns,
            )
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise CniError(ErrorCode.UNDECODABLE, f"malformed result: {error}") from None

    def to_dict(self, version: str = NEWEST) -> dict[str, Any]:
        """The result in a version's words. Raises CniError 1 for a version that cannot say it."""
        if not is_supported(version):
            raise CniError(ErrorCode.INCOMPATIBLE_VERSION, f"unsupported cniVersion {version!r}")
        body: dict[str, Any] = {"cniVersion": version}
        if not at_least(version, "0.3.0"):
            if not self.ips and (self.interfaces or self.routes):
                raise CniError(
                    ErrorCode.INCOMPATIBLE_VERSION, "a result without an address has no form before 0.3.0"
                )
            body |= _families(self.ips, self.routes)
        else:
            new = at_least(version, "1.0.0")
            if self.interfaces:
                body["interfaces"] = [_interface(item, whole=new) for item in self.interfaces]
            if self.ips:
                body["ips"] = [_ip(item, with_version=not new) for item in self.ips]
            if self.routes:
                body["routes"] = [_route(item, whole=True) for item in self.routes]
        body["dns"] = _present(
            nameservers=list(self.dns.nameservers),
            domain=self.dns.domain,
            search=list(self.dns.search),
            options=list(self.dns.options),
        )
        return body

    def to_json(self, version: str = NEWEST) -> bytes:
        """``to_dict`` as a plugin prints it."""
        return msgspec.json.encode(self.to_dict(version))


def _decode(data: bytes) -> Mapping[str, Any]:
    try:
        body = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise CniError(ErrorCode.UNDECODABLE, f"malformed result: {error}") from None
    if body is None:
        return {}  # the reference library takes it for an empty result, too
    if not isinstance(body, dict):
        raise CniError(ErrorCode.UNDECODABLE, "malformed result: not an object")
    return body


def _present(**values: object) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (None, "", [], 0)}


def _interface(item: Interface, *, whole: bool) -> dict[str, Any]:
    body = {"name": item.name, **_present(mac=item.mac)}
    if whole:
        body |= _present(mtu=item.mtu)
    body |= _present(sandbox=item.sandbox)
    return body | _present(socketPath=item.socket_path, pciID=item.pci_id) if whole else body


def _ip(item: IPConfiguration, *, with_version: bool) -> dict[str, Any]:
    body: dict[str, Any] = {"version": str(item.address.version)} if with_version else {}
    if item.interface is not None:
        body["interface"] = item.interface
    body["address"] = str(item.address)
    if item.gateway is not None:
        body["gateway"] = str(item.gateway)
    return body


def _route(item: Route, *, whole: bool) -> dict[str, Any]:
    body = {"dst": item.dst, **_present(gw=str(item.gateway) if item.gateway else None)}
    if whole:
        for name in ("mtu", "advmss", "priority", "table", "scope"):
            if getattr(item, name) is not None:
                body[name] = getattr(item, name)
    return body


def _families(ips: Sequence[IPConfiguration], routes: Sequence[Route]) -> dict[str, Any]:
    """Versions 0.1.0 and 0.2.0: one address per family, under ``ip4`` and ``ip6``."""
    body = {}
    for family in (4, 6):
        own = [item for item in ips if item.address.version == family]
        if not own:
            continue
        # The reference takes the first of several, too.
        body[f"ip{family}"] = {
            "ip": str(own[0].address),
            **_present(
                gateway=str(own[0].gateway) if own[0].gateway else None,
                routes=[_route(item, whole=False) for item in routes if ip_interface(item.dst).version == family],
            ),
        }
    return body


def _read_families(body: Mapping[str, Any]) -> tuple[tuple[IPConfiguration, ...], tuple[Route, ...]]:
    ips, routes = [], []
    for family in ("ip4", "ip6"):
        if item := body.get(family):
            ips.append(_read_ip({"address": item["ip"], "gateway": item.get("gateway")}))
            routes += [_read_route(route) for route in item.get("routes") or ()]
    return tuple(ips), tuple(routes)


def _text(item: Mapping[str, Any], name: str) -> str:
    value = item.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name} {value!r} is not text")
    return value or ""


def _number(item: Mapping[str, Any], name: str) -> int | None:
    value = item.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise ValueError(f"{name} {value!r} is not a number")
    return value


def _read_interface(item: Mapping[str, Any]) -> Interface:
    return Interface(
        _text(item, "name"),
        _text(item, "mac"),
        _number(item, "mtu") or 0,
        _text(item, "sandbox"),
        _text(item, "socketPath"),
        _text(item, "pciID"),
    )


def _read_gateway(text: str) -> IPAddress | None:
    return ip_address(text) if text else None


def _read_cidr(text: str) -> IPInterface:
    if not _CIDR.search(text):
        raise ValueError(f"{text!r} is not ADDRESS/PREFIX")
    return ip_interface(text)


def _read_ip(item: Mapping[str, Any]) -> IPConfiguration:
    address = _read_cidr(_text(item, "address"))
    return IPConfiguration(address, _read_gateway(_text(item, "gateway")), _number(item, "interface"))


def _read_route(item: Mapping[str, Any]) -> Route:
    return Route(
        str(_read_cidr(_text(item, "dst"))),
        _read_gateway(_text(item, "gw")),
        *(_number(item, name) for name in ("mtu", "advmss", "priority", "table", "scope")),
    )


def _read_dns(item: Mapping[str, Any]) -> Dns:
    return Dns(
        tuple(map(str, item.get("nameservers") or ())),
        _text(item, "domain"),
        tuple(map(str, item.get("search") or ())),
        tuple(map(str, item.get("options") or ())),
    )
