"""The dataplane in a namespace of its own: devices made and repaired, peers that come, move and go."""

import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Any

import pytest

from tests.namespaces import inside, ip, network_namespace, run
from weft.agent.dataplane import Dataplane, UnderlayError, find_underlay, foreign_routes
from weft.fabric import weave
from weft.fabric.plan import Node, Peer, derived_link_address, link_local

UNIVERSE = IPv4Network("10.244.0.0/16")


@pytest.fixture
def host() -> Iterator[str]:
    """A node with an underlay: eth0 with an address and a default route."""
    with network_namespace() as name:
        for command in (
            "link set lo up",
            "link add eth0 type veth peer name wire",
            "link set wire up",
            "link set eth0 up",
            "address add 172.25.1.2/24 dev eth0",
            "route add default via 172.25.1.1",
        ):
            ip(*command.split(), namespace=name)
        yield name


def make(host: str) -> Dataplane:
    def build() -> Dataplane:
        underlay = find_underlay(None)
        node = Node("controlplane", underlay.address, IPv4Interface("10.244.0.1/16"), weave.mtu(underlay.mtu))
        dataplane = Dataplane(weave.devices(node), [UNIVERSE], underlay)
        dataplane.ensure_devices()
        return dataplane

    return inside(host, build)


def peer(number: int, blocks: int = 1) -> Peer:
    base = int(IPv4Address(f"10.244.{number}.0"))
    return Peer(
        f"node{number}",
        IPv4Address(f"172.25.1.{number}"),
        derived_link_address("vtep", f"node{number}"),
        IPv4Address(base),
        tuple(IPv4Network((base + 256 * block, 24)) for block in range(blocks)),
    )


def plan(*peers: Peer) -> Any:
    node = Node("controlplane", IPv4Address("172.25.1.2"), IPv4Interface("10.244.0.1/16"), 1450)
    return weave.forwarding(node, peers)


def shown(host: str, *command: str) -> Any:
    return json.loads(run(*command, namespace=host) or "[]")


def tunnel_routes(host: str) -> dict[str, tuple[str, str]]:
    routes = shown(host, "ip", "-j", "route", "show", "dev", weave.TUNNEL)
    return {route["dst"]: (route["gateway"], route["prefsrc"]) for route in routes}


def forwarding_entries(host: str) -> dict[str, str]:
    entries = shown(host, "bridge", "-j", "fdb", "show", "dev", weave.TUNNEL)
    return {entry["mac"]: entry["dst"] for entry in entries}


def test_the_seeds_view_of_the_bridge(host: str) -> None:
    make(host)
    text = ip("address", "show", "weave", namespace=host)
    assert "inet 10.244.0.1/16 brd 10.244.255.255 scope global weave" in text
    assert "mtu 1450" in text
    routes = ip("route", namespace=host)
    assert "10.244.0.0/16 dev weave proto kernel scope link src 10.244.0.1" in routes
    tunnel = shown(host, "ip", "-d", "-j", "link", "show", weave.TUNNEL)[0]
    data = tunnel["linkinfo"]["info_data"]
    assert (data["id"], data["port"], data["local"], data["learning"]) == (6784, 6784, "172.25.1.2", False)
    assert forwarding_entries(host) == {}


def test_sysctls_and_masquerade(host: str) -> None:
    make(host)
    for key, value in (("ip_forward", "1"), ("conf/weave/proxy_arp", "1"), ("neigh/weave/proxy_delay", "0")):
        assert run("cat", f"/proc/sys/net/ipv4/{key}", namespace=host).strip() == value
    rules = run("nft", "list", "table", "ip", "weft", namespace=host)
    assert "ip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/16" in rules
    assert "masquerade" in rules
    # What others masquerade into the tunnel takes its address.
    assert f'ip saddr != 10.244.0.0/16 oifname "{weave.TUNNEL}" masquerade' in rules
    assert "inet 10.244.0.1/32 scope global" in ip("address", "show", weave.TUNNEL, namespace=host)


