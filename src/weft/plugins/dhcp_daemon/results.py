"""A lease as the daemon answers it, and as the plugin prints it: Go's ``types/100.Result``, by its fields."""

import logging
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any, TypeVar

from weft.cni import Dns, IPConfiguration, Result, Route
from weft.dhcp import Lease, LeaseError
from weft.dhcp.options import parse_prefix_length
from weft.plugins.dhcp_daemon.gob import GobError

_log = logging.getLogger(__name__)
Value = TypeVar("Value")

#: The scope of a destination on the link (rtnetlink(7), RT_SCOPE_LINK).
_SCOPE_LINK = 253
#: IPv6's form of an IPv4 address, in which Go keeps some.
_MAPPED = bytes(10) + b"\xff\xff"


def encode_result(lease: Lease, priority: int) -> dict[str, Any]:
    """The fields of an answer; ``priority`` is the routes' metric, 0 for the kernel's. Raises LeaseError.

    What the server says of name servers and domains is left out where it cannot be read: a pod does without.
    """
    gateway = lease.gateway
    return {
        "IPs": [
            {
                "Address": _network(lease.interface),
                "Gateway": b"" if gateway is None else gateway.packed,
            }
        ],
        "Routes": [_route(destination, to, priority) for destination, to in lease.routes],
        "DNS": {
            "Nameservers": [str(address) for address in _readable(lambda: lease.name_servers) or ()],
            "Domain": _readable(lambda: lease.domain) or "",
            "Search": list(_readable(lambda: lease.search) or ()),
        },
    }


def decode_result(fields: Mapping[str, Any]) -> Result:
    """The result of a daemon's answer. Raises GobError where it holds no addresses."""
    try:
        ips = tuple(
            IPConfiguration(
                IPv4Interface((_address(item["Address"]["IP"]), _prefix(item["Address"]["Mask"]))),
                _address(item["Gateway"]) if item.get("Gateway") else None,
            )
            for item in fields.get("IPs", ())
        )
        routes = tuple(
            Route(
                f"{_address(item['Dst']['IP'])}/{_prefix(item['Dst']['Mask'])}",
                _address(item["GW"]) if item.get("GW") else None,
                item.get("MTU"),
                item.get("AdvMSS"),
                item.get("Priority"),
                item.get("Table"),
                item.get("Scope"),
            )
            for item in fields.get("Routes", ())
        )
        dns = fields.get("DNS", {})
        return Result(
            (),
            ips,
            routes,
            Dns(
                tuple(dns.get("Nameservers", ())),
                dns.get("Domain", ""),
                tuple(dns.get("Search", ())),
                tuple(dns.get("Options", ())),
            ),
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise GobError(f"the daemon's answer has no addresses: {error!r}") from None


def _route(destination: IPv4Network, to: IPv4Address, priority: int) -> dict[str, Any]:
    on_link = int(to) == 0
    return {
        "Dst": {"IP": destination.network_address.packed, "Mask": destination.netmask.packed},
        "GW": to.packed,
        "Priority": priority,
        "Scope": _SCOPE_LINK if on_link else None,
    }


def _network(interface: IPv4Interface) -> dict[str, bytes]:
    return {"IP": interface.ip.packed, "Mask": interface.netmask.packed}


def _address(data: bytes) -> IPv4Address:
    return IPv4Address(data[len(_MAPPED) :] if data.startswith(_MAPPED) else data)


def _prefix(mask: bytes) -> int:
    return parse_prefix_length(mask[-4:])


def _readable(read: Callable[[], Value]) -> Value | None:
    try:
        return read()
    except LeaseError as error:
        _log.warning("%s", error)
        return None
