"""``firewall`` against the reference: iptables rule by rule, firewalld by a real one, and with packets."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.plugins import firewalld, traffic
from tests.plugins.twins import (
    GO_FOLDER,
    Answer,
    Host,
    Twins,
    as_iptables_shows_it,
    made,
    needs_reference,
    shell,
)
from weft.plugins.meta import firewalld as backend

pytestmark = needs_reference

IPAM: dict[str, Any] = {"type": "host-local", "dataDir": "HERE/ipam", "ranges": [[{"subnet": "10.22.0.0/16"}]]}
IPAM6: dict[str, Any] = {"type": "host-local", "dataDir": "HERE/ipam", "ranges": [[{"subnet": "fd00:22::/64"}]]}
BOTH = {**IPAM, "ranges": [*IPAM["ranges"], *IPAM6["ranges"]]}
BRIDGE = {"type": "bridge", "isDefaultGateway": True, "ipam": BOTH}
#: A previous result, for calls of firewall alone.
PREVIOUS = {
    "cniVersion": "1.0.0",
    "interfaces": [{"name": "cni0"}, {"name": "eth0", "sandbox": "/run/netns/x"}],
    "ips": [
        {"address": "10.22.0.2/16", "interface": 1},
        {"address": "10.22.0.3/16"},
        {"address": "fd00:22::2/64"},
    ],
}
NEWER = b"same-bridge|isolated" in GO_FOLDER.joinpath("firewall").read_bytes() if GO_FOLDER.is_dir() else False
needs_newer = pytest.mark.skipif(not NEWER, reason="this reference does not know 'isolated'; WEFT_REFERENCE may")

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "iptables": {"backend": "iptables"},
    "empty keys": {"backend": "", "iptablesAdminChainName": "", "firewalldZone": "", "ingressPolicy": ""},
    "administrator's chain": {"iptablesAdminChainName": "MY-ADMIN"},
    "open": {"ingressPolicy": "open"},
    "same-bridge": {"ingressPolicy": "same-bridge"},
    "keys in any case": {"IngressPolicy": "same-bridge", "iptablesadminchainname": "MY-ADMIN"},
}


def comments(seen: dict[str, Any]) -> None:
    """Debian's reference (1.1.1) has one policy in the comments of isolation; later ones, and ours, have both."""
    for name in ("iptables", "ip6tables"):
        seen["host"][name] = [re.sub(r"\(ingressPolicy: [^)]*\)", "", line) for line in seen["host"][name]]


DIFFERENCES = [as_iptables_shows_it] if NEWER else [as_iptables_shows_it, comments]


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_like_the_reference(twins: Twins, name: str) -> None:
    twins.compare(BRIDGE, {"type": "firewall", **CONFIGURATIONS[name]}, differences=DIFFERENCES)


@needs_newer
def test_isolated_like_a_newer_reference(twins: Twins) -> None:
    twins.compare(BRIDGE, {"type": "firewall", "ingressPolicy": "isolated"}, differences=DIFFERENCES)


@pytest.mark.parametrize("families", [IPAM, IPAM6, {}], ids=["ipv4", "ipv6", "none"])
def test_families(twins: Twins, families: dict[str, Any]) -> None:
    bridge = BRIDGE | {"ipam": families, "isDefaultGateway": bool(families)}
    # The reference's CHECK of a bridge asks for the plugin "" where there is no ipam.
    twins.compare(
        bridge,
        {"type": "firewall", "ingressPolicy": "same-bridge"},
        differences=DIFFERENCES,
        reference_checks=bool(families),
    )


@pytest.mark.parametrize("version", ["0.4.0", "1.0.0"])
def test_every_version(twins: Twins, version: str) -> None:
    twins.compare(BRIDGE, {"type": "firewall"}, differences=DIFFERENCES, version=version)


def call(host: Host, command: str, **keys: Any) -> Answer:
    """Call firewall alone, with a result of others."""
    return host.call(
        command, {"cniVersion": "1.0.0", "name": "net", "type": "firewall", "prevResult": PREVIOUS} | keys
    )


def rules(host: Host) -> list[str]:
    """iptables of both families, without counters."""
    text = host.execute("iptables-save", "-t", "filter") + host.execute("ip6tables-save", "-t", "filter")
    return [line.partition(" [")[0] for line in text.splitlines() if not line.startswith("#")]


def other(number: int) -> dict[str, Any]:
    """Another container's result, on another bridge."""
    return {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": f"br{number}"}],
        "ips": [{"address": f"10.{number}.0.2/16"}],
    }


