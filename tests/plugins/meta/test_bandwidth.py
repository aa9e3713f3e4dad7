"""``bandwidth`` against the reference, and against what really passes."""

import json
import re
import subprocess
from typing import Any

import pytest

from tests.kernel import oracle
from tests.namespaces import inside, ip, path
from tests.plugins.twins import CONTAINER, Host, Twins, add_chain, delete_chain, needs_reference, shell
from weft.kernel import traffic_control
from weft.kernel.netlink import RouteSocket
from weft.plugins.meta.bandwidth import device_alias, device_name

pytestmark = needs_reference

IPAM: dict[str, Any] = {"type": "host-local", "dataDir": "HERE/ipam", "ranges": [[{"subnet": "10.22.0.0/16"}]]}
IPAM6: dict[str, Any] = {"type": "host-local", "dataDir": "HERE/ipam", "ranges": [[{"subnet": "fd00:22::/64"}]]}
BOTH = {**IPAM, "ranges": [*IPAM["ranges"], *IPAM6["ranges"]]}
BRIDGE: dict[str, Any] = {"type": "bridge", "isDefaultGateway": True, "ipam": IPAM}
INGRESS = {"ingressRate": 16_000_000, "ingressBurst": 800_000}
EGRESS = {"egressRate": 24_000_000, "egressBurst": 900_000}
IFB = device_name("net", CONTAINER)


def marked(seen: dict[str, Any]) -> None:
    """Ours carries an alias that tells GC whose it is."""
    for link in seen["host"]["links"]:
        if link["ifname"].startswith("bwp"):
            link.pop("ifalias", None)


def doubled(seen: dict[str, Any]) -> None:
    """The reference's library redirects twice; the first time the packet is gone already."""
    for name, lines in seen["host"]["filters"].items():
        second = next((place for place, line in enumerate(lines) if "action order 2: mirred" in line), None)
        if second is not None:
            seen["host"]["filters"][name] = lines[:second] + lines[second + 2 :]


DIFFERENCES = (marked, doubled)


def limited(**keys: Any) -> dict[str, Any]:
    """The plugin's part of a chain."""
    return {"type": "bandwidth", **keys}


CONFIGURATIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "both directions": (INGRESS | EGRESS, {}),
    "ingress": (INGRESS, {}),
    "egress": (EGRESS, {}),
    "no limit": ({}, {}),
    "limits of 0": ({"ingressRate": 0, "ingressBurst": 0, "egressRate": 0}, {}),
    "by the runtime": ({"capabilities": {"bandwidth": True}}, {"bandwidth": INGRESS | EGRESS}),
    "configured and by the runtime": ({"capabilities": {"bandwidth": True}, **INGRESS}, {"bandwidth": EGRESS}),
    "more than 4 GB/s": ({"ingressRate": 80_000_000_000, "ingressBurst": 8_000_000_000}, {}),
    "hardly anything": ({"egressRate": 123, "egressBurst": 456}, {}),
    "as kubelet asks": ({"egressRate": 1_000_000, "egressBurst": 2_147_483_647}, {}),
    "keys in any case": ({"INGRESSRATE": 16_000_000, "ingressburst": 800_000}, {}),
}


WITH_EGRESS = ("both directions", "egress", "by the runtime", "hardly anything", "as kubelet asks")


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_like_the_reference(twins: Twins, name: str) -> None:
    keys, runtime = CONFIGURATIONS[name]
    # Debian's CHECK fails where there is no limit.
    result = twins.compare(
        BRIDGE, limited(**keys), runtime=runtime, differences=DIFFERENCES, reference_checks="limit" not in name
    )
    assert [item["name"] for item in result["interfaces"][3:]] == ([IFB] if name in WITH_EGRESS else [])


@pytest.mark.parametrize(
    "delegate", [BRIDGE | {"ipam": IPAM6}, BRIDGE | {"ipam": BOTH}, {"type": "ptp", "ipam": IPAM}]
)
def test_families_and_pairs(twins: Twins, delegate: dict[str, Any]) -> None:
    twins.compare(delegate, limited(**INGRESS, **EGRESS), differences=DIFFERENCES)


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0"])
def test_every_version(twins: Twins, version: str) -> None:
    twins.compare(BRIDGE, limited(**EGRESS), version=version, differences=DIFFERENCES)


