"""Devices: every builder against the kernel, seen by ourselves, by pyroute2, and by iproute2."""

import errno
import time
from ipaddress import ip_address, ip_interface

import pytest

from tests.kernel import oracle
from tests.kernel.conftest import make_or_skip
from tests.namespaces import ip, path
from weft.kernel import addresses, links
from weft.kernel.links import BridgePort, Vxlan
from weft.kernel.namespace import NetworkNamespace
from weft.kernel.netlink import Message, NetlinkError, RouteSocket

MAC = "0a:58:0a:f4:00:02"


def bridge(host: RouteSocket, name: str = "weave") -> int:
    host.execute([links.create_bridge(name=name, address="02:00:00:00:00:01")])
    return links.find_index(host, name)


def pair(
    host: RouteSocket, descriptor: int, *, name: str = "vethwepl0000001", master: int = 0, mtu: int = 1450
) -> None:
    host.execute(
        [
            links.create_veth(
                name=name,
                peer_name="eth0",
                peer_namespace_fd=descriptor,
                mtu=mtu,
                master=master,
                peer_address=MAC,
            )
        ]
    )


def refused(host: RouteSocket, *messages: Message) -> int:
    with pytest.raises(NetlinkError) as raised:
        host.execute(messages)
    return raised.value.errno or 0


def test_a_pair_is_made_in_place(
    host: RouteSocket, inner: RouteSocket, namespace: str, pod: str, pod_descriptor: int
) -> None:
    master = bridge(host)
    pair(host, pod_descriptor, master=master)
    ours, theirs = links.get_link(host, name="vethwepl0000001"), links.get_link(inner, name="eth0")
    assert (ours.kind, ours.mtu, ours.up, ours.operational, ours.master) == ("veth", 1450, True, False, master)
    assert (theirs.kind, theirs.mtu, theirs.up, theirs.address, theirs.master) == ("veth", 1450, False, MAC, 0)
    assert (ours.peer_index, theirs.peer_index) == (theirs.index, ours.index)
    assert ours.peer_namespace_id is not None

    seen = oracle.link(namespace, "vethwepl0000001")
    assert (seen.get("master"), seen.get("mtu"), seen["state"]) == (master, 1450, "up")
    assert (seen.get("num_tx_queues"), seen.get("num_rx_queues")) == (1, 1)
    seen = oracle.link(pod, "eth0")
    assert (seen.get("address"), seen.get("mtu"), seen["state"]) == (MAC, 1450, "down")
    assert (seen.get("num_tx_queues"), seen.get("num_rx_queues")) == (1, 1)


def test_what_a_pair_is_asked_for_is_what_another_decoder_reads() -> None:
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

    message = links.create_veth(name="a", peer_name="b", peer_namespace_fd=7, mtu=9000, master=3, peer_address=MAC)
    read = oracle.decoded(message, ifinfmsg)
    assert (read.get("ifname"), read.get("mtu"), read.get("master")) == ("a", 9000, 3)
    assert (read["flags"], read["change"]) == (1, 1)
    information = read.get("linkinfo")
    assert information.get_attr("IFLA_INFO_KIND") == "veth"
    peer = information.get_attr("IFLA_INFO_DATA").get_attr("VETH_INFO_PEER")
    assert (peer["flags"], peer["change"]) == (0, 0)
    got = {
        name: peer.get_attr(f"IFLA_{name}") for name in ("IFNAME", "MTU", "NET_NS_FD", "ADDRESS", "NUM_TX_QUEUES")
    }
    assert got == {"IFNAME": "b", "MTU": 9000, "NET_NS_FD": 7, "ADDRESS": MAC, "NUM_TX_QUEUES": 1}


def test_a_pair_that_exists_is_refused_and_leaves_nothing(
    host: RouteSocket, inner: RouteSocket, pod_descriptor: int
) -> None:
    pair(host, pod_descriptor)
    again = links.create_veth(name="other", peer_name="eth0", peer_namespace_fd=pod_descriptor, mtu=1450, master=0)
    assert refused(host, again) == errno.EEXIST
    assert {link.name for link in links.dump_links(host, "veth")} == {"vethwepl0000001"}
    assert len(links.dump_links(inner, "veth")) == 1