def test_rules_that_are_there_already(twins: Twins) -> None:
    """The host's own come after ours, the administrator's before; several containers and bridges share chains."""
    for host in twins:
        host.execute("iptables", "-A", "FORWARD", "-j", "DROP")
        for number in (1, 2, 1):
            keys = {"prevResult": other(number), "ingressPolicy": "same-bridge" if number == 2 else "open"}
            assert call(host, "ADD", **keys).status == 0
        host.execute("iptables", "-A", "CNI-ADMIN", "-s", "10.1.0.2", "-j", "DROP")
        assert call(host, "ADD", ingressPolicy="same-bridge").status == 0
        assert call(host, "DEL", prevResult=other(2), ingressPolicy="same-bridge").status == 0
    shown = [re.sub(r"\(ingressPolicy: [^)]*\)", "", "\n".join(rules(host))) for host in twins]
    assert shown[0] == shown[1]
    assert "10.1.0.2/32 -j ACCEPT" in shown[1] and "10.2.0.2" not in shown[1]


REFUSED: dict[str, dict[str, Any]] = {
    "no previous result": {"prevResult": None},
    "unknown policy": {"ingressPolicy": "closed"},
    "policy of the wrong type": {"ingressPolicy": 1},
    "backend of the wrong type": {"backend": ["iptables"]},
    "zone of the wrong type": {"firewalldZone": 5},
    "name too long": {"iptablesAdminChainName": "X" * 40},
    "isolation without a bridge": {"ingressPolicy": "same-bridge", "prevResult": {**PREVIOUS, "interfaces": []}},
    "isolation of a bridge without a name": {
        "ingressPolicy": "same-bridge",
        "prevResult": {**PREVIOUS, "interfaces": [{"name": ""}, {"name": "eth0"}]},
    },
    "no firewalld": {"backend": "firewalld"},
    "too old": {"cniVersion": "0.3.1"},
}


@pytest.fixture
def no_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    """No D-Bus, whatever the machine has."""
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent")


@pytest.mark.parametrize("name", REFUSED)
def test_refused_like_the_reference(twins: Twins, name: str, no_bus: None) -> None:
    for host in twins:
        assert call(host, "ADD", prevResult=other(1)).status == 0
    sent = {"type": "firewall", "prevResult": PREVIOUS} | REFUSED[name]
    twins.refuse({key: value for key, value in sent.items() if value is not None})


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"backend": "nftables"}, "nftables"),
        ({"iptablesAdminChainName": "A B"}, "A B"),
        ({"iptablesAdminChainName": "X\n-F"}, "iptablesAdminChainName"),
        ({"ingressPolicy": "isolated", "prevResult": {**PREVIOUS, "interfaces": [{"name": "a/b"}]}}, "a/b"),
    ],
)
def test_what_the_reference_ignores_is_refused(twins: Twins, keys: dict[str, Any], named: str) -> None:
    answer = call(twins.weft, "ADD", **keys)
    assert answer.code == 999 and named in answer.body["msg"]
    assert "CNI-" not in "".join(rules(twins.weft))


def test_a_family_that_fails_takes_the_other_back(twins: Twins) -> None:
    host = twins.weft
    host.execute("ip6tables", "-N", "CNI-ADMIN")
    host.execute("ip6tables", "-N", "CNI-FORWARD")
    host.execute("ip6tables", "-A", "CNI-ADMIN", "-j", "CNI-FORWARD")
    answer = call(host, "ADD")  # would be a loop
    assert answer.code == 999, answer.body
    assert "10.22.0.2" not in "".join(rules(host))


@pytest.mark.parametrize("go_adds", [True, False])
def test_either_takes_down_what_the_other_made(twins: Twins, go_adds: bool) -> None:
    host = twins.go
    hosts = (host, replace(host, go=False)) if go_adds else (replace(host, go=False), host)
    keys = {"ingressPolicy": "same-bridge"}
    assert call(hosts[0], "ADD", prevResult=other(1), **keys).status == 0
    assert call(hosts[0], "ADD", **keys).status == 0
    assert all(call(each, "CHECK").status == 0 for each in hosts)
    assert call(hosts[1], "DEL", **keys).status == 0
    left = "\n".join(rules(host))
    assert "10.22.0.2" not in left and "fd00:22::2" not in left and "10.1.0.2/32 -j ACCEPT" in left


