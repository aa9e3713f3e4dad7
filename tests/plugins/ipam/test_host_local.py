"""``host-local`` against the reference: ranges, requests, files; and both on one folder."""

import copy
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.plugins.twins import Twins, needs_reference
from weft.cni import CniError
from weft.plugins.ipam.ranges import Range, RangeSet, RangeSettings, parse_range, parse_set

pytestmark = needs_reference

RANGES = {
    "one": [[{"subnet": "10.1.2.0/24"}]],
    "bounded": [[{"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.9", "rangeEnd": "10.1.2.10"}]],
    "gateway": [[{"subnet": "10.1.2.0/24", "gateway": "10.1.2.254"}]],
    "gateway outside": [[{"subnet": "10.1.2.0/24", "gateway": "10.9.9.9"}]],
    "two in a set": [[{"subnet": "10.1.2.0/29"}, {"subnet": "10.1.3.0/29"}]],
    "two sets": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "10.1.3.0/24"}]],
    "ipv6": [[{"subnet": "2001:db8:1::/64"}]],
    "both families": [
        [{"subnet": "10.1.2.0/24"}],
        [{"subnet": "2001:db8:1::/96", "rangeStart": "2001:db8:1::f0"}],
    ],
}


def network(ranges: Any, **more: Any) -> dict[str, Any]:
    return {"type": "host-local", "ipam": {"type": "host-local", "dataDir": "HERE/ipam", "ranges": ranges, **more}}


@pytest.mark.parametrize("name", RANGES)
def test_like_the_reference(twins: Twins, name: str) -> None:
    twins.compare(network(RANGES[name]))


def test_one_range_in_keys_of_its_own(twins: Twins) -> None:
    ipam = {"type": "host-local", "dataDir": "HERE/ipam", "subnet": "10.1.2.0/24", "rangeStart": "10.1.2.50"}
    twins.compare({"type": "host-local", "ipam": ipam})
    ranges = [[{"subnet": "10.9.0.0/24"}]]
    twins.compare({"type": "host-local", "ipam": {**ipam, "ranges": ranges}})


def test_routes_and_dns(twins: Twins) -> None:
    for host in twins:
        (host.folder / "resolv.conf").write_text(
            "# c\nnameserver 10.0.0.9\nsearch a.b c.d\noptions ndots:5 x\ndomain e\n"
        )
    routes = [{"dst": "0.0.0.0/0"}, {"dst": "192.168.0.0/16", "gw": "10.1.2.9"}]
    twins.compare(network(RANGES["one"], routes=routes, resolvConf="HERE/resolv.conf"))


def test_requested_addresses(twins: Twins) -> None:
    one, two = RANGES["one"], RANGES["both families"]
    twins.compare(network(one), args="IP=10.1.2.88")
    twins.compare(network(one), args="IgnoreUnknown=true;IP=10.1.2.89;K8S_POD_NAME=x")
    twins.compare({**network(one), "args": {"cni": {"ips": ["10.1.2.90"]}}})
    capabilities = {"capabilities": {"ips": True, "ipRanges": True}}
    twins.compare({**network(two), **capabilities}, runtime={"ips": ["2001:db8:1::ff/96", "10.1.2.91"]})
    twins.compare({**network(one), **capabilities}, runtime={"ipRanges": [[{"subnet": "10.77.0.0/24"}]]})


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0", "0.3.1", "0.4.0"])
def test_older_versions(twins: Twins, version: str) -> None:
    twins.compare(network(RANGES["both families"]), version=version)


def test_the_same_addresses_in_the_same_order(twins: Twins) -> None:
    """Round the range, past the gateway, over what was released, until it is full."""
    sent = {
        "cniVersion": "1.0.0",
        "name": "net",
        **network([[{"subnet": "10.1.2.0/29"}, {"subnet": "10.1.3.0/30"}]]),
    }
    seen: list[list[Any]] = [[], []]
    for number, host in enumerate(twins):
        for step in range(12):
            answer = host.call("ADD", sent, container=f"c{step}")
            seen[number].append(answer.body["ips"][0]["address"] if answer.status == 0 else answer.code)
            if step in (3, 4, 8):
                assert host.call("DEL", sent, container=f"c{step - 2}").status == 0
    assert seen[0] == seen[1]
    assert seen[0][-1] == 999


