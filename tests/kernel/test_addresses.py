"""Addresses against the kernel."""

import errno
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface, ip_address, ip_interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kernel import oracle
from tests.namespaces import ip
from weft.kernel import addresses, links
from weft.kernel.netlink import NetlinkError, RouteSocket


def device(host: RouteSocket) -> int:
    host.execute([links.create_bridge(name="weave", address="02:00:00:00:00:01")])
    return links.find_index(host, "weave")


def held(host: RouteSocket, index: int) -> set[str]:
    return {
        str(item.interface) for item in addresses.dump_addresses(host, index) if item.scope != addresses.SCOPE_LINK
    }


def test_an_address_looks_as_iproute2_makes_it(host: RouteSocket, namespace: str) -> None:
    index = device(host)
    host.execute([addresses.add_address(index, ip_interface("10.244.0.1/16"))])
    shown = ip("-4", "addr", "show", "weave", namespace=namespace)
    assert "inet 10.244.0.1/16 brd 10.244.255.255 scope global weave\n" in shown
    assert "10.244.0.0/16 dev weave proto kernel scope link src 10.244.0.1" in ip("route", namespace=namespace)
    seen = oracle.ask(namespace, lambda route: route.get_addr(index=index, family=2))
    assert [(item.get("address"), item.get("broadcast"), item["prefixlen"]) for item in seen] == [
        ("10.244.0.1", "10.244.255.255", 16)
    ]
    (found,) = [
        item for item in addresses.dump_addresses(host, index) if isinstance(item.interface, IPv4Interface)
    ]
    assert found == addresses.Address(
        index, ip_interface("10.244.0.1/16"), 0, IPv4Address("10.244.255.255"), None, "weave", False, False
    )


@pytest.mark.parametrize("text", ["10.0.0.1/32", "10.0.0.1/31", "10.0.0.1/30", "10.0.0.1/8", "10.0.0.0/16"])
def test_broadcast_only_where_the_subnet_has_one(host: RouteSocket, text: str) -> None:
    interface = IPv4Interface(text)
    index = device(host)
    host.execute([addresses.add_address(index, interface)])
    (found,) = [item for item in addresses.dump_addresses(host, index) if item.interface == interface]
    expected = interface.network.broadcast_address if interface.network.prefixlen <= 30 else None
    assert found.broadcast == expected


def test_an_ipv6_address_is_usable_at_once(host: RouteSocket, namespace: str) -> None:
    index = device(host)
    host.execute([addresses.add_address(index, ip_interface("fd00::1/64"))])
    (found,) = [item for item in addresses.dump_addresses(host, index) if item.scope == addresses.SCOPE_GLOBAL]
    assert found.interface == IPv6Interface("fd00::1/64")
    assert not found.tentative
    assert not found.duplicate
    assert "inet6 fd00::1/64 scope global nodad" in ip("-6", "addr", "show", "weave", namespace=namespace)


@pytest.mark.parametrize("text", ["10.1.0.1/24", "fd00::1/64"])
def test_add_replace_delete(host: RouteSocket, text: str) -> None:
    index, interface = device(host), ip_interface(text)
    host.execute([addresses.add_address(index, interface)])
    with pytest.raises(NetlinkError) as raised:
        host.execute([addresses.add_address(index, interface)])
    assert raised.value.errno == errno.EEXIST
    host.execute([addresses.replace_address(index, interface)])
    assert held(host, index) == {text}
    host.execute([addresses.delete_address(index, interface)])
    assert held(host, index) == set()
    with pytest.raises(NetlinkError) as raised:
        host.execute([addresses.delete_address(index, interface)])
    assert raised.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.parametrize("text", ["10.1.0.1/24", "fd00::1/64"])
def test_no_route_to_the_subnet_where_none_is_wanted(host: RouteSocket, namespace: str, text: str) -> None:
    index, interface = device(host), ip_interface(text)
    host.execute([addresses.add_address(index, interface, prefix_route=False)])
    assert held(host, index) == {text}
    assert str(interface.network) not in ip("route", namespace=namespace) + ip("-6", "route", namespace=namespace)


def test_scope(host: RouteSocket, namespace: str) -> None:
    host.execute([addresses.add_address(device(host), ip_interface("169.254.1.1/32"), scope=addresses.SCOPE_LINK)])
    assert "169.254.1.1/32 scope link weave" in ip("addr", "show", "weave", namespace=namespace)


def test_the_pods_addresses_are_read_from_outside(
    host: RouteSocket, inner: RouteSocket, pod_descriptor: int
) -> None:
    host.execute([links.create_veth(name="outer", peer_name="eth0", peer_namespace_fd=pod_descriptor, mtu=1500)])
    index = links.find_index(inner, "eth0")
    inner.execute(
        [addresses.add_address(index, ip_interface("10.1.2.3/16")), links.set_link(index=index, up=True)]
    )
    outer = links.get_link(host, name="outer")
    there = addresses.dump_addresses(host, outer.peer_index, target_namespace_id=outer.peer_namespace_id)
    assert IPv4Interface("10.1.2.3/16") in {item.interface for item in there}
    assert set(there) == set(addresses.dump_addresses(inner, index))
    assert IPv4Interface("10.1.2.3/16") not in {item.interface for item in addresses.dump_addresses(host)}


def test_a_point_to_point_address_has_a_peer(host: RouteSocket, namespace: str) -> None:
    index = device(host)
    ip("addr", "add", "10.9.0.1", "peer", "10.9.0.2/32", "dev", "weave", namespace=namespace)
    (found,) = [item for item in addresses.dump_addresses(host, index) if item.interface.version == 4]
    assert (found.interface, found.peer) == (ip_interface("10.9.0.1/32"), ip_address("10.9.0.2"))


def test_all_addresses(host: RouteSocket) -> None:
    index = device(host)
    host.execute([addresses.add_address(index, ip_interface("10.1.0.1/24"))])
    found = {(item.index, str(item.interface)) for item in addresses.dump_addresses(host)}
    assert {(1, "127.0.0.1/8"), (1, "::1/128"), (index, "10.1.0.1/24")} <= found


INTERFACES = st.builds(
    lambda address, length: ip_interface((address, length % (address.max_prefixlen + 1))),
    st.ip_addresses(),
    st.integers(0, 128),
)


@given(INTERFACES, st.integers(1, 0x7FFFFFFF), st.integers(0, 255))
def test_what_is_encoded_is_parsed(interface: IPv4Interface | IPv6Interface, index: int, scope: int) -> None:
    found = addresses.parse_address(addresses.encode_address(index, interface, scope, prefix_route=True))
    assert found is not None
    assert (found.index, found.interface, found.scope, found.peer) == (index, interface, scope, None)