def test_del_is_repeatable_and_needs_no_namespace(twins: Twins) -> None:
    host = twins.weft
    configuration = {"cniVersion": "1.0.0", "name": "net", "type": "firewall", "prevResult": PREVIOUS}
    assert call(host, "DEL").status == 0
    assert call(host, "ADD").status == 0 and call(host, "ADD").status == 0
    assert sum("10.22.0.2" in line for line in rules(host)) == 2
    assert host.call("DEL", configuration, pod=None).status == 0
    assert not [line for line in rules(host) if "ACCEPT" in line and "-A" in line]
    assert host.call("DEL", configuration, pod=None).status == 0
    assert call(host, "DEL", prevResult=None).status == 0


def test_check_finds_what_is_missing(twins: Twins) -> None:
    host = twins.weft
    keys = {"ingressPolicy": "isolated"}
    assert call(host, "CHECK", **keys).code == 999
    assert call(host, "ADD", **keys).status == 0
    assert call(host, "CHECK", **keys).status == 0
    assert call(host, "CHECK", prevResult=None).code == 999
    host.execute("iptables", "-D", "CNI-ISOLATION-STAGE-1", "1")
    assert "CNI-ISOLATION-STAGE-1" in call(host, "CHECK", **keys).body["msg"]
    assert call(host, "CHECK").status == 0
    host.execute("ip6tables", "-D", "CNI-FORWARD", "-s", "fd00:22::2", "-j", "ACCEPT")
    assert "fd00:22::2" in call(host, "CHECK").body["msg"]