def test_both_on_one_folder(twins: Twins) -> None:
    """A node goes from the reference to ours and back with containers running."""
    go, ours = twins
    ours.folder.rename(ours.folder.with_name("aside"))
    sent = {"cniVersion": "1.0.0", "name": "net", **network([[{"subnet": "10.1.2.0/24"}]])}
    ours_sent = copy.deepcopy(sent)
    ours_sent["ipam"]["dataDir"] = str(go.folder / "ipam")
    ours.folder.with_name("aside").rename(ours.folder)
    addresses = []
    for number in range(6):
        host, body = (go, sent) if number % 2 else (ours, ours_sent)
        answer = host.call("ADD", body, container=f"c{number}")
        assert answer.status == 0, answer.body
        addresses.append(answer.body["ips"][0]["address"])
    assert addresses == [f"10.1.2.{number}/24" for number in range(2, 8)]
    for number in range(6):
        host, body = (ours, ours_sent) if number % 2 else (go, sent)
        again = host.call("ADD", body, container=f"c{number}")
        assert again.code == 999 and "duplicate" in again.body["msg"]
        assert host.call("CHECK", body | {"prevResult": {}}, container=f"c{number}").status == 0
        assert host.call("DEL", body, container=f"c{number}").status == 0
    assert sorted(file.name for file in (go.folder / "ipam/net").iterdir()) == ["last_reserved_ip.0", "lock"]


def test_files_of_old_are_released(twins: Twins) -> None:
    sent = {"cniVersion": "1.0.0", "name": "net", **network(RANGES["one"])}
    for host in twins:
        folder = host.folder / "ipam/net"
        folder.mkdir(parents=True)
        (folder / "10.1.2.7").write_text("old")
        assert host.call("CHECK", sent | {"prevResult": {}}, container="old").status == 0
        assert host.call("DEL", sent, container="old").status == 0
        assert not (folder / "10.1.2.7").exists()