def test_peers_come_move_and_go(host: str) -> None:
    dataplane = make(host)

    def apply(*peers: Peer) -> int:
        return inside(host, lambda: dataplane.apply(plan(*peers)))

    one, two = peer(50), peer(60, blocks=2)
    assert apply(one, two) == 3 + 2 + 2
    assert apply(one, two) == 0
    assert tunnel_routes(host) == {
        "10.244.50.0/24": ("10.244.50.0", "10.244.0.1"),
        "10.244.60.0/24": ("10.244.60.0", "10.244.0.1"),
        "10.244.61.0/24": ("10.244.60.0", "10.244.0.1"),
    }
    moved = Peer(one.name, IPv4Address("172.25.1.99"), one.link_address, one.gateway, one.blocks)
    apply(moved)
    assert forwarding_entries(host) == {one.link_address: "172.25.1.99"}
    assert set(tunnel_routes(host)) == {"10.244.50.0/24"}
    neighbours = shown(host, "ip", "-j", "neighbour", "show", "dev", weave.TUNNEL)
    assert [(entry["dst"], entry["lladdr"], entry["state"]) for entry in neighbours] == [
        ("10.244.50.0", one.link_address, ["PERMANENT"])
    ]
    apply()
    assert (tunnel_routes(host), forwarding_entries(host)) == ({}, {})


