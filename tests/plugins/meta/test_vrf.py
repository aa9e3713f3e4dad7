"""``vrf`` against the reference, where the kernel has VRFs; what can be seen without one everywhere."""

from typing import Any

import pytest

from tests.kernel import oracle
from tests.namespaces import inside, ip
from tests.plugins.twins import Host, Twins, add_chain, delete_chain, lacking, needs_reference, shell
from weft.kernel import kinds, links
from weft.kernel.links import Link
from weft.kernel.netlink import RouteSocket
from weft.plugins.meta.vrf import enslave, free_table
from weft.plugins.undo import Undo

pytestmark = needs_reference

NO_VRF = lacking("link add red type vrf table 10")
VRF = pytest.mark.skipif(bool(NO_VRF), reason=NO_VRF)

IPAM: dict[str, Any] = {"type": "host-local", "dataDir": "HERE/ipam", "ranges": [[{"subnet": "10.22.0.0/16"}]]}
BOTH = {**IPAM, "ranges": [*IPAM["ranges"], [{"subnet": "fd00:22::/64"}]]}
ROUTES = {"routes": [{"dst": "198.51.100.0/24"}, {"dst": "192.0.2.0/24", "gw": "10.22.0.9"}]}
BRIDGE: dict[str, Any] = {"type": "bridge", "isDefaultGateway": True, "ipam": IPAM}
RED: dict[str, Any] = {"type": "vrf", "vrfname": "red"}
LOOK = """
ip -br link | cut -d' ' -f1
ip address show dev eth0 | sed 's/ tentative//'
ip route show table all; ip -6 route show table all
"""

CONFIGURATIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a free table": (BRIDGE, RED),
    "a table": (BRIDGE, RED | {"table": 1001}),
    "routes": (BRIDGE | {"ipam": IPAM | ROUTES}, RED),
    "both families": (BRIDGE | {"ipam": BOTH}, RED | {"table": 7}),
}


@VRF
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_like_the_reference(twins: Twins, name: str) -> None:
    twins.compare(*CONFIGURATIONS[name], reference_checks=False)


@VRF
def test_a_second_interface(twins: Twins) -> None:
    """It shares the VRF, which stays until the last one goes."""
    first = [{"cniVersion": "1.0.0", "name": "net", **plugin} for plugin in (BRIDGE, RED)]
    second = [{"cniVersion": "1.0.0", "name": "other", **plugin} for plugin in (BRIDGE | {"bridge": "cni1"}, RED)]
    for host in twins:
        assert add_chain(host, first, {}).status == 0
        assert add_chain(host, second, {}, ifname="eth1").status == 0
        answer = host.call("ADD", first[1] | {"vrfname": "blue", "prevResult": {"interfaces": []}})
        assert answer.code == 999
    twins.equal("ADD of both", [], None, None)
    for host in twins:
        delete_chain(host, first, None, {})
        assert "red" in shell(host.pods["pod"], "ip link show type vrf")
        delete_chain(host, second, None, {}, ifname="eth1")
        assert shell(host.pods["pod"], "ip link show type vrf") == ""


@VRF
@pytest.mark.parametrize("ours_adds", [True, False])
def test_one_adds_the_other_checks_and_deletes(twins: Twins, ours_adds: bool) -> None:
    host = twins.weft
    chain = [{"cniVersion": "1.0.0", "name": "net", **plugin} for plugin in (BRIDGE | {"ipam": BOTH}, RED)]
    host.go = not ours_adds
    answer = add_chain(host, chain, {})
    assert answer.status == 0, answer.body
    host.go = ours_adds
    assert host.call("CHECK", chain[1] | {"prevResult": answer.body}).status == 0
    delete_chain(host, chain, answer.body, {})
    assert shell(host.pods["pod"], "ip -br link").split()[::3] == ["lo"]


@VRF
def test_another_table_is_refused(twins: Twins) -> None:
    for host in twins:
        ip("link", "add", "red", "type", "vrf", "table", "10", namespace=host.pods["pod"])
    refuse(twins, RED | {"table": 11}, "table 10")


@VRF
def test_check_finds_what_changed(twins: Twins) -> None:
    host, pod = twins.weft, twins.weft.pods["pod"]
    chain = [{"cniVersion": "1.0.0", "name": "net", **plugin} for plugin in (BRIDGE, RED | {"table": 10})]
    sent = chain[1] | {"prevResult": add_chain(host, chain, {}).body}
    assert host.call("CHECK", sent).status == 0
    assert "table 10" in host.call("CHECK", sent | {"table": 11}).body["msg"]
    ip("link", "set", "eth0", "nomaster", namespace=pod)
    assert "eth0" in host.call("CHECK", sent).body["msg"]


def refuse(twins: Twins, configuration: dict[str, Any], named: str = "", *, both: bool = True) -> None:
    """ADD behind a bridge must fail with code 999, and change nothing of ours."""
    chain = [{"cniVersion": "1.0.0", "name": "net", **BRIDGE | {"ipam": BOTH}}]
    hosts: list[Host] = list(twins) if both else [twins.weft]
    results = [add_chain(host, chain, {}).body for host in hosts]
    before = shell(twins.weft.pods["pod"], LOOK)
    for host, result in zip(hosts, results, strict=True):
        answer = host.call("ADD", chain[0] | configuration | {"prevResult": result})
        assert answer.code == 999, answer.body
    assert named in answer.body["msg"]
    assert shell(twins.weft.pods["pod"], LOOK) == before


@pytest.mark.skipif(not NO_VRF, reason="this kernel has VRFs")
def test_a_kernel_without_vrf_is_told_of(twins: Twins) -> None:
    refuse(twins, RED, "no vrf devices")