def test_the_host_end_gets_no_link_local_address_where_it_shall_not(
    host: RouteSocket, inner: RouteSocket, pod_descriptor: int
) -> None:
    master = bridge(host)
    for number, wanted in ((1, False), (2, True)):
        name = f"vethwepl000000{number}"
        pair(host, pod_descriptor, name=name, master=master)
        host.execute([links.set_bridge_port(name=name, hairpin=True, link_local=wanted)])
        inner.execute([links.set_link(index=links.find_index(inner, "eth0"), up=True)])
        link = links.await_forwarding(host, name=name)
        assert bool(addresses.dump_addresses(host, link.index)) is wanted
        host.execute([links.delete_link(link.index)])


def test_a_port_forwards_once_awaited(host: RouteSocket, inner: RouteSocket, pod_descriptor: int) -> None:
    pair(host, pod_descriptor, master=bridge(host))
    with pytest.raises(TimeoutError, match="vethwepl0000001 forwards no frames after 0.01 s .*peer up: False"):
        links.await_forwarding(host, name="vethwepl0000001", timeout=0.01)
    inner.execute([links.set_link(name="eth0", up=True)])
    link = links.await_forwarding(host, name="vethwepl0000001")
    assert link.operational
    assert link.port is not None
    assert link.port.forwarding


def test_settings_of_a_port(host: RouteSocket, namespace: str, pod_descriptor: int) -> None:
    pair(host, pod_descriptor, master=bridge(host))
    index = links.find_index(host, "vethwepl0000001")
    assert links.get_link(host, index=index).port == BridgePort(False, False, False, True)
    host.execute([links.set_bridge_port(index, hairpin=True, isolated=True, learning=False)])
    link = links.get_link(host, index=index)
    assert link.port == BridgePort(False, True, True, False)
    assert link.hairpin
    host.execute(
        [links.set_bridge_port(name="vethwepl0000001", hairpin=False, flood=False, neighbour_suppression=True)]
    )
    shown = ip("-d", "link", "show", "vethwepl0000001", namespace=namespace)
    for expected in ("hairpin off", "isolated on", "learning off", " flood off", "neigh_suppress on"):
        assert expected in shown
    # What is no port has no such settings.
    assert refused(host, links.set_bridge_port(links.find_index(host, "lo"), hairpin=True)) == errno.EOPNOTSUPP


def test_a_bridge_keeps_its_mac_and_an_mtu_that_was_set(
    host: RouteSocket, namespace: str, pod_descriptor: int
) -> None:
    host.execute(
        [
            links.create_bridge(name="weave", address="02:00:00:00:00:01"),
            links.set_link(name="weave", mtu=1450),
            links.create_bridge(name="follower", address="02:00:00:00:00:02", mtu=1450),
        ]
    )
    for name, mac, left in (("weave", "02:00:00:00:00:01", 1450), ("follower", "02:00:00:00:00:02", 1500)):
        made = links.get_link(host, name=name)
        assert (made.kind, made.address, made.mtu, made.up) == ("bridge", mac, 1450, True)
        pair(host, pod_descriptor, master=made.index)
        host.execute([links.delete_link(name="vethwepl0000001")])
        left_over = links.get_link(host, name=name)
        assert (left_over.address, left_over.mtu) == (mac, left)
        seen = oracle.link(namespace, name)
        assert (seen.get("address"), seen.get("mtu")) == (mac, left)


@pytest.mark.parametrize(("local", "largest"), [("192.0.2.1", 1450), ("2001:db8::1", 1430)])
def test_a_vxlan_device(host: RouteSocket, namespace: str, local: str, largest: int) -> None:
    underlay = bridge(host, "underlay")
    host.execute([addresses.add_address(underlay, ip_interface(local))])
    make_or_skip(
        host,
        links.create_vxlan(
            name="vxlan-6784",
            vni=6784,
            port=6784,
            local=ip_address(local),
            underlay_index=underlay,
            mtu=1460,
            address="02:00:00:00:00:02",
        ),
    )
    link = links.get_link(host, name="vxlan-6784")
    assert (link.kind, link.mtu, link.up, link.address) == ("vxlan", largest, True, "02:00:00:00:00:02")
    assert link.vxlan == Vxlan(6784, 6784, ip_address(local), underlay, learning=False)
    data = oracle.link(namespace, "vxlan-6784").get("linkinfo").get_attr("IFLA_INFO_DATA")
    assert (data.get_attr("IFLA_VXLAN_ID"), data.get_attr("IFLA_VXLAN_PORT")) == (6784, 6784)
    assert data.get_attr("IFLA_VXLAN_LEARNING") == 0
    # No default destination: nothing is flooded.
    assert not data.get_attr("IFLA_VXLAN_GROUP")