def test_the_mtu_is_the_pairs(twins: Twins) -> None:
    twins.compare(BRIDGE | {"mtu": 1300}, limited(**EGRESS), differences=DIFFERENCES)


REFUSED: dict[str, dict[str, Any]] = {
    "rate without burst": {"ingressRate": 1000},
    "burst without rate": {"egressBurst": 1000},
    "burst of 4 GB": {"ingressRate": 1000, "ingressBurst": 8 * ((1 << 32) - 1)},
    "negative": {"ingressRate": -1000, "ingressBurst": 1000},
    "text": {"ingressRate": "1M", "ingressBurst": 1000},
    "larger than 64 bits": {"ingressRate": 1 << 64, "ingressBurst": 1000},
    "by the runtime": {"runtimeConfig": {"bandwidth": {"egressRate": 7000}}},
    "hardly a rate": {"ingressRate": 7, "ingressBurst": 1000},
    "hardly a burst": {"ingressRate": 80_000_000_000, "ingressBurst": 8},
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_like_the_reference(twins: Twins, name: str) -> None:
    chain = [{"cniVersion": "1.0.0", "name": "net", **BRIDGE}]
    results = [add_chain(host, chain, {}).body for host in twins]
    before = twins.weft.shell("tc qdisc; ip link")
    answers = [
        host.call("ADD", {"cniVersion": "1.0.0", "name": "net", **limited(**REFUSED[name]), "prevResult": result})
        for host, result in zip(twins, results, strict=True)
    ]
    assert [answer.code for answer in answers] == [999, 999], answers
    assert twins.weft.shell("tc qdisc; ip link") == before


def test_alone_it_is_refused(twins: Twins) -> None:
    assert "prevResult" in twins.refuse(limited(**EGRESS)).body["msg"]


def test_a_second_interface_in_the_network_is_refused(twins: Twins) -> None:
    """Its IFB device would have the same name; the first one's stays, and nothing of the second."""
    host = twins.weft
    chain = [{"cniVersion": "1.0.0", "name": "net", **plugin} for plugin in (BRIDGE, limited(**INGRESS, **EGRESS))]
    assert add_chain(host, chain, {}).status == 0
    second = add_chain(host, chain[:1], {}, ifname="eth1").body
    before = host.shell("tc qdisc; tc filter show; ip link")
    answer = host.call("ADD", chain[1] | {"prevResult": second}, ifname="eth1")
    assert answer.code == 999 and "another interface" in answer.body["msg"]
    assert host.shell("tc qdisc; tc filter show; ip link") == before


@pytest.mark.parametrize("ours_adds", [True, False])
def test_one_adds_the_other_checks_and_deletes(twins: Twins, ours_adds: bool) -> None:
    host = twins.weft
    chain = [{"cniVersion": "1.0.0", "name": "net", **plugin} for plugin in (BRIDGE, limited(**INGRESS, **EGRESS))]
    host.go = not ours_adds
    answer = add_chain(host, chain, {})
    assert answer.status == 0, answer.body
    host.go = ours_adds
    for plugin in chain:
        told = host.call("CHECK", plugin | {"prevResult": answer.body})
        assert told.status == 0, told.body
    delete_chain(host, chain, answer.body, {})
    assert "veth" not in host.shell("ip link") and IFB not in host.shell("ip link")


SUBNETS: dict[str, dict[str, Any]] = {
    "shaped": {"shapedSubnets": ["10.0.0.0/8", "fd00:db8:abcd:1234:e000::/68"]},
    "unshaped": {"unshapedSubnets": ["192.0.2.7/24", "::/0", "0.0.0.0/0"]},
}


@pytest.mark.parametrize("name", SUBNETS)
def test_subnets(twins: Twins, name: str) -> None:
    """As version 1.5 of the reference, which later ones took back; on the way in, the source is compared."""
    host = twins.weft
    chain = [
        {"cniVersion": "1.0.0", "name": "net", **plugin}
        for plugin in (BRIDGE, limited(**INGRESS, **EGRESS, **SUBNETS[name]))
    ]
    answer = add_chain(host, chain, {})
    assert answer.status == 0, answer.body
    port = answer.body["interfaces"][1]["name"]
    default = {"shaped": "0x1", "unshaped": "0x30"}[name]
    flow = {"shaped": "1:30", "unshaped": "1:1"}[name]
    for device, rate, source in ((port, 16, True), (IFB, 24, False)):
        assert f"htb 1: root refcnt 2 r2q 10 default {default}" in host.execute(
            "tc", "qdisc", "show", "dev", device
        )
        classes = host.execute("tc", "class", "show", "dev", device)
        assert re.search(rf"class htb 1:30 root leaf \w+: prio 0 rate {rate}Mbit ceil {2 * rate}Mbit", classes)
        assert re.search(r"class htb 1:1 root leaf \w+: prio 0 rate 800Gbit ceil 800Gbit", classes)
        filters = host.execute("tc", "filter", "show", "dev", device)
        assert filters.count(f"flowid {flow}") == len(next(iter(SUBNETS[name].values())))
        if name == "shaped":
            assert f"match 0a000000/ff000000 at {12 if source else 16}" in filters
            assert f"match fd000db8/ffffffff at {8 if source else 24}" in filters
            assert f"match e0000000/f0000000 at {16 if source else 32}" in filters
        else:
            assert f"match c0000200/ffffff00 at {12 if source else 16}" in filters
            assert filters.count("match 00000000/00000000 at 0") == 2
    told = host.call("CHECK", chain[1] | {"prevResult": answer.body})
    assert told.status == 0, told.body
    host.execute("tc", "class", "change", "dev", IFB, "parent", "1:", "classid", "1:30", "htb", "rate", "1mbit")
    assert IFB in host.call("CHECK", chain[1] | {"prevResult": answer.body}).body["msg"]
    delete_chain(host, chain, answer.body, {})
    assert IFB not in host.shell("ip link")


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"shapedSubnets": ["10.0.0.0"]}, "10.0.0.0"),
        ({"unshapedSubnets": ["nonsense/8"]}, "nonsense"),
        ({"shapedSubnets": ["10.0.0.0/8"], "unshapedSubnets": ["10.0.0.0/8"]}, "shapedSubnets"),
        ({"shapedSubnets": "10.0.0.0/8"}, "shapedSubnets"),
    ],
)
def test_bad_subnets_are_refused(twins: Twins, keys: dict[str, Any], named: str) -> None:
    answer = twins.weft.call("ADD", {"cniVersion": "1.0.0", "name": "net", **limited(**INGRESS, **keys)})
    assert answer.code == 999 and named in answer.body["msg"]