REFUSED: dict[str, dict[str, Any]] = {
    "no name": {"vrfname": ""},
    "name of the wrong type": {"vrfname": 7},
    "long name": {"vrfname": "a-name-of-16-cha"},
    "table of the wrong type": {"table": "10"},
    "negative table": {"table": -1},
    "large table": {"table": 1 << 32},
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_like_the_reference(twins: Twins, name: str) -> None:
    refuse(twins, RED | REFUSED[name])


def test_a_device_of_another_kind_is_refused(twins: Twins) -> None:
    for host in twins:
        ip("link", "add", "red", "type", "bridge", namespace=host.pods["pod"])
    refuse(twins, RED, "not a VRF")
    for host in twins:
        assert host.call("DEL", {"cniVersion": "1.0.0", "name": "net", **RED}).code == 999


def test_an_interface_with_a_master_is_refused(twins: Twins) -> None:
    host, pod = twins.weft, twins.weft.pods["pod"]
    chain = [{"cniVersion": "1.0.0", "name": "net", **BRIDGE}]
    result = add_chain(host, chain, {}).body
    ip("link", "add", "other", "type", "bridge", namespace=pod)
    ip("link", "set", "eth0", "master", "other", namespace=pod)
    answer = host.call("ADD", chain[0] | RED | {"prevResult": result})
    assert answer.code == 999 and "already a master set: other" in answer.body["msg"]


def test_without_a_previous_result_it_is_refused(twins: Twins) -> None:
    twins.refuse(RED)
    assert twins.weft.call("CHECK", {"cniVersion": "1.0.0", "name": "net", **RED}).code == 999


def test_delete_where_there_is_none(twins: Twins) -> None:
    for host in twins:
        for pod in ("pod", None) if not host.go else ("pod",):
            assert host.call("DEL", {"cniVersion": "1.0.0", "name": "net", **RED}, pod=pod).status == 0
    newer = {"cniVersion": "1.1.0", "name": "net", **RED}
    assert twins.weft.call("STATUS", newer, pod=None).status == 0
    assert twins.weft.call("STATUS", newer | {"vrfname": ""}, pod=None).code == 999
    assert twins.weft.call("GC", newer, pod=None).status == 0


def test_check_where_there_is_none(twins: Twins) -> None:
    chain = [{"cniVersion": "1.0.0", "name": "net", **BRIDGE}]
    result = add_chain(twins.weft, chain, {}).body
    assert "red not found" in twins.weft.call("CHECK", chain[0] | RED | {"prevResult": result}).body["msg"]


def test_the_request() -> None:
    """What makes the device is what pyroute2 sends, attribute by attribute, with the device up at once."""
    message = kinds.create_vrf("red", table=1001)
    up = message._replace(payload=message.payload[:8] + bytes(8) + message.payload[16:])
    oracle.same_link_request(up, "vrf", {"vrf_table": 1001}, ifname="red")
    assert message.payload[8:16] == (1).to_bytes(4, "little") * 2


def test_routes_move_into_the_table_with_their_interface(twins: Twins) -> None:
    """With a bridge in place of the VRF, which every kernel has: master, routes and the way back are the same."""
    pod = twins.weft.pods["pod"]
    chain = [{"cniVersion": "1.0.0", "name": "net", **BRIDGE | {"ipam": BOTH | ROUTES}}]
    assert add_chain(twins.weft, chain, {}).status == 0
    ip("link", "add", "red", "type", "bridge", namespace=pod)
    before = shell(pod, "ip route; ip -6 route; ip address show dev eth0")

    def work() -> None:
        with RouteSocket() as route:
            link = links.get_link(route, name="eth0")
            master = links.find_index(route, "red")
            with pytest.raises(RuntimeError), Undo() as undo:
                enslave(route, link, master, 1001, undo)
                assert links.get_link(route, name="eth0").master == master
                raise RuntimeError
            assert links.get_link(route, name="eth0").master == 0
            assert shell(pod, "ip route; ip -6 route; ip address show dev eth0") == before
            with Undo() as undo:
                enslave(route, link, master, 1001, undo)

    inside(pod, work)
    moved = [line.strip() for line in shell(pod, "ip route show table 1001").splitlines()]
    assert moved == [
        "default via 10.22.0.1 dev eth0",
        "192.0.2.0/24 via 10.22.0.9 dev eth0",
        "198.51.100.0/24 via 10.22.0.1 dev eth0",
    ]
    assert "default via fd00:22::1 dev eth0" in shell(pod, "ip -6 route show table 1001")


def test_an_ipv6_address_that_was_lost_comes_back(twins: Twins) -> None:
    """As the kernel does it where ``keep_addr_on_down`` is not set."""
    pod = twins.weft.pods["pod"]
    chain = [{"cniVersion": "1.0.0", "name": "net", **BRIDGE | {"ipam": BOTH}}]
    assert add_chain(twins.weft, chain, {}).status == 0

    def work() -> None:
        from weft.plugins.meta import vrf

        with RouteSocket() as route:
            index = links.find_index(route, "eth0")
            held = vrf._held(route, index)
            shell(pod, "ip -6 address flush dev eth0 scope global; ip route del default")
            vrf._release(route, index, held)

    inside(pod, work)
    assert "fd00:22::2/64" in shell(pod, "ip address show dev eth0")
    assert "default via 10.22.0.1" in shell(pod, "ip route")
    assert "default via fd00:22::1" in shell(pod, "ip -6 route")


def test_the_first_free_table() -> None:
    def device(kind: str, table: int) -> Link:
        return Link(table, "x", kind, "", 1500, True, True, 0, 0, 0, None, None, None, table=table)

    assert free_table([]) == 1
    assert free_table([device("vrf", 1), device("vrf", 3), device("veth", 2)]) == 2
    assert free_table([device("vrf", number) for number in range(1, 253)]) == 256
