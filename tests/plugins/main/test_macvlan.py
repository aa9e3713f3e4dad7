"""``macvlan`` against the reference."""

import struct
from pathlib import Path
from typing import Any

import pytest

from tests.kernel import oracle
from tests.namespaces import ip, run
from tests.plugins.main.masters import BOTH, IPAM, IPAM6, MASTER, leases, newer, own_dns, request, trial
from tests.plugins.twins import Twins, add_chain, delete_chain, made, needs_reference
from weft.plugins.main.macvlan import parse

pytestmark = needs_reference

ROUTES = {"routes": [{"dst": "0.0.0.0/0"}, {"dst": "192.0.2.0/24", "gw": "10.24.0.9"}]}

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "plain": {"ipam": IPAM},
    "layer 2": {},
    "layer 2 and dns": {"dns": {"nameservers": ["10.24.0.1"]}},
    "private": {"mode": "private", "ipam": IPAM},
    "vepa": {"mode": "vepa", "ipam": IPAM},
    "bridge": {"mode": "bridge", "ipam": IPAM},
    "passthru": {"mode": "passthru", "ipam": IPAM},
    "mtu": {"mtu": 1300, "ipam": IPAM},
    "mac": {"mac": "02:11:22:33:44:55", "ipam": IPAM},
    "mac by the runtime": {
        "mac": "02:11:22:33:44:55",
        "runtimeConfig": {"mac": "02:11:22:33:44:66"},
        "ipam": IPAM,
    },
    "routes": {"ipam": IPAM | ROUTES},
    "ipv6": {"ipam": IPAM6 | {"routes": [{"dst": "::/0"}]}},
    "both families": {"ipam": BOTH | ROUTES},
    "dns": {"ipam": IPAM, "dns": {"nameservers": ["10.1.0.1"], "domain": "a", "search": ["b"], "options": ["c"]}},
    "static": {"ipam": {"type": "static", "addresses": [{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}]}},
    "keys in any case": {"MODE": "private", "Mtu": 1400, "ipam": IPAM},
    "null is nothing": {"mode": None, "mtu": None, "mac": None, "ipam": IPAM},
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_like_the_reference(twins: Twins, name: str) -> None:
    twins.prepare(*MASTER)
    # Debian's reference (1.1.1) does not find routes without a gateway in CHECK.
    twins.compare(
        {"type": "macvlan", "master": "m0", **CONFIGURATIONS[name]},
        differences=[newer],
        reference_checks="route" not in name and "famil" not in name and "ipv6" not in name,
    )


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0"])
def test_every_version(twins: Twins, version: str) -> None:
    twins.prepare(*MASTER)
    twins.compare({"type": "macvlan", "master": "m0", "ipam": BOTH}, version=version, differences=[newer])


def test_the_default_routes_device(twins: Twins) -> None:
    twins.prepare(*MASTER, "address add 10.1.0.1/24 dev m0", "route add default via 10.1.0.2")
    twins.compare({"type": "macvlan", "ipam": IPAM}, differences=[newer])


def test_mac_in_arguments(twins: Twins) -> None:
    twins.prepare(*MASTER)
    result = twins.compare(
        {"type": "macvlan", "master": "m0", "mac": "02:00:00:00:00:01"},
        args="IgnoreUnknown=1;MAC=02:00:00:00:00:07;K8S_POD_NAME=a",
        differences=[newer],
    )
    assert result["interfaces"][0]["mac"] == "02:00:00:00:00:07"


def test_dns_of_ipam(twins: Twins) -> None:
    twins.prepare(*MASTER)
    addresses = [{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}]
    ipam = {"type": "static", "addresses": addresses, "dns": {"nameservers": ["10.1.0.9"]}}
    result = twins.compare({"type": "macvlan", "master": "m0", "ipam": ipam}, differences=[newer, own_dns])
    assert result["dns"] == {"nameservers": ["10.1.0.9"]}


def test_an_interface_of_the_wanted_name_on_the_host(twins: Twins) -> None:
    twins.prepare(*MASTER, "link add name eth0 type bridge")
    twins.compare({"type": "macvlan", "master": "m0", "ipam": IPAM}, differences=[newer])