def test_check_finds_what_changed(twins: Twins) -> None:
    host = twins.weft
    chain = [{"cniVersion": "1.0.0", "name": "net", **plugin} for plugin in (BRIDGE, limited(**INGRESS, **EGRESS))]
    result = add_chain(host, chain, {}).body
    sent, port = chain[1] | {"prevResult": result}, result["interfaces"][1]["name"]
    assert host.call("CHECK", sent).status == 0
    assert "rate is 2000000" in host.call("CHECK", sent | {"ingressRate": 8_000_000}).body["msg"]
    host.execute("tc", "qdisc", "del", "dev", port, "root")
    assert "no tbf queue" in host.call("CHECK", sent).body["msg"]
    host.execute("tc", "qdisc", "del", "dev", port, "ingress")
    only = {key: value for key, value in sent.items() if "ingress" not in key}
    assert IFB in host.call("CHECK", only).body["msg"]
    ip("link", "del", IFB, namespace=host.name)
    assert host.call("CHECK", only).code == 999


def test_garbage_is_collected(twins: Twins) -> None:
    """Of this network only, and only what ours made: the reference's devices do not tell whose they are."""
    host = twins.weft
    chain = [{"cniVersion": "1.1.0", "name": "net", **plugin} for plugin in (BRIDGE, limited(**EGRESS))]
    for number in range(2):
        result = host.call("ADD", chain[0], container=f"c{number}", ifname=f"eth{number}").body
        sent = chain[1] | {"prevResult": result}
        assert host.call("ADD", sent, container=f"c{number}", ifname=f"eth{number}").status == 0
    for name, alias in (("bwp0", device_alias("other")), ("bwp1", "")):
        ip("link", "add", name, "type", "ifb", namespace=host.name)
        host.execute("ip", "link", "set", name, "alias", alias)
    listed = {"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth1"}]}
    assert host.call("GC", chain[1] | listed, pod=None).status == 0
    left = {item["ifname"] for item in json.loads(host.shell("ip -j link show type ifb"))}
    assert left == {"bwp0", "bwp1", device_name("net", "c1")}
    assert host.call("STATUS", chain[1], pod=None).status == 0