def test_changes_of_a_device(host: RouteSocket, namespace: str) -> None:
    index, master = bridge(host, "old"), bridge(host, "above")
    host.execute([links.set_link(index=index, up=False)])
    host.execute([links.set_link(index=index, new_name="new", address="02:00:00:00:00:09", mtu=1400, group=77)])
    link = links.get_link(host, index=index)
    assert (link.name, link.address, link.mtu, link.group, link.up) == (
        "new",
        "02:00:00:00:00:09",
        1400,
        77,
        False,
    )
    seen = oracle.link(namespace, "new")
    assert (seen.get("mtu"), seen.get("group"), seen["state"]) == (1400, 77, "down")
    host.execute([links.set_link(name="new", up=True)])
    assert links.get_link(host, name="new").up
    # A bridge cannot be a port of another.
    assert refused(host, links.set_link(index=index, master=master)) == errno.ELOOP


def test_retired_devices_go_together(host: RouteSocket, inner: RouteSocket, pod_descriptor: int) -> None:
    master = bridge(host)
    pair(host, pod_descriptor, master=master)
    # The pod's end takes another name, so that there is room for a second.
    inner.execute([links.set_link(index=links.find_index(inner, "eth0"), new_name="eth1")])
    pair(host, pod_descriptor, name="vethwepl0000002", master=master)
    for number in (1, 2):
        host.execute([links.set_link(name=f"vethwepl000000{number}", up=False, master=0, group=0x57454654)])
    retired = [link for link in links.dump_links(host, "veth") if link.group == 0x57454654]
    assert [(link.up, link.master, link.port) for link in retired] == [(False, 0, None)] * 2
    host.execute([links.delete_group(0x57454654)])
    assert links.dump_links(host, "veth") == links.dump_links(inner, "veth") == []
    assert refused(host, links.delete_group(0x57454654)) == errno.ENODEV


def test_devices_are_deleted_by_index_and_by_name(host: RouteSocket) -> None:
    host.execute([links.delete_link(bridge(host, "one"))])
    bridge(host, "two")
    host.execute([links.delete_link(name="two")])
    assert [link.name for link in links.dump_links(host)] == ["lo"]
    assert refused(host, links.delete_link(name="two")) == errno.ENODEV


def test_devices_are_found_by_index_name_and_kind(host: RouteSocket) -> None:
    index = bridge(host)
    assert links.get_link(host, index=index) == links.get_link(host, name="weave")
    assert [link.name for link in links.dump_links(host, "bridge")] == ["weave"]
    assert links.dump_links(host, "no-such-kind") == []
    assert [link.name for link in links.dump_links(host)] == ["lo", "weave"]
    for search in (lambda: links.get_link(host, name="absent"), lambda: links.find_index(host, "absent")):
        with pytest.raises(NetlinkError, match="cannot find absent: No such device") as raised:
            search()
        assert raised.value.errno == errno.ENODEV


def test_the_other_end_in_the_same_namespace_has_no_namespace_identifier(
    host: RouteSocket, namespace: str
) -> None:
    with NetworkNamespace.open(path(namespace)) as own:
        pair(host, own.fd)
    ours, theirs = links.get_link(host, name="vethwepl0000001"), links.get_link(host, name="eth0")
    assert (ours.peer_index, ours.peer_namespace_id) == (theirs.index, None)


def test_mistakes_are_named_before_anything_is_sent() -> None:
    with pytest.raises(ValueError, match="index or its name"):
        links.set_link(up=True)
    with pytest.raises(ValueError, match="index or its name"):
        links.delete_link(3, name="both")
    with pytest.raises(ValueError, match="0 is no index"):
        links.delete_link(0)
    with pytest.raises(ValueError, match="renaming 'a' to 'b' needs its index"):
        links.set_link(name="a", new_name="b")
    with pytest.raises(ValueError, match="group 0 holds every device"):
        links.delete_group(0)
    with pytest.raises(ValueError, match="'much-too-long-a-name' cannot name an interface"):
        links.set_link(name="much-too-long-a-name", up=True)


def test_deleting_twenty_by_group_is_not_twenty_deletions(host: RouteSocket) -> None:
    host.execute([links.create_bridge(name=f"b{number}", address="02:00:00:00:00:01") for number in range(20)])
    host.execute([links.set_link(name=f"b{number}", group=5) for number in range(20)])
    started = time.monotonic()
    host.execute([links.delete_group(5)])
    print(f"20 devices deleted in {1000 * (time.monotonic() - started):.0f} ms")
    assert links.dump_links(host, "bridge") == []