REFUSED: dict[str, Any] = {
    "no ranges": network([]),
    "empty set": network([[]]),
    "no subnet": network([[{"rangeStart": "10.0.0.1"}]]),
    "host bits": network([[{"subnet": "10.0.0.1/24"}]]),
    "too small": network([[{"subnet": "10.0.0.0/31"}]]),
    "start outside": network([[{"subnet": "10.0.0.0/24", "rangeStart": "10.0.1.1"}]]),
    "end outside": network([[{"subnet": "10.0.0.0/24", "rangeEnd": "10.0.1.1"}]]),
    "end before start": network([[{"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "rangeEnd": "10.0.0.8"}]]),
    "mixed families": network([[{"subnet": "10.0.0.0/24"}, {"subnet": "fd00::/64"}]]),
    "overlap in a set": network([[{"subnet": "10.0.0.0/24"}, {"subnet": "10.0.0.0/25"}]]),
    "overlap of sets": network([[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.0.0.0/23"}]]),
    "not a subnet": network([[{"subnet": "nonsense"}]]),
    "not a list": network("10.0.0.0/24"),
    "bad gateway": network([[{"subnet": "10.0.0.0/24", "gateway": "x"}]]),
    "no ipam": {"type": "host-local"},
    "bad route": network(RANGES["one"], routes=[{"dst": "x"}]),
    "no resolv.conf": network(RANGES["one"], resolvConf="HERE/none"),
    "routes of the wrong type": network(RANGES["one"], routes="x"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_like_the_reference(twins: Twins, name: str) -> None:
    twins.refuse(REFUSED[name])


@pytest.mark.parametrize("args", ["IP=10.99.0.1", "IP=10.1.2.1", "IP=x", "FOO=1", "IP", "IgnoreUnknown=perhaps"])
def test_arguments_refused_like_the_reference(twins: Twins, args: str) -> None:
    twins.refuse(network(RANGES["one"]), args)


def test_an_address_that_is_taken_is_refused(twins: Twins) -> None:
    sent = {"cniVersion": "1.0.0", "name": "net", **network(RANGES["one"])}
    for host in twins:
        assert host.call("ADD", sent, container="first", args="IP=10.1.2.9").status == 0
    assert "10.1.2.9" in twins.refuse(network(RANGES["one"]), "IP=10.1.2.9").body["msg"]


def test_two_of_a_family_are_refused_before_0_3_0(twins: Twins) -> None:
    twins.refuse({**network(RANGES["two sets"]), "cniVersion": "0.2.0"})


def test_a_full_range_gives_back_what_the_others_gave(twins: Twins) -> None:
    ranges = [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/30", "rangeEnd": "10.2.0.2"}]]
    sent = {"cniVersion": "1.0.0", "name": "net", **network(ranges)}
    for host in twins:
        assert host.call("ADD", sent, container="first").status == 0
    answer = twins.refuse(network(ranges))
    assert "no IP addresses available in range set: 10.2.0.1-10.2.0.2" in answer.body["msg"]


def test_garbage_and_status(twins: Twins) -> None:
    host = twins.weft
    sent = {"cniVersion": "1.1.0", "name": "net", **network([[{"subnet": "10.1.2.0/29"}]])}
    for number in range(5):
        assert host.call("STATUS", sent, pod=None).status == 0
        assert host.call("ADD", sent, container=f"c{number}").status == 0
    full = host.call("STATUS", sent, pod=None)
    assert full.code == 50 and "10.1.2.1-10.1.2.6" in full.body["msg"]
    valid = [{"containerID": "c1", "ifname": "eth0"}, {"containerID": "c2", "ifname": "eth1"}]
    assert host.call("GC", sent | {"cni.dev/valid-attachments": valid}, pod=None).status == 0
    assert [file.name for file in (host.folder / "ipam/net").iterdir() if file.name[0] == "1"] == ["10.1.2.3"]


def test_an_address_of_nobody_is_free(twins: Twins) -> None:
    """Who is killed between making the file and writing into it leaves it empty; the reference keeps it."""
    host = twins.weft
    sent = {
        "cniVersion": "1.0.0",
        "name": "net",
        **network([[{"subnet": "10.1.2.0/30", "rangeStart": "10.1.2.2"}]]),
    }
    assert host.call("DEL", sent).status == 0
    (host.folder / "ipam/net/10.1.2.2").write_text("")
    assert host.call("ADD", sent).status == 0
    assert host.call("ADD", sent, container="second").code == 999
    (host.folder / "ipam/net/10.1.2.2").write_text("")
    assert host.call("DEL", sent, container="second").status == 0
    assert not (host.folder / "ipam/net/10.1.2.2").exists()


@given(
    st.integers(0, 2**16),
    st.integers(0, 6),
    st.integers(0, 63),
    st.integers(0, 63),
    st.one_of(st.none(), st.integers(0, 80)),
)
def test_candidates_are_every_address_once(base: int, bits: int, start: int, end: int, last: int | None) -> None:
    """Going round from the last one, never the gateway, never twice."""
    subnet = ip_network((0x0A000000 + base * 64, 26))
    first = ip_address(int(subnet.network_address) + 1 + min(start, end) % 62)
    final = ip_address(int(subnet.network_address) + 1 + max(start, end) % 62)
    if int(final) < int(first):
        first, final = final, first
    ranges = RangeSet((Range(subnet, first, final, subnet.network_address + bits),))
    previous = None if last is None else subnet.network_address + last
    found = [address for address, _ in ranges.candidates(previous)]
    wanted = {subnet.network_address + number for number in range(64)}
    inside = range(int(first), int(final) + 1)
    wanted = {address for address in wanted if int(address) in inside and address != subnet.network_address + bits}
    assert len(found) == len(set(found)) == ranges.size
    assert set(found) == wanted
    if previous is not None and previous in ranges.ranges[0] and len(found) > 1:
        assert found[-1] == previous or previous == subnet.network_address + bits


@given(st.text(max_size=30), st.text(max_size=20), st.text(max_size=20))
def test_any_text_is_read_or_refused(subnet: str, start: str, gateway: str) -> None:
    try:
        parse_set([RangeSettings(subnet=subnet, range_start=start, gateway=gateway)])
    except CniError as error:
        assert error.code == 999


def test_a_folder_that_cannot_be_made(twins: Twins, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    ipam = {"type": "host-local", "dataDir": str(file), "ranges": RANGES["one"]}
    answer = twins.refuse({"type": "host-local", "ipam": ipam})
    assert str(file) in answer.body["msg"]
    assert parse_range(RangeSettings(subnet="10.0.0.0/24")).size == 253
