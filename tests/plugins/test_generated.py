"""Ours and the reference agree on configurations that a generator makes: on what they do, and on what they refuse.

``WEFT_EXAMPLES=500`` looks at that many of each kind, other ones each time.
"""

import json
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.plugins.generated import Case, chains, interfaces, spoilt
from tests.plugins.main.masters import MASTER, newer
from tests.plugins.main.test_ptp import undetected
from tests.plugins.meta.test_bandwidth import DIFFERENCES as OF_BANDWIDTH
from tests.plugins.meta.test_firewall import DIFFERENCES as OF_FIREWALL
from tests.plugins.twins import (
    Host,
    Twins,
    add_chain,
    delete_chain,
    lasting,
    made,
    needs_reference,
    shell,
    snapshot,
    unequal,
    with_runtime,
)
from weft.cni.versions import SUPPORTED, at_least

pytestmark = needs_reference

EXAMPLES = int(os.environ.get("WEFT_EXAMPLES", "0"))


def examples(count: int) -> settings:
    """As many examples, always the same ones unless more are asked for."""
    return settings(
        max_examples=EXAMPLES or count,
        derandomize=not EXAMPLES,
        database=None,
        phases=[Phase.generate],  # a smaller example would take minutes
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    """Two hosts for all examples; each example leaves them as it found them."""
    with made(tmp_path_factory.mktemp("generated")) as found:
        found.prepare(*MASTER)
        yield found


def agree(twins: Twins, case: Case) -> bool:
    """Do a case on both hosts; whether it was taken."""
    common = {"cniVersion": case.version, "name": case.network}
    chain = [{**plugin, **common} for plugin in case.chain]
    before = left(twins.weft)
    go, ours = (add_chain(host, chain, case.runtime, case.args) for host in twins)
    assert ours.code == go.code, f"reference: {go.status} {go.body}, ours: {ours.status} {ours.body}"
    if go.status:
        if len(chain) == 1:
            told = list(unequal(before, left(twins.weft)))
            assert not told, f"changed by what was refused: {ours.body}: {told}"
        undone = [
            [
                host.call("DEL", with_runtime(plugin, case.runtime), args=case.args).code
                for plugin in reversed(chain)
            ]
            for host in twins
        ]
        assert all(one == other or not other for one, other in zip(*undone, strict=True)), undone
        return False
    twins.equal("ADD", DIFFERENCES, go.body, ours.body)
    if case.version in SUPPORTED and at_least(case.version, "0.4.0"):
        for plugin in chain:
            told_by_check = twins.weft.call("CHECK", {**plugin, "prevResult": ours.body}, args=case.args)
            assert told_by_check.status == 0, told_by_check.body
    for host, answer in ((twins.go, go), (twins.weft, ours)):
        delete_chain(host, chain, answer.body, case.runtime, case.args)
    twins.equal("DEL", DIFFERENCES, None, None)
    return True


def tried(twins: Twins, case: Case) -> None:
    """A case, and both hosts as they were before it."""
    try:
        agree(twins, case)
    finally:
        cleaned(twins)


def left(host: Host) -> dict[str, Any]:
    """What a refused ADD must not change: all but bridge, chains and forwarding, which others may use by then."""
    seen = snapshot(host, None)
    bridges = ("cni0", "br-test")
    for part in ("links", "addresses"):
        seen["host"][part] = [item for item in seen["host"][part] if item["ifname"] not in bridges]
    for part in ("routes4", "routes6"):
        seen["host"][part] = [item for item in seen["host"][part] if item.get("dev") not in bridges]
    seen["host"]["filters"] = {
        name: lines for name, lines in seen["host"]["filters"].items() if name not in bridges
    }
    seen["host"]["sysctls"] = [
        line
        for line in seen["host"]["sysctls"]
        if "forward" not in line and not any(f"/{name}/" in line for name in bridges)
    ]
    seen["host"]["queues"] = [item for item in seen["host"]["queues"] if item["dev"] not in bridges]
    for part in ("iptables", "ip6tables", "nftables"):
        lines = seen["host"].pop(part, [])
        # Tables and chains that all containers share stay; rules do not.
        seen["host"][part] = [
            line for line in lines if not re.match(r"[*:}]|COMMIT|\s*(table|chain|type|})", line)
        ]
    return lasting(seen)


def cleaned(twins: Twins) -> None:
    """What DEL leaves by nature: bridges, where host-local goes on, chains that all containers share."""
    for host in twins:
        host.shell(
            f"""
            rm -rf {host.folder}/ipam {host.folder}/tuning
            nft flush ruleset
            sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0
            for each in cni0 br-test $(ip -o link | grep -o 'veth[0-9a-f]*@' | tr -d @); do
                ip link delete $each
            done
            """
        )
        shell(host.pods["pod"], "ip link delete eth0")


DIFFERENCES = (undetected, newer, *OF_BANDWIDTH, *OF_FIREWALL)


@examples(14)
@given(interfaces())
def test_interfaces(hosts: Twins, case: Case) -> None:
    tried(hosts, case)


@examples(8)
@given(chains())
def test_chains(hosts: Twins, case: Case) -> None:
    tried(hosts, case)


@examples(16)
@given(spoilt())
def test_spoilt_configurations(hosts: Twins, case: Case) -> None:
    tried(hosts, case)


def test_what_cannot_be_json(hosts: Twins) -> None:
    """Gigantic, deeply nested, cut off, in another encoding: code 6, where the reference has no bound."""
    configuration = json.dumps({"cniVersion": "1.0.0", "name": "net", "type": "bridge"})
    for data in (
        b"",
        b"{",
        b"\xff" + configuration.encode(),
        configuration[:-1].encode(),
        b'{"a":' * 20_000,
        b"7",
        b"[]",
    ):
        go, ours = (host.call("ADD", {"type": "bridge"}, data=data) for host in hosts)
        assert (go.code, ours.code) == (6, 6), data[:40]
    padded = configuration[:-1] + ', "x": "' + "y" * (2 << 20) + '"}'
    before = left(hosts.weft)
    assert hosts.weft.call("ADD", {"type": "bridge"}, data=padded.encode()).code == 6
    assert left(hosts.weft) == before


@pytest.mark.parametrize(
    "call",
    [
        {"container": "../../etc/passwd"}, {"container": "a/b"}, {"container": ""}, {"container": "-a"},
        {"container": "a b"}, {"container": "a\n"}, {"ifname": "a/b"}, {"ifname": ".."}, {"ifname": "a" * 16},
        {"ifname": "a b"}, {"ifname": ""}, {"ifname": "a:b"}, {"args": "MAC"}, {"args": "MAC=x;"}, {"args": "A=B"},
        {"args": "IgnoreUnknown=maybe"}, {"args": "MAC=02:00:00:00:00:01=1"},
    ],
    ids=str,
)  # fmt: skip
def test_path_tricks_and_other_environments(hosts: Twins, call: dict[str, Any]) -> None:
    hosts.refuse({"type": "bridge", "bridge": "cni0"}, **call)


@pytest.mark.parametrize("network", ["../x", "a/b", "", ".a", "a b", "a\u0000b", "é"])
def test_network_names(hosts: Twins, network: str) -> None:
    hosts.refuse({"type": "bridge", "name": network})
    if network:
        hosts.refuse({"type": "bridge", "name": network, "cniVersion": "9.9.9"})


LOCAL = {"type": "host-local", "dataDir": "HERE/ipam"}
ONE_ADDRESS = {"subnet": "10.22.0.0/24", "rangeStart": "10.22.0.5", "rangeEnd": "10.22.0.5"}
REFUSED: dict[str, dict[str, Any]] = {
    "a range that is the gateway": {"type": "bridge", "ipam": LOCAL | ONE_ADDRESS | {"gateway": "10.22.0.5"}},
    "a range outside its subnet": {"type": "bridge", "ipam": LOCAL | ONE_ADDRESS | {"rangeEnd": "10.23.0.5"}},
    "a start outside its subnet": {"type": "ptp", "ipam": LOCAL | ONE_ADDRESS | {"rangeStart": "fd00::1"}},
    "ranges that overlap": {"type": "bridge", "ipam": LOCAL | {"ranges": [[ONE_ADDRESS, ONE_ADDRESS]]}},
    "a subnet without room": {"type": "bridge", "ipam": LOCAL | {"subnet": "10.22.0.0/31"}},
    "no such master": {"type": "macvlan", "master": "none0", "ipam": LOCAL | ONE_ADDRESS},
    "an MTU above the master's": {"type": "macvlan", "master": "m0", "mtu": 9001, "ipam": LOCAL | ONE_ADDRESS},
    "no VLAN": {"type": "bridge", "vlan": 5000, "ipam": LOCAL | ONE_ADDRESS},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_had(hosts: Twins, name: str) -> None:
    before = left(hosts.weft)
    go, ours = (host.call("ADD", {"cniVersion": "1.0.0", "name": "net", **REFUSED[name]}) for host in hosts)
    assert go.code and ours.code == go.code, (go.body, ours.body)
    assert left(hosts.weft) == before
    cleaned(hosts)


@pytest.mark.parametrize("what", ["full", "interface that is there"])
def test_the_second_of_two(hosts: Twins, what: str) -> None:
    """A full range, and an interface name that is taken: the first container keeps what it has."""
    configuration = {"cniVersion": "1.0.0", "name": "net", "type": "bridge", "ipam": LOCAL | ONE_ADDRESS}
    if what != "full":
        configuration["ipam"] = LOCAL | {"subnet": "10.22.0.0/24"}
    for host in hosts:
        assert host.call("ADD", configuration).status == 0
    before = left(hosts.weft)
    ifname = "eth1" if what == "full" else "eth0"
    go, ours = (host.call("ADD", configuration, container="second", ifname=ifname) for host in hosts)
    assert go.code and ours.code == go.code, (go.body, ours.body)
    assert left(hosts.weft) == before
    for host in hosts:
        assert host.call("DEL", configuration).status == 0
    cleaned(hosts)
