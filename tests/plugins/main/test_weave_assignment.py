"""Which routes a pod gets: to every range through the bridge, whatever the configuration says."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_address, ip_interface
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from weft.cni import Route
from weft.plugins.main.weave_assignment import Assignment, own
from weft.plugins.main.weave_settings import Settings

NETWORKS = (IPv4Network("10.244.0.0/16"), IPv4Network("10.245.0.0/16"), IPv6Network("fd00:1::/64"))
ADDRESSES = ("10.244.0.1/16", "10.245.0.1/16", "fd00:1::1/64")


@dataclass(frozen=True)
class Bridge:
    index: int = 3
    name: str = "weave"
    link_address: str = "02:00:00:00:00:01"
    addresses: tuple[IPv4Interface | IPv6Interface, ...] = tuple(map(ip_interface, ADDRESSES))
    mtu: int = 1450
    networks: tuple[IPv4Network | IPv6Network, ...] = NETWORKS


def settings(routes: Any = (), gateway: str = "") -> Settings:
    given = IPv4Address(gateway) if gateway else None
    return Settings(1450, hairpin=True, ipam_type="", gateway=given, routes=tuple(routes))


def way(assigned: Assignment, address: str) -> str:
    """The gateway that a packet of the pod takes: the longest prefix counts."""
    target = ip_address(address)
    ways = [(route.destination, str(route.gateway or "the link")) for route in assigned.routes]
    ways += [(item.address.network, "the link") for item in assigned.ips]
    fitting = [(network.prefixlen, gateway) for network, gateway in ways if target in network]
    return max(fitting)[1] if fitting else "none"


def test_without_routes_of_its_own_a_configuration_gives_the_default_route_alone() -> None:
    assigned = own(settings(), Bridge(), [ip_address("10.245.0.9"), ip_address("fd00:1::9")])
    assert [str(item.address) for item in assigned.ips] == ["10.245.0.9/16", "fd00:1::9/128"]
    assert [str(item.gateway) for item in assigned.ips] == ["10.245.0.1", "fd00:1::1"]
    assert [route.dst for route in assigned.told] == ["0.0.0.0/0", "::/0"]
    assert way(assigned, "10.244.7.7") == "10.245.0.1"


@given(
    st.sampled_from(["10.244.0.9", "10.245.0.9"]),
    st.lists(
        st.sampled_from(["0.0.0.0/0", "10.0.0.0/8", "10.96.0.0/12", "192.168.0.0/16", "::/0", "fd00:9::/64"]),
        unique=True,
    ),
    st.sampled_from(["", "10.244.0.200", "10.245.0.200"]),
)
def test_every_range_is_reached_through_the_bridge(address: str, routes: list[str], gateway: str) -> None:
    assigned = own(
        settings([Route(text) for text in routes], gateway),
        Bridge(),
        [ip_address(address), ip_address("fd00:1::9")],
    )
    bridge = {"10.244.0.9": "10.244.0.1", "10.245.0.9": "10.245.0.1"}[address]
    for target in ("10.244.7.7", "10.245.7.7"):
        same = target[:6] == address[:6]
        assert way(assigned, target) == ("the link" if same else bridge)
    expected = gateway or bridge
    assert way(assigned, "10.96.0.1") == (expected if {*routes} & {"0.0.0.0/0", "10.0.0.0/8", "10.96.0.0/12"} or
                                          not routes else "none")  # fmt: skip


def test_a_route_of_the_configuration_to_a_range_counts() -> None:
    route = Route("10.245.0.0/16", ip_address("10.244.0.200"))
    assigned = own(settings([route]), Bridge(), [ip_address("10.244.0.9")])
    assert way(assigned, "10.245.7.7") == "10.244.0.200"
    assert assigned.told == (route,)
