"""Routes against the kernel."""

import errno
import socket
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kernel import oracle
from tests.namespaces import ip
from weft.kernel import addresses, links, routes
from weft.kernel.netlink import NetlinkError, RouteSocket
from weft.kernel.routes import Route


@pytest.fixture
def device(host: RouteSocket) -> int:
    host.execute([links.create_bridge(name="weave", address="02:00:00:00:00:01")])
    index = links.find_index(host, "weave")
    host.execute(
        [
            addresses.add_address(index, ip_interface("10.244.0.1/16")),
            addresses.add_address(index, ip_interface("fd00::1/64")),
        ]
    )
    return index


def found(host: RouteSocket, destination: str, table: int | None = routes.TABLE_MAIN) -> list[Route]:
    return [route for route in routes.dump_routes(host, table=table) if str(route.destination) == destination]


def test_a_default_route_looks_as_iproute2_makes_it(host: RouteSocket, namespace: str, device: int) -> None:
    host.execute([routes.add_route(ip_network("0.0.0.0/0"), gateway=ip_address("10.244.0.9"), device=device)])
    # No protocol is shown, as after ``ip route add``; the bridge has no port yet.
    assert "default via 10.244.0.9 dev weave linkdown \n" in ip("route", namespace=namespace)
    assert found(host, "0.0.0.0/0") == [
        Route(
            destination=IPv4Network("0.0.0.0/0"),
            gateway=ip_address("10.244.0.9"),
            device=device,
            on_link=False,
            source=None,
            scope=routes.SCOPE_GLOBAL,
            table=254,
            metric=0,
            mtu=0,
            protocol=routes.PROTOCOL_BOOT,
            kind=routes.UNICAST,
        )
    ]


def test_the_route_to_a_peer(host: RouteSocket, namespace: str, device: int) -> None:
    host.execute(
        [
            routes.add_route(
                ip_network("10.99.0.0/17"),
                gateway=ip_address("10.99.0.1"),
                device=device,
                on_link=True,
                source=ip_address("10.244.0.1"),
                mtu=1450,
                metric=5,
            )
        ]
    )
    (route,) = found(host, "10.99.0.0/17")
    assert (route.on_link, route.source, route.mtu, route.metric) == (True, ip_address("10.244.0.1"), 1450, 5)
    (seen,) = oracle.ask(
        namespace, lambda route: list(route.get_routes(dst="10.99.0.0/17", family=socket.AF_INET))
    )
    assert (seen.get("gateway"), seen.get("prefsrc"), seen.get("oif")) == ("10.99.0.1", "10.244.0.1", device)
    assert "onlink" in ip("route", "show", "10.99.0.0/17", namespace=namespace)


def test_ipv6(host: RouteSocket, namespace: str, device: int) -> None:
    host.execute(
        [
            routes.add_route(ip_network("::/0"), gateway=ip_address("fd00::9"), device=device),
            routes.add_route(ip_network("fd01::/64"), device=device, source=ip_address("fd00::1")),
        ]
    )
    shown = ip("-6", "route", namespace=namespace)
    assert "default via fd00::9 dev weave" in shown
    assert "fd01::/64 dev weave src fd00::1" in shown
    (route,) = found(host, "::/0")
    assert (route.gateway, route.device) == (ip_address("fd00::9"), device)


def test_a_route_without_gateway_is_one_of_the_link(host: RouteSocket, namespace: str, device: int) -> None:
    host.execute([routes.add_route(ip_network("10.7.0.0/24"), device=device)])
    assert "10.7.0.0/24 dev weave scope link" in ip("route", namespace=namespace)
    assert found(host, "10.7.0.0/24")[0].scope == routes.SCOPE_LINK


@pytest.mark.parametrize("text", ["10.99.0.0/16", "fd99::/64"])
@pytest.mark.parametrize(("kind", "name"), [(routes.BLACKHOLE, "blackhole"), (routes.UNREACHABLE, "unreachable")])
def test_routes_that_lead_nowhere(host: RouteSocket, namespace: str, text: str, kind: int, name: str) -> None:
    host.execute([routes.add_route(ip_network(text), kind=kind)])
    assert found(host, text)[0].kind == kind
    assert f"{name} {text}" in ip("-6" if ":" in text else "-4", "route", namespace=namespace)
    host.execute([routes.delete_route(ip_network(text))])
    assert found(host, text) == []


