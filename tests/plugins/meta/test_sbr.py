"""``sbr`` against the reference."""

import json
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.namespaces import ip
from tests.plugins.main.test_ptp import undetected
from tests.plugins.twins import Host, Twins, add_chain, delete_chain, needs_reference, shell
from weft.cni import IPConfiguration
from weft.kernel import routes
from weft.kernel.routes import Route
from weft.plugins.meta.sbr import FIRST_TABLE, Plan, plan_moves

pytestmark = needs_reference

IPAM: dict[str, Any] = {"type": "host-local", "dataDir": "HERE/ipam", "ranges": [[{"subnet": "10.22.0.0/16"}]]}
IPAM6: dict[str, Any] = {**IPAM, "ranges": [[{"subnet": "fd00:22::/64"}]]}
BOTH = {**IPAM, "ranges": [*IPAM["ranges"], *IPAM6["ranges"]]}
TWO = {**IPAM, "ranges": [*IPAM["ranges"], [{"subnet": "10.23.0.0/16"}]]}
ROUTES = {"routes": [{"dst": "198.51.100.0/24"}, {"dst": "192.0.2.0/24", "gw": "10.22.0.9"}]}
SBR: dict[str, Any] = {"type": "sbr"}


def bridge(ipam: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """What is before it in the chain."""
    return {"type": "bridge", "ipam": ipam, **keys}


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "plain": bridge(IPAM),
    "gateway": bridge(IPAM, isGateway=True),
    "default gateway": bridge(IPAM, isDefaultGateway=True),
    "routes": bridge(IPAM | ROUTES, isGateway=True),
    "ipv6": bridge(IPAM6, isDefaultGateway=True),
    "both families": bridge(BOTH, isDefaultGateway=True),
    "two addresses": bridge(TWO),
    "ptp": {"type": "ptp", "ipam": IPAM | {"routes": [{"dst": "0.0.0.0/0"}]}},
    "static without gateway": bridge({"type": "static", "addresses": [{"address": "10.9.0.5/24"}]}),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_like_the_reference(twins: Twins, name: str) -> None:
    seen: list[str] = []

    def look(host: Host) -> None:
        seen.append(shell(host.pods["pod"], "ip rule; ip -6 rule"))
        assert f"lookup {FIRST_TABLE}" in seen[-1]

    # The bridge's CHECK in the reference looks for routes in the main table only.
    twins.compare(
        CONFIGURATIONS[name], SBR, meanwhile=look, reference_checks=False, differences=[undetected], check=True
    )
    assert seen[0] == seen[1]


@pytest.mark.parametrize("version", ["0.2.0", "0.3.1", "0.4.0"])
def test_every_version(twins: Twins, version: str) -> None:
    twins.compare(bridge(BOTH, isDefaultGateway=True), SBR, version=version, reference_checks=False)


def test_tables_that_are_taken(twins: Twins) -> None:
    for host in twins:
        ip("rule", "add", "from", "10.99.0.1", "table", "100", namespace=host.pods["pod"])
        ip("-6", "rule", "add", "from", "fd00::1", "table", "102", namespace=host.pods["pod"])
    twins.compare(bridge(BOTH, isDefaultGateway=True), SBR, reference_checks=False)


def test_a_second_interface(twins: Twins) -> None:
    """Both answer by the way they were asked; the first one's rules and tables stay when the second goes."""
    first = [
        {"cniVersion": "1.0.0", "name": "net", **plugin} for plugin in (bridge(IPAM, isDefaultGateway=True), SBR)
    ]
    other = bridge(TWO | {"ranges": TWO["ranges"][1:]}, isDefaultGateway=True, bridge="cni1")
    second = [{"cniVersion": "1.0.0", "name": "other", **plugin} for plugin in (other, SBR)]
    for host in twins:
        assert add_chain(host, first, {}).status == 0
        answer = add_chain(host, second, {}, ifname="eth1")
        assert answer.status == 0, answer.body
    twins.equal("ADD of both", [], None, None)
    pod = twins.weft.pods["pod"]
    assert "dev eth0" in shell(pod, "ip route get 192.0.2.1 from 10.22.0.2")
    assert "dev eth1" in shell(pod, "ip route get 192.0.2.1 from 10.23.0.2")
    for host in twins:
        delete_chain(host, second, None, {}, ifname="eth1")
    twins.equal("DEL of the second", [], None, None)
    assert "from 10.22.0.2 lookup 100" in shell(pod, "ip rule") and "10.23.0.2" not in shell(pod, "ip rule")


@pytest.mark.parametrize("ours_adds", [True, False])
def test_one_adds_the_other_deletes(twins: Twins, ours_adds: bool) -> None:
    host, pod = twins.weft, twins.weft.pods["pod"]
    before = shell(pod, "ip rule; ip -6 rule; ip route show table all; ip -6 route show table all")
    chain = [{"cniVersion": "1.0.0", "name": "net", **plugin} for plugin in (bridge(BOTH, isGateway=True), SBR)]
    host.go = not ours_adds
    answer = add_chain(host, chain, {})
    assert answer.status == 0, answer.body
    host.go = ours_adds
    delete_chain(host, chain, answer.body, {})
    assert shell(pod, "ip rule; ip -6 rule; ip route show table all; ip -6 route show table all") == before


def weft_chain(twins: Twins, ipam: dict[str, Any], **keys: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """ADD of ours with keys that Debian's reference does not know; the chain and the result."""
    chain = [
        {"cniVersion": "1.0.0", "name": "net", **plugin}
        for plugin in (bridge(ipam, isDefaultGateway=True), SBR | keys)
    ]
    answer = add_chain(twins.weft, chain, {})
    assert answer.status == 0, answer.body
    told = twins.weft.call("CHECK", chain[1] | {"prevResult": answer.body})
    assert told.status == 0, told.body
    return chain, answer.body


def test_a_table_of_the_configurations(twins: Twins) -> None:
    """Rules only: the table is somebody else's."""
    pod = twins.weft.pods["pod"]
    chain, result = weft_chain(twins, BOTH, table=5000)
    assert "from 10.22.0.2 lookup 5000" in shell(pod, "ip rule")
    assert "from fd00:22::2 lookup 5000" in shell(pod, "ip -6 rule")
    assert "default via 10.22.0.1" in shell(pod, "ip route")
    assert shell(pod, "ip route show table 5000") == ""
    ip("rule", "add", "from", "10.22.0.2", "table", "5001", namespace=pod)
    delete_chain(twins.weft, chain[1:], result, {})
    assert "lookup 5000" not in shell(pod, "ip rule; ip -6 rule")
    assert "lookup 5001" in shell(pod, "ip rule")


def test_gateways(twins: Twins) -> None:
    """They take the place of those that the addresses came with; in the reference a default route comes first."""
    pod = twins.weft.pods["pod"]
    weft_chain(twins, BOTH, gateways=["10.22.0.77", "fd00:22::77"])
    assert "default via 10.22.0.77" in shell(pod, "ip route show table 100")
    assert "default via fd00:22::77" in shell(pod, "ip -6 route show table 101")
    assert "default" not in shell(pod, "ip route; ip -6 route")


def test_gateways_without_a_default_route(twins: Twins) -> None:
    pod = twins.weft.pods["pod"]
    chain = [{"cniVersion": "1.0.0", "name": "net", **bridge(BOTH)}, {"cniVersion": "1.0.0", "name": "net", **SBR}]
    chain[1]["gateways"] = ["fd00:22::77", "10.22.0.77"]
    answer = add_chain(twins.weft, chain, {})
    assert answer.status == 0, answer.body
    assert "default via 10.22.0.77 dev eth0" in shell(pod, "ip route show table 100")
    assert "default via fd00:22::77 dev eth0" in shell(pod, "ip -6 route show table 101")
    assert twins.weft.call("CHECK", chain[1] | {"prevResult": answer.body}).status == 0


def test_source_hints(twins: Twins) -> None:
    """The subnets stay in the main table, with the address to send from; the way on is in the own tables only."""
    pod = twins.weft.pods["pod"]
    weft_chain(twins, BOTH, addSourceHints=True)
    main = [line.strip() for line in shell(pod, "ip route").splitlines()]
    assert main == ["10.22.0.0/16 dev eth0 scope link src 10.22.0.2"]
    assert "fd00:22::/64 dev eth0 src fd00:22::2" in shell(pod, "ip -6 route")
    assert "default" not in shell(pod, "ip -6 route")
    assert "default via 10.22.0.1" in shell(pod, "ip route show table 100")
    assert "10.22.0.0/16 dev eth0" in shell(pod, "ip route show table 100")


REFUSED: dict[str, dict[str, Any]] = {
    "three gateways": {"gateways": ["10.0.0.1", "10.0.0.2", "fd00::1"]},
    "two gateways of a family": {"gateways": ["fd00::2", "fd00::1"]},
    "no gateway": {"gateways": ["nonsense"]},
    "gateways of the wrong type": {"gateways": "10.0.0.1"},
    "table of the wrong type": {"table": "100"},
    "table 0": {"table": 0},
    "negative table": {"table": -1},
    "large table": {"table": 1 << 32},
    "gateways and a table": {"table": 100, "gateways": ["10.0.0.1"]},
    "hints and a table": {"table": 100, "addSourceHints": True},
    "hints of the wrong type": {"addSourceHints": 1},
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(twins: Twins, name: str) -> None:
    host, pod = twins.weft, twins.weft.pods["pod"]
    chain = [{"cniVersion": "1.0.0", "name": "net", **bridge(BOTH, isDefaultGateway=True)}]
    result = add_chain(host, chain, {}).body
    look = "ip rule; ip -6 rule; ip route show table all; ip -6 route show table all"
    before = shell(pod, look)
    answer = host.call("ADD", chain[0] | SBR | REFUSED[name] | {"prevResult": result})
    assert answer.code == 999, answer.body
    assert next(iter(REFUSED[name])) in answer.body["msg"] or "gateways" in answer.body["msg"]
    assert shell(pod, look) == before


def test_refused_like_the_reference(twins: Twins) -> None:
    twins.refuse(SBR)
    twins.refuse(SBR | {"prevResult": {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0"}]}})
    ips = [{"address": "10.22.0.2/16"}]
    answer = twins.refuse(SBR | {"prevResult": {"cniVersion": "1.0.0", "interfaces": [], "ips": ips}})
    assert "eth0" in answer.body["msg"]


def test_a_failed_add_takes_everything_back(twins: Twins) -> None:
    """A gateway that no route leads to."""
    host, pod = twins.weft, twins.weft.pods["pod"]
    chain = [{"cniVersion": "1.0.0", "name": "net", **bridge(BOTH, isDefaultGateway=True)}]
    result = add_chain(host, chain, {}).body
    look = "ip rule; ip -6 rule; ip route show table all; ip -6 route show table all"
    before = sorted(shell(pod, look).splitlines())
    answer = host.call("ADD", chain[0] | SBR | {"gateways": ["203.0.113.1"], "prevResult": result})
    assert answer.code == 999
    assert sorted(shell(pod, look).splitlines()) == before


def test_delete_where_nothing_is_left(twins: Twins) -> None:
    """The reference fails where the namespace is gone."""
    configuration = {"cniVersion": "1.0.0", "name": "net", **SBR}
    assert twins.weft.call("DEL", configuration, pod=None).status == 0
    assert twins.weft.call("DEL", configuration).status == 0


def test_check_finds_what_changed(twins: Twins) -> None:
    host, pod = twins.weft, twins.weft.pods["pod"]
    chain, result = weft_chain(twins, BOTH)
    sent = chain[1] | {"prevResult": result}
    assert "5000" in host.call("CHECK", sent | {"table": 5000}).body["msg"]
    shell(pod, "ip route del default table 100")
    assert "table 100" in host.call("CHECK", sent).body["msg"]
    shell(pod, "ip rule del from 10.22.0.2")
    assert "from 10.22.0.2" in host.call("CHECK", sent).body["msg"]
    newer = sent | {"cniVersion": "1.1.0"}
    assert host.call("STATUS", newer, pod=None).status == 0 and host.call("GC", newer, pod=None).status == 0


def connected(text: str) -> Route:
    """A subnet's own route, as the kernel makes it."""
    interface = IPv4Interface(text)
    return Route(
        interface.network,
        None,
        3,
        False,
        interface.ip,
        routes.SCOPE_LINK,
        routes.TABLE_MAIN,
        0,
        0,
        2,
        routes.UNICAST,
    )


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True), st.sets(st.integers(99, 108)))
def test_tables_are_free_and_different(subnets: list[int], taken: set[int]) -> None:
    ips = [
        IPConfiguration(IPv4Interface(f"10.{number}.0.5/16"), IPv4Address(f"10.{number}.0.1"))
        for number in subnets
    ]
    present = [connected(str(item.address)) for item in ips]
    moves = plan_moves(ips, 3, present, taken, Plan(None, {}, hints=False))
    tables = [table for _, table in moves.rules]
    assert not taken & set(tables) and tables == sorted(set(tables)) and tables[0] >= FIRST_TABLE
    for item, (source, table) in zip(ips, moves.rules, strict=True):
        assert source == ip_network(item.address.ip)
        (subnet,) = (route for route in moves.added if route.table == table and route.destination.prefixlen)
        assert subnet.destination == item.address.network
        (default,) = (route for route in moves.added if route.table == table and not route.destination.prefixlen)
        assert default.gateway == item.gateway
    assert moves.removed == tuple(present)


def test_a_gateway_by_family() -> None:
    ips = [IPConfiguration(IPv4Interface("10.1.0.5/16"), IPv4Address("10.1.0.1"))]
    moves = plan_moves(ips, 3, [], set(), Plan(None, {4: ip_address("10.1.0.9"), 6: ip_address("fd00::9")}, True))
    assert [(route.destination, str(route.gateway)) for route in moves.added] == [
        (IPv4Network("0.0.0.0/0"), "10.1.0.9")
    ]
    assert [str(route.source) for route in moves.hints] == ["10.1.0.5"]
    assert json.dumps([table for _, table in moves.rules]) == "[100]"