def test_a_new_start_touches_nothing_that_is_right(host: str) -> None:
    inside(host, lambda: make(host).apply(plan(peer(50))))
    monitor = subprocess.Popen(
        ["ip", "netns", "exec", host, "ip", "monitor", "link", "neigh", "route", "address"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        time.sleep(0.3)
        assert inside(host, lambda: make(host).apply(plan(peer(50)))) == 0
        time.sleep(0.3)
    finally:
        monitor.terminate()
    assert monitor.communicate()[0] == ""


def test_what_others_broke_is_repaired(host: str) -> None:
    dataplane = make(host)
    inside(host, lambda: dataplane.apply(plan(peer(50))))
    for command in ("link delete vxlan-6784", "link set weave down", "address add 10.9.9.9/24 dev weave"):
        ip(*command.split(), namespace=host)
    inside(host, dataplane.ensure_devices)
    inside(host, lambda: dataplane.apply(plan(peer(50))))
    assert set(tunnel_routes(host)) == {"10.244.50.0/24"}
    assert "10.9.9.9" not in ip("address", "show", "weave", namespace=host)
    ip("link", "delete", "weave", namespace=host)
    inside(host, dataplane.ensure_devices)
    assert dataplane.bridge.index == shown(host, "ip", "-j", "link", "show", "weave")[0]["ifindex"]


def test_a_device_of_another_kind_is_named_and_kept(host: str) -> None:
    ip("link", "add", "weave", "type", "veth", "peer", "name", "other", namespace=host)
    with pytest.raises(UnderlayError, match="weave is a veth, not a bridge"):
        make(host)
    assert shown(host, "ip", "-d", "-j", "link", "show", "weave")[0]["linkinfo"]["info_kind"] == "veth"


def test_the_underlay_is_the_default_routes_device_or_the_wanted_address(host: str) -> None:
    ip("link", "add", "eth1", "type", "veth", "peer", "name", "wire1", namespace=host)
    ip("address", "add", "192.168.7.7/24", "dev", "eth1", namespace=host)
    found = inside(host, lambda: find_underlay(None))
    assert (found.device, str(found.address), found.mtu) == ("eth0", "172.25.1.2", 1500)
    assert inside(host, lambda: find_underlay(IPv4Address("192.168.7.7"))).device == "eth1"
    with pytest.raises(UnderlayError, match=r"192\.168\.7\.8"):
        inside(host, lambda: find_underlay(IPv4Address("192.168.7.8")))
    ip("route", "delete", "default", namespace=host)
    with pytest.raises(UnderlayError, match="--node-address"):
        inside(host, lambda: find_underlay(None))


def test_a_node_address_of_ipv6_is_of_the_device_whose_ipv4_address_counts(host: str) -> None:
    """As where Kubernetes names a node's IPv6 address first."""
    ip("link", "add", "eth1", "type", "veth", "peer", "name", "wire1", namespace=host)
    ip("address", "add", "fd30::7/64", "dev", "eth1", "nodad", namespace=host)
    with pytest.raises(UnderlayError, match=r"fd30::7 and an IPv4 address.*--node-address"):
        inside(host, lambda: find_underlay(IPv6Address("fd30::7")))
    ip("address", "add", "192.168.7.7/24", "dev", "eth1", namespace=host)
    found = inside(host, lambda: find_underlay(IPv6Address("fd30::7")))
    assert (found.device, str(found.address)) == ("eth1", "192.168.7.7")


def test_our_own_routes_are_not_foreign(host: str) -> None:
    make(host)
    assert {device for _, device in inside(host, foreign_routes)} == {"eth0"}


def test_the_same_for_ipv6_beside_ipv4(host: str) -> None:
    node = Node(
        "controlplane", IPv4Address("172.25.1.2"), IPv4Interface("10.244.0.1/16"), 1450,
        IPv6Interface("fd00:10:244::1/48"),
    )  # fmt: skip
    run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1", namespace=host)

    def build() -> Dataplane:
        both = (UNIVERSE, IPv6Network("fd00:10:244::/48"))
        dataplane = Dataplane(weave.devices(node), both, find_underlay(None))
        dataplane.ensure_devices()
        return dataplane

    one = replace(peer(50), blocks=(IPv4Network("10.244.50.0/24"), IPv6Network("fd00:10:244:50::/120")))

    def ways() -> list[tuple[str, str]]:
        shown_ = shown(host, "ip", "-6", "-j", "route", "show", "dev", weave.TUNNEL)
        return [(item["dst"], item["gateway"]) for item in shown_ if "gateway" in item]

    def apply(*peers: Peer) -> int:
        return inside(host, lambda: build().apply(weave.forwarding(node, peers)))

    assert apply(one) == 5
    assert apply(one) == 0
    assert ways() == [("fd00:10:244:50::/120", str(link_local(one.link_address)))]
    assert "inet6 fd00:10:244::1/48" in ip("address", "show", "weave", namespace=host)
    assert "inet6 fd00:10:244::1/128" in ip("address", "show", weave.TUNNEL, namespace=host)
    assert run("cat", "/proc/sys/net/ipv6/conf/all/forwarding", namespace=host).strip() == "1"
    assert run("cat", "/proc/sys/net/ipv6/conf/eth0/accept_ra", namespace=host).strip() == "2"
    ip("-6", "address", "add", "fd99::9/64", "dev", "weave", namespace=host)
    apply(one)
    assert "fd99::9" not in ip("address", "show", "weave", namespace=host)
    assert apply() == 5
    assert ways() == []


def test_without_withdrawal_what_only_the_kernel_knows_stays(host: str) -> None:
    dataplane = make(host)
    inside(host, lambda: dataplane.apply(plan(peer(50), peer(60))))
    assert inside(host, lambda: dataplane.apply(plan(peer(50)), withdraw=False)) == 0
    assert set(tunnel_routes(host)) == {"10.244.50.0/24", "10.244.60.0/24"}


def test_changes_of_some_peers_leave_the_kernel_as_the_whole_plan_would(host: str) -> None:
    dataplane = make(host)
    one, two = peer(50, blocks=2), peer(60)
    inside(host, lambda: dataplane.apply(plan(one, two)))
    # A block changes its owner, a peer moves, another one comes: one after the other, and at once.
    lost = replace(one, blocks=one.blocks[:1])
    gained = replace(two, blocks=(*two.blocks, one.blocks[1]), address=IPv4Address("172.25.1.77"))
    steps: list[tuple[tuple[Peer, ...], tuple[Peer, ...]]] = [
        ((one, two), (lost, gained)),
        ((lost, gained), (one, two, peer(70))),
        ((peer(70),), ()),
    ]
    for before, after in steps:
        change = partial(dataplane.change, plan(*after) - plan(*before), plan(*before) - plan(*after))
        assert inside(host, change)
    assert inside(host, lambda: dataplane.apply(plan(one, two))) == 0