REFUSED: dict[str, dict[str, Any]] = {
    "no such master": {"master": "nonesuch"},
    "no master": {"master": ""},
    "mode": {"mode": "l2"},
    "mtu above the master's": {"mtu": 1501},
    "mtu below zero": {"mtu": -1},
    "mtu of the wrong type": {"mtu": "1400"},
    "bad mac": {"mac": "no"},
    "multicast mac": {"mac": "01:00:00:00:00:01"},
    "bad mac by the runtime": {"runtimeConfig": {"mac": "02"}},
    "no such ipam": {"ipam": {"type": "nonesuch"}},
    "ipam without ranges": {"ipam": {"type": "host-local", "dataDir": "HERE/x"}},
    "ipam that fails": {"ipam": {"type": "static", "addresses": [{"address": "10.9.0.5"}]}},
    "the same route twice": {"ipam": IPAM | {"routes": [{"dst": "192.0.2.0/24"}] * 2}},
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_like_the_reference(twins: Twins, name: str) -> None:
    twins.prepare(*MASTER)
    twins.refuse({"type": "macvlan", "master": "m0", **REFUSED[name]})


def test_unknown_arguments_are_refused(twins: Twins) -> None:
    twins.prepare(*MASTER)
    twins.refuse({"type": "macvlan", "master": "m0"}, "FOO=bar")


def test_an_interface_that_is_there_is_refused(twins: Twins) -> None:
    twins.prepare(*MASTER)
    for host in twins:
        ip("link", "add", "eth0", "type", "bridge", namespace=host.pods["pod"])
    assert "eth0" in twins.refuse({"type": "macvlan", "master": "m0", "ipam": IPAM}).body["msg"]


@pytest.mark.parametrize(
    ("keys", "named"),
    [({"bcqueuelen": -1}, "bcqueuelen -1"), ({"bcqueuelen": 1 << 32}, "bcqueuelen"), ({"master": "a/b"}, "a/b")],
)
def test_what_the_reference_of_debian_does_not_know_is_checked(
    twins: Twins, keys: dict[str, Any], named: str
) -> None:
    answer = twins.weft.call("ADD", sent(**keys))
    assert answer.code == 999 and named in answer.body["msg"]


def sent(**keys: Any) -> dict[str, Any]:
    return {"cniVersion": "1.1.0", "name": "net", "type": "macvlan", "master": "m0", **keys}


def test_queue_for_broadcasts(twins: Twins) -> None:
    twins.prepare(*MASTER)
    assert twins.weft.call("ADD", sent(bcqueuelen=77)).status == 0
    assert "bcqueuelen 77" in ip("-d", "link", "show", "eth0", namespace=twins.weft.pods["pod"])


def test_the_master_in_the_container(twins: Twins) -> None:
    host, pod = twins.weft, twins.weft.pods["pod"]
    configuration = sent(linkInContainer=True, ipam=IPAM)
    refused = host.call("ADD", configuration)
    assert refused.code == 999 and "m0" in refused.body["msg"]
    for command in MASTER:
        ip(*command.split(), namespace=pod)
    answer = host.call("ADD", configuration)
    assert answer.status == 0, answer.body
    assert "eth0@m0" in ip("link", namespace=pod)
    assert "10.24.0.2/24" in ip("address", namespace=pod)
    assert host.call("CHECK", configuration | {"prevResult": answer.body}).status == 0
    assert host.call("DEL", configuration).status == 0
    assert "eth0" not in ip("link", namespace=pod)


def test_the_default_routes_device_in_the_container(twins: Twins) -> None:
    pod = twins.weft.pods["pod"]
    for command in (*MASTER, "address add fd00:1::1/64 dev m0", "route add default via fd00:1::2"):
        ip(*command.split(), namespace=pod)
    assert twins.weft.call("ADD", sent(master="", linkInContainer=True)).status == 0
    assert "eth0@m0" in ip("link", namespace=pod)


@pytest.mark.parametrize("go_first", [True, False])
def test_added_by_one_deleted_by_the_other(twins: Twins, go_first: bool) -> None:
    twins.prepare(*MASTER)
    home = twins.go if go_first else twins.weft
    trial(home, [sent(cniVersion="1.0.0", ipam=BOTH)])


def test_check_finds_what_changed(twins: Twins) -> None:
    twins.prepare(*MASTER)
    host, pod = twins.weft, twins.weft.pods["pod"]
    configuration = sent(ipam=IPAM)
    configuration |= {"prevResult": host.call("ADD", configuration).body}
    assert host.call("CHECK", configuration).status == 0
    assert "mode" in host.call("CHECK", configuration | {"mode": "vepa"}).body["msg"]
    assert "nonesuch" in host.call("CHECK", configuration | {"master": "nonesuch"}).body["msg"]
    ip("address", "flush", "dev", "eth0", namespace=pod)
    assert "10.24.0.2" in host.call("CHECK", configuration).body["msg"]
    ip("link", "delete", "eth0", namespace=pod)
    assert "not found" in host.call("CHECK", configuration).body["msg"]
    ip("link", "add", "eth0", "type", "bridge", namespace=pod)
    assert "macvlan" in host.call("CHECK", configuration).body["msg"]


def test_status_and_garbage(twins: Twins) -> None:
    host = twins.weft
    assert host.call("STATUS", sent(ipam=IPAM), pod=None).code == 50
    twins.prepare(*MASTER)
    assert host.call("STATUS", sent(ipam=IPAM), pod=None).status == 0
    assert host.call("ADD", sent(ipam=IPAM)).status == 0
    assert host.call("GC", sent(ipam=IPAM) | {"cni.dev/valid-attachments": []}, pod=None).status == 0
    assert not leases(host)


def test_deleting_what_is_gone(twins: Twins) -> None:
    """Twice, without the namespace, and without the master: each succeeds, and no address stays."""
    twins.prepare(*MASTER)
    host = twins.weft
    chain = [sent(ipam=IPAM)]
    result = add_chain(host, chain, {}).body
    ip("link", "delete", "m0", namespace=host.name)
    for pod in ("pod", "pod", None):
        delete_chain(host, chain, result, {}, pod=pod)
    assert not leases(host)


def test_packets_pass_between_two(tmp_path: Path) -> None:
    with made(tmp_path, "one", "two") as twins:
        twins.prepare(*MASTER)
        host = twins.weft
        for pod in ("one", "two"):
            assert host.call("ADD", sent(ipam=IPAM), pod=pod, container=pod).status == 0
        assert "1 received" in run("ping", "-c1", "-W2", "10.24.0.3", namespace=host.pods["one"])


def test_the_request() -> None:
    plan = parse(request(sent(mode="vepa", mtu=1300, mac="02:00:00:00:00:01", bcqueuelen=9)))
    oracle.same_link_request(
        plan.creation("veth1", 7, 9),
        "macvlan",
        {"macvlan_mode": "vepa"},
        {7: struct.pack("=I", 9)},
        ifname="veth1",
        link=7,
        mtu=1300,
        address="02:00:00:00:00:01",
        net_ns_fd=9,
    )
