"""Neighbours and forwarding entries against the kernel."""

import errno
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kernel import oracle
from tests.kernel.conftest import make_or_skip
from tests.namespaces import ip, run
from weft.kernel import links, neighbours
from weft.kernel.attributes import as_link_address
from weft.kernel.neighbours import ForwardingEntry, Neighbour
from weft.kernel.netlink import Message, NetlinkError, RouteSocket

ONE, TWO = "02:00:00:00:00:11", "02:00:00:00:00:22"


@pytest.fixture
def bridge(host: RouteSocket) -> int:
    host.execute([links.create_bridge(name="weave", address="02:00:00:00:00:01")])
    return links.find_index(host, "weave")


@pytest.fixture
def tunnel(host: RouteSocket, bridge: int) -> int:
    make_or_skip(
        host,
        links.create_vxlan(
            name="vxlan-6784",
            vni=6784,
            port=6784,
            local=ip_address("127.0.0.1"),
            underlay_index=bridge,
            mtu=1450,
            address="02:00:00:00:00:02",
        ),
    )
    return links.find_index(host, "vxlan-6784")


def refused(host: RouteSocket, *messages: Message) -> int:
    with pytest.raises(NetlinkError) as raised:
        host.execute(messages)
    return raised.value.errno or 0


def permanent(host: RouteSocket, index: int) -> list[Neighbour]:
    return [item for item in neighbours.dump_neighbours(host, index) if item.permanent]


@pytest.mark.parametrize("text", ["10.244.192.0", "fd00::9"])
def test_neighbours_are_added_replaced_deleted(host: RouteSocket, namespace: str, bridge: int, text: str) -> None:
    address = ip_address(text)
    host.execute([neighbours.add_neighbour(bridge, address, ONE)])
    assert permanent(host, bridge) == [Neighbour(bridge, address, ONE, neighbours.PERMANENT)]
    assert f"{text} lladdr {ONE} PERMANENT" in ip("neigh", "show", "dev", "weave", namespace=namespace)
    assert refused(host, neighbours.add_neighbour(bridge, address, TWO)) == errno.EEXIST
    host.execute([neighbours.replace_neighbour(bridge, address, TWO)])
    assert [item.link_address for item in permanent(host, bridge)] == [TWO]
    seen = oracle.ask(namespace, lambda route: list(route.get_neighbours(dst=text)))
    assert [(item.get("dst"), item.get("lladdr"), item["state"]) for item in seen] == [(text, TWO, 0x80)]
    host.execute([neighbours.delete_neighbour(bridge, address)])
    assert permanent(host, bridge) == []
    assert refused(host, neighbours.delete_neighbour(bridge, ip_address("10.9.9.9"))) == errno.ENOENT


def test_an_entry_to_be_checked(host: RouteSocket, bridge: int) -> None:
    address = ip_address("10.244.0.2")
    host.execute([neighbours.replace_neighbour(bridge, address, ONE, state=neighbours.STALE)])
    (item,) = [item for item in neighbours.dump_neighbours(host, bridge) if item.address == address]
    assert (item.link_address, item.state, item.permanent) == (ONE, neighbours.STALE, False)


def test_neighbours_of_all_devices_and_of_one(host: RouteSocket, bridge: int, tunnel: int) -> None:
    for index in (bridge, tunnel):
        host.execute([neighbours.add_neighbour(index, ip_address("10.1.1.1"), ONE)])
    assert {item.index for item in neighbours.dump_neighbours(host)} >= {bridge, tunnel}
    assert {item.index for item in neighbours.dump_neighbours(host, tunnel)} == {tunnel}


def test_forwarding_entries_are_added_replaced_deleted(host: RouteSocket, namespace: str, tunnel: int) -> None:
    first, second = ip_address("192.0.2.1"), ip_address("192.0.2.2")
    host.execute([neighbours.add_forwarding_entry(tunnel, ONE, first)])
    assert neighbours.dump_forwarding_entries(host, tunnel) == [ForwardingEntry(tunnel, ONE, first, 0, True)]
    shown = run("bridge", "fdb", "show", "dev", "vxlan-6784", namespace=namespace)
    assert shown.strip() == f"{ONE} dst 192.0.2.1 self permanent"
    assert refused(host, neighbours.add_forwarding_entry(tunnel, ONE, second)) == errno.EEXIST
    host.execute([neighbours.replace_forwarding_entry(tunnel, ONE, second)])
    assert neighbours.dump_forwarding_entries(host, tunnel) == [ForwardingEntry(tunnel, ONE, second, 0, True)]
    host.execute([neighbours.delete_forwarding_entry(tunnel, ONE, first)])
    assert neighbours.dump_forwarding_entries(host, tunnel) == [ForwardingEntry(tunnel, ONE, second, 0, True)]
    host.execute([neighbours.delete_forwarding_entry(tunnel, ONE, second)])
    assert neighbours.dump_forwarding_entries(host, tunnel) == []
    assert refused(host, neighbours.delete_forwarding_entry(tunnel, ONE)) == errno.ENOENT


def test_a_bridges_own_table_names_ports(host: RouteSocket, bridge: int, pod_descriptor: int) -> None:
    host.execute(
        [
            links.create_veth(
                name="port", peer_name="eth0", peer_namespace_fd=pod_descriptor, mtu=1500, master=bridge
            )
        ]
    )
    port = links.get_link(host, name="port")
    entries = neighbours.dump_forwarding_entries(host, port.index)
    assert ForwardingEntry(port.index, port.address, None, bridge, permanent=True) in entries


LINK_ADDRESSES = st.binary(min_size=6, max_size=6).map(as_link_address)


@given(st.integers(1, 0x7FFFFFFF), st.ip_addresses(), LINK_ADDRESSES, st.integers(0, 0xFF))
def test_what_is_encoded_is_parsed(index: int, address: IPv4Address | IPv6Address, mac: str, state: int) -> None:
    encoded = neighbours.encode_neighbour(index, address, mac, state)
    assert neighbours.parse_neighbour(encoded) == Neighbour(index, address, mac, state)
    assert neighbours.parse_forwarding_entry(encoded) is None
    encoded = neighbours.encode_forwarding_entry(index, mac, address)
    assert neighbours.parse_forwarding_entry(encoded) == ForwardingEntry(index, mac, address, 0, True)
    assert neighbours.parse_neighbour(encoded) is None
