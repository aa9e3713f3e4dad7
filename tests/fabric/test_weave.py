"""Mode weave: one route per block, one neighbour and one forwarding entry per peer, an MTU that fits."""

from dataclasses import replace
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.fabric import weave
from weft.fabric.plan import ForwardingEntry, Neighbour, Node, Peer, Route, derived_link_address, link_local

NODE = Node("controlplane", IPv4Address("172.25.1.2"), IPv4Interface("10.244.0.1/16"), 1450)
PEER = Peer(
    "node01",
    IPv4Address("172.25.1.3"),
    derived_link_address("vtep", "node01"),
    IPv4Address("10.244.192.0"),
    (IPv4Network("10.244.192.0/24"), IPv4Network("10.244.193.0/24")),
)

peers = st.lists(
    st.builds(
        lambda number, blocks: Peer(
            f"n{number}",
            IPv4Address(0xAC190000 + number),
            derived_link_address("vtep", f"n{number}"),
            IPv4Address(0x0A000000 + number * 65536),
            tuple(IPv4Network((0x0A000000 + number * 65536 + 256 * block, 24)) for block in range(blocks)),
        ),
        st.integers(1, 200),
        st.integers(0, 4),
    ),
    unique_by=lambda peer: peer.name,
    max_size=30,
)


def test_a_peer_with_two_blocks() -> None:
    plan = weave.forwarding(NODE, [PEER])
    source = IPv4Address("10.244.0.1")
    assert plan.routes == {Route(block, PEER.gateway, source) for block in PEER.blocks}
    assert plan.neighbours == {Neighbour(PEER.gateway, PEER.link_address)}
    assert plan.entries == {ForwardingEntry(PEER.link_address, PEER.address)}


@given(peers)
def test_state_grows_with_nodes_and_blocks_only(others: list[Peer]) -> None:
    plan = weave.forwarding(NODE, others)
    serving = [peer for peer in others if peer.blocks]
    assert len(plan.routes) == sum(len(peer.blocks) for peer in serving)
    assert len(plan.neighbours) == len(plan.entries) == len(serving)


def test_ipv6_blocks_are_reached_through_the_peers_link_local_address() -> None:
    six = IPv6Network("fd00:10:244:c000::/120")
    peer = replace(PEER, blocks=(*PEER.blocks, six), gateway6=IPv6Address("fd00:10:244:c000::"))
    node = replace(NODE, bridge6=IPv6Interface("fd00:10:244::1/48"))
    plan = weave.forwarding(node, [peer])
    gateway = link_local(peer.link_address)
    assert Route(six, gateway, IPv6Address("fd00:10:244::1")) in plan.routes
    assert plan.neighbours == {Neighbour(PEER.gateway, PEER.link_address), Neighbour(gateway, PEER.link_address)}
    assert len(plan.entries) == 1
    # A node without IPv6 has no use for it.
    assert weave.forwarding(NODE, [peer]) == weave.forwarding(NODE, [PEER])
    assert weave.forwarding(node, [PEER]) == weave.forwarding(NODE, [PEER])


def test_a_link_local_address_is_made_of_the_mac() -> None:
    assert link_local("02:00:5e:10:20:30") == IPv6Address("fe80::5eff:fe10:2030")


def test_a_node_is_not_its_own_peer() -> None:
    own = Peer(NODE.name, NODE.address, "02:00:00:00:00:01", NODE.bridge.ip, (IPv4Network("10.244.0.0/24"),))
    assert not weave.forwarding(NODE, [own]).routes


@given(st.text(), st.text())
def test_link_addresses_are_unicast_locally_administered_and_tell_nodes_apart(one: str, other: str) -> None:
    first = int(derived_link_address("vtep", one)[:2], 16)
    assert first & 0x03 == 0x02
    assert (derived_link_address("vtep", one) == derived_link_address("vtep", other)) == (one == other)
    assert derived_link_address("vtep", one) != derived_link_address("bridge", one)


@pytest.mark.parametrize(
    ("underlay", "wanted", "pods"), [(1500, None, 1450), (9001, None, 8951), (1500, 1376, 1376)]
)
def test_mtu(underlay: int, wanted: int | None, pods: int) -> None:
    assert weave.mtu(underlay, wanted) == pods


@pytest.mark.parametrize(("underlay", "wanted"), [(1500, 1451), (1500, 100), (600, None)])
def test_an_mtu_that_does_not_fit_is_refused(underlay: int, wanted: int | None) -> None:
    with pytest.raises(ValueError, match=str(wanted or underlay)):
        weave.mtu(underlay, wanted)


def test_ipv6_asks_more_of_the_underlay() -> None:
    assert weave.mtu(1330, ipv6=True) == 1280
    for underlay, wanted in ((1329, None), (1500, 1000)):
        with pytest.raises(ValueError, match="1280"):
            weave.mtu(underlay, wanted, ipv6=True)