def measured(host: Host, peer: str, *, to_container: bool) -> float:
    """Bits per second that TCP carries between container and host, one second long."""
    server = subprocess.Popen(
        ["nsenter", f"--net={path(host.name)}", "iperf3", "--server", "--one-off", "--bind", peer, "--forceflush"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        while "listening" not in server.stdout.readline():
            assert server.poll() is None
        direction = ["--reverse"] if to_container else []
        command = ["iperf3", "--client", peer, "--time", "1", "--json", "--connect-timeout", "5000", *direction]
        said = json.loads(shell(host.pods["pod"], " ".join(command)))
        assert "sum_received" in said["end"], said
        return float(said["end"]["sum_received"]["bits_per_second"])
    finally:
        server.kill()
        server.wait()


def test_both_directions_are_shaped(twins: Twins) -> None:
    """Within bounds that a busy machine keeps: at most twice the rate (the burst is on top), at least a tenth."""
    host = twins.weft
    chain = [{"cniVersion": "1.0.0", "name": "net", **plugin} for plugin in (BRIDGE, limited(**INGRESS, **EGRESS))]
    assert add_chain(host, chain, {}).status == 0
    assert 1.6e6 < measured(host, "10.22.0.1", to_container=True) < 32e6
    assert 2.4e6 < measured(host, "10.22.0.1", to_container=False) < 48e6


def test_only_the_subnets_are_shaped(twins: Twins) -> None:
    host = twins.weft
    ip("address", "add", "192.0.2.1/32", "dev", "lo", namespace=host.name)
    subnets = {"shapedSubnets": ["192.0.2.0/24"]}
    chain = [
        {"cniVersion": "1.0.0", "name": "net", **plugin}
        for plugin in (BRIDGE, limited(**INGRESS, **EGRESS, **subnets))
    ]
    assert add_chain(host, chain, {}).status == 0
    for to_container in (True, False):
        assert 1.6e6 < measured(host, "192.0.2.1", to_container=to_container) < 48e6
        assert measured(host, "10.22.0.1", to_container=to_container) > 60e6


def test_what_an_independent_library_finds(twins: Twins) -> None:
    """pyroute2 reads the same classes out of the kernel as ours does."""
    host = twins.weft
    ip("link", "add", "one", "type", "veth", "peer", "name", "two", namespace=host.name)
    wanted = traffic_control.Class(5, 6_000_000_000, 7_000_000_000, 1000)

    def work() -> tuple[int, list[traffic_control.Class], list[traffic_control.Queue]]:
        with RouteSocket() as route:
            from weft.kernel import links

            index = links.find_index(route, "one")
            route.execute([traffic_control.add_hierarchy(index, 5), traffic_control.add_class(index, wanted)])
            return index, traffic_control.dump_classes(route, index), traffic_control.dump_queues(route, index)

    index, classes, queues = inside(host.name, work)
    assert classes == [wanted]
    assert [(item.kind, item.default_class) for item in queues] == [("htb", 5)]
    (found,) = oracle.ask(host.name, lambda route: route.get_classes(index))
    options = found.get_attr("TCA_OPTIONS")
    assert found["handle"] == 0x10005
    assert options.get_attr("TCA_HTB_RATE64") == wanted.rate
    assert options.get_attr("TCA_HTB_CEIL64") == wanted.ceiling