def test_gc_and_status(twins: Twins, no_bus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    host = twins.weft
    keys = {"cniVersion": "1.1.0", "cni.dev/valid-attachments": []}
    assert call(host, "ADD").status == 0
    before = rules(host)
    assert call(host, "GC", **keys).status == 0
    assert rules(host) == before
    assert call(host, "STATUS", **keys).status == 0
    assert call(host, "STATUS", backend="firewalld", **keys).code == 50
    monkeypatch.setenv("PATH", "/nonexistent")
    assert call(host, "STATUS", **keys).code == 50


@pytest.mark.parametrize("policy", ["open", "same-bridge", "isolated"])
def test_packets_pass_as_the_policy_says(tmp_path: Path, policy: str) -> None:
    """On a host that forwards nothing: a neighbour on the bridge, a container of another bridge, a client."""
    with made(tmp_path, "pod", "other", "client") as twins:
        host = twins.weft
        for bridge, pod, subnet in (("cni0", "pod", 22), ("cni1", "other", 23)):
            ipam = {"type": "host-local", "dataDir": "HERE/ipam", "ranges": [[{"subnet": f"10.{subnet}.0.0/16"}]]}
            plugins = ({**BRIDGE, "bridge": bridge, "ipam": ipam}, {"type": "firewall", "ingressPolicy": policy})
            result = None
            for plugin in plugins:
                sent = {"cniVersion": "1.0.0", "name": bridge, **plugin} | (
                    {"prevResult": result} if result else {}
                )
                answer = host.call("ADD", sent, pod=pod)
                assert answer.status == 0, answer.body
                result = answer.body
        traffic.uplink(host.name, host.pods["client"])
        host.execute("iptables", "-P", "FORWARD", "DROP")
        host.execute(
            "iptables", "-I", "CNI-FORWARD", "1", "-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT"
        )
        with traffic.server(host.pods["client"], "tcp", 80):
            assert traffic.ask(host.pods["pod"], "tcp", "192.0.2.2", 80) == "10.22.0.2"
        with traffic.server(host.pods["pod"], "tcp", 80):
            assert traffic.ask(host.pods["client"], "tcp", "10.22.0.2", 80, traffic.SHORT) is None
            wanted, patience = ("10.23.0.2", traffic.PATIENCE) if policy == "open" else (None, traffic.SHORT)
            assert traffic.ask(host.pods["other"], "tcp", "10.22.0.2", 80, patience) == wanted


@pytest.mark.parametrize("policy", ["same-bridge", "isolated"])
def test_neighbours_on_one_bridge(tmp_path: Path, policy: str) -> None:
    """Where bridged packets pass iptables, isolated ports do not reach each other."""
    with made(tmp_path, "pod", "other") as twins:
        host = twins.weft
        if not shell(host.name, "echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables && echo set"):
            pytest.skip("this kernel has no br_netfilter")
        ipam = {"type": "host-local", "dataDir": "HERE/ipam", "ranges": [[{"subnet": "10.22.0.0/16"}]]}
        for pod in ("pod", "other"):
            sent: dict[str, Any] = {"cniVersion": "1.0.0", "name": "net", **BRIDGE, "ipam": ipam}
            result = host.call("ADD", sent, container=pod, pod=pod).body
            sent = {**sent, "type": "firewall", "ingressPolicy": policy, "prevResult": result}
            assert host.call("ADD", sent, container=pod, pod=pod).status == 0
        with traffic.server(host.pods["pod"], "tcp", 80):
            wanted, patience = (
                ("10.22.0.3", traffic.PATIENCE) if policy == "same-bridge" else (None, traffic.SHORT)
            )
            assert traffic.ask(host.pods["other"], "tcp", "10.22.0.2", 80, patience) == wanted


LACKING = firewalld.lacking()
needs_firewalld = pytest.mark.skipif(bool(LACKING), reason=LACKING)


@pytest.fixture
def with_firewalld(twins: Twins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Twins]:
    """Both hosts' plugins on the bus of one firewalld, which is in the namespace of ours."""
    with firewalld.firewalld(twins.weft.name, tmp_path / "firewalld") as address:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
        yield twins


def sources(host: Host, zone: str) -> str:
    """The lines of firewalld's ruleset that name a zone."""
    listed = host.execute("nft", "list", "table", "inet", "firewalld").splitlines()
    return "\n".join(line for line in listed if line.strip().endswith(f"_{zone}"))


@needs_firewalld
@pytest.mark.parametrize("keys", [{}, {"backend": "firewalld"}, {"firewalldZone": "internal"}])
def test_firewalld(with_firewalld: Twins, keys: dict[str, Any]) -> None:
    host, zone = with_firewalld.weft, keys.get("firewalldZone", "trusted")
    assert call(host, "CHECK", **keys).code == 999
    assert call(host, "ADD", **keys).status == 0
    assert call(host, "ADD", **keys).status == 0
    shown = sources(host, zone)
    assert all(address in shown for address in ("10.22.0.2", "10.22.0.3", "fd00:22::2")), shown
    assert "CNI-" not in "".join(rules(host))
    assert call(host, "CHECK", **keys).status == 0
    assert call(host, "STATUS", cniVersion="1.1.0", **keys).status == 0
    assert call(host, "DEL", **keys).status == 0
    assert "10.22.0.2" not in sources(host, zone)
    assert call(host, "DEL", **keys).status == 0


@needs_firewalld
def test_firewalld_refuses(with_firewalld: Twins) -> None:
    """An unknown zone; an address that is in another zone, after which the ones before it are out again."""
    host = with_firewalld.weft
    answer = call(host, "ADD", firewalldZone="nonesuch")
    assert answer.code == 999 and "nonesuch" in answer.body["msg"]
    last = {**PREVIOUS, "ips": PREVIOUS["ips"][2:]}
    assert call(host, "ADD", firewalldZone="internal", prevResult=last).status == 0
    assert call(host, "ADD").code == 999
    assert "10.22.0.2" not in sources(host, "trusted") and "fd00:22::2" in sources(host, "internal")


@needs_firewalld
@pytest.mark.parametrize("go_adds", [True, False])
def test_firewalld_by_either(with_firewalld: Twins, go_adds: bool) -> None:
    """Only the bus matters: the reference calls the same firewalld from its own host."""
    adding, deleting = (with_firewalld.go, with_firewalld.weft) if go_adds else reversed(tuple(with_firewalld))
    assert call(adding, "ADD").status == 0
    assert all(call(host, "CHECK").status == 0 for host in with_firewalld)
    assert "10.22.0.2" in sources(with_firewalld.weft, "trusted")
    assert call(deleting, "DEL").status == 0
    assert "10.22.0.2" not in sources(with_firewalld.weft, "trusted")


@needs_firewalld
def test_isolation_is_iptables_with_firewalld_too(with_firewalld: Twins) -> None:
    for host in with_firewalld:
        assert call(host, "ADD", ingressPolicy="same-bridge").status == 0
    shown = [re.sub(r"\(ingressPolicy: [^)]*\)", "", "\n".join(rules(host))) for host in with_firewalld]
    assert shown[0] == shown[1] and "CNI-ISOLATION-STAGE-1" in shown[1] and "CNI-FORWARD" not in shown[1]


def test_without_a_bus_it_is_not_running(no_bus: None) -> None:
    assert not backend.running()
    backend.close("trusted", [])