@pytest.mark.parametrize(
    ("text", "first", "second"),
    [("10.99.0.0/16", "10.244.0.8", "10.244.0.9"), ("fd99::/64", "fd00::8", "fd00::9")],
)
def test_add_replace_delete(host: RouteSocket, device: int, text: str, first: str, second: str) -> None:
    network = ip_network(text)
    host.execute([routes.add_route(network, gateway=ip_address(first), device=device)])
    with pytest.raises(NetlinkError) as raised:
        host.execute([routes.add_route(network, gateway=ip_address(first), device=device)])
    assert raised.value.errno == errno.EEXIST
    host.execute([routes.replace_route(network, gateway=ip_address(second), device=device)])
    assert [route.gateway for route in found(host, text)] == [ip_address(second)]
    with pytest.raises(NetlinkError) as raised:
        host.execute([routes.delete_route(network, gateway=ip_address(first), device=device)])
    assert raised.value.errno == errno.ESRCH
    host.execute([routes.delete_route(network, device=device)])
    assert found(host, text) == []


def test_tables_beyond_a_byte(host: RouteSocket, device: int) -> None:
    network = ip_network("10.99.0.0/16")
    host.execute([routes.add_route(network, device=device, table=6784)])
    assert found(host, "10.99.0.0/16") == []
    assert [route.table for route in found(host, "10.99.0.0/16", 6784)] == [6784]
    assert [route.table for route in found(host, "10.99.0.0/16", None)] == [6784]
    host.execute([routes.delete_route(network, table=6784)])
    assert routes.dump_routes(host, table=6784) == []
    assert routes.dump_routes(host, table=4711) == []


def test_dumps_are_filtered(host: RouteSocket, device: int) -> None:
    host.execute([links.create_bridge(name="other", address="02:00:00:00:00:02")])
    other = links.find_index(host, "other")
    host.execute([routes.add_route(ip_network("10.7.0.0/24"), device=other)])
    assert {route.device for route in routes.dump_routes(host)} == {device, other}
    assert {route.device for route in routes.dump_routes(host, device=other)} == {other}
    assert {route.destination.version for route in routes.dump_routes(host, family=socket.AF_INET)} == {4}
    assert {route.destination.version for route in routes.dump_routes(host, family=socket.AF_INET6)} == {6}
    assert routes.dump_routes(host, device=4711) == []
    local = routes.dump_routes(host, table=255, family=socket.AF_INET)
    assert {routes.LOCAL, routes.BROADCAST} == {route.kind for route in local}


def test_of_several_hops_the_first(host: RouteSocket, namespace: str, device: int) -> None:
    hops = ("nexthop", "via", "10.244.0.8", "dev", "weave", "nexthop", "via", "10.244.0.9", "dev", "weave")
    ip("route", "add", "10.99.0.0/16", *hops, namespace=namespace)
    (route,) = found(host, "10.99.0.0/16")
    assert (route.gateway, route.device) == (ip_address("10.244.0.8"), device)


def test_an_ipv4_route_through_an_ipv6_gateway(host: RouteSocket, namespace: str, device: int) -> None:
    gateway = ip_address("fd00::9")
    host.execute([routes.add_route(ip_network("10.99.0.0/16"), gateway=gateway, device=device)])
    assert "10.99.0.0/16 via inet6 fd00::9 dev weave" in ip("route", namespace=namespace)
    assert found(host, "10.99.0.0/16")[0].gateway == gateway


def test_the_kernel_says_why(host: RouteSocket) -> None:
    with pytest.raises(NetlinkError, match=r"cannot add the route to 1.0.0.0/8: .*invalid gateway"):
        host.execute([routes.add_route(ip_network("1.0.0.0/8"), gateway=ip_address("9.9.9.9"))])


NETWORKS = st.builds(
    lambda address, length: ip_network((address, length % (address.max_prefixlen + 1)), strict=False),
    st.ip_addresses(),
    st.integers(0, 128),
)
NUMBERS = st.integers(0, 0x7FFFFFFF)
BYTES = st.integers(1, 255)


@given(
    st.builds(
        Route,
        destination=NETWORKS,
        gateway=st.none() | st.ip_addresses(),
        device=NUMBERS,
        on_link=st.booleans(),
        source=st.none() | st.ip_addresses(),
        scope=BYTES,
        table=st.integers(1, 0xFFFFFFFF),
        metric=NUMBERS,
        mtu=NUMBERS,
        protocol=BYTES,
        kind=BYTES,
    )
)
def test_what_is_encoded_is_parsed(route: Route) -> None:
    assert isinstance(route.destination, IPv4Network | IPv6Network)
    # The kernel takes a source of the destination's own family only.
    if route.source is not None and route.source.version != route.destination.version:
        route = replace(route, source=None)
    assert routes.parse_route(routes.encode_route(route)) == route
