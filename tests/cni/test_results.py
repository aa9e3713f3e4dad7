"""Results in every version: what is written is read back, what a version cannot say is left out."""

import json
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.cni import CniError, Dns, Interface, IPConfiguration, Result, Route
from weft.cni.results import IPAddress, IPInterface
from weft.cni.versions import SUPPORTED, at_least

words = st.text("abcdefghij0123456789-", min_size=1, max_size=8)
v4, v6 = st.ip_addresses(v=4), st.ip_addresses(v=6)


def interface(address: IPAddress, prefix: int) -> IPInterface:
    from ipaddress import ip_interface

    return ip_interface((address, prefix))


ips = st.one_of(
    st.builds(
        lambda address, prefix, gateway, index: IPConfiguration(interface(address, prefix), gateway, index),
        v4, st.integers(0, 32), st.none() | v4, st.none() | st.integers(0, 3),
    ),
    st.builds(
        lambda address, prefix, gateway, index: IPConfiguration(interface(address, prefix), gateway, index),
        v6, st.integers(0, 128), st.none() | v6, st.none() | st.integers(0, 3),
    ),
)  # fmt: skip
numbers = st.none() | st.integers(0, 2**31)
routes = st.builds(
    Route, st.sampled_from(["0.0.0.0/0", "10.1.0.0/16", "::/0", "fd00::/8"]), st.none() | v4 | v6,
    numbers, numbers, numbers, numbers, numbers,
)  # fmt: skip
interfaces = st.builds(
    Interface,
    words,
    st.just("") | st.just("02:00:00:00:00:01"),
    st.integers(0, 9000),
    st.just("") | words,
    st.just("") | words,
)
dns = st.builds(Dns, st.tuples(words), st.just("") | words, st.lists(words).map(tuple), st.lists(words).map(tuple))
results = st.builds(
    Result, st.lists(interfaces, max_size=3).map(tuple), st.lists(ips, max_size=3).map(tuple),
    st.lists(routes, max_size=3).map(tuple), dns,
)  # fmt: skip


@given(results)
def test_the_newest_version_keeps_everything(result: Result) -> None:
    assert Result.from_json(result.to_json("1.1.0")) == result


@given(results, st.sampled_from(SUPPORTED))
def test_a_second_conversion_to_the_same_version_changes_nothing(result: Result, version: str) -> None:
    try:
        once = result.to_dict(version)
    except CniError as error:
        assert not result.ips
        assert result.interfaces or result.routes
        assert not at_least(version, "0.3.0")
        assert error.code == 1
        return
    assert once["cniVersion"] == version
    assert Result.from_json(once).to_dict(version) == once
    assert Result.from_json(json.dumps(once).encode()) == Result.from_json(once)


FULL = Result(
    (Interface("br0", "02:00:00:00:00:01", 1500), Interface("eth0", "", 1450, "/run/netns/a", "/run/x", "0000:1")),
    (
        IPConfiguration(interface(IPv4Address("10.1.0.5"), 16), IPv4Address("10.1.0.1"), 1),
        IPConfiguration(interface(IPv6Address("fd00::5"), 64), None, 1),
    ),
    (Route("0.0.0.0/0", IPv4Address("10.1.0.1"), 1400, None, 5, None, 0), Route("::/0")),
    Dns(("10.1.0.2",), "cluster.local"),
)


def test_old_versions_say_it_in_their_own_words() -> None:
    assert FULL.to_dict("0.2.0") == {
        "cniVersion": "0.2.0",
        "ip4": {"ip": "10.1.0.5/16", "gateway": "10.1.0.1", "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}]},
        "ip6": {"ip": "fd00::5/64", "routes": [{"dst": "::/0"}]},
        "dns": {"nameservers": ["10.1.0.2"], "domain": "cluster.local"},
    }
    assert FULL.to_dict("0.4.0")["ips"][0] == {
        "version": "4",
        "interface": 1,
        "address": "10.1.0.5/16",
        "gateway": "10.1.0.1",
    }
    assert "version" not in FULL.to_dict("1.0.0")["ips"][0]
    assert FULL.to_dict("0.4.0")["interfaces"][1] == {"name": "eth0", "sandbox": "/run/netns/a"}
    for version in ("1.0.0", "1.1.0"):
        assert FULL.to_dict(version)["interfaces"][1]["pciID"] == "0000:1"
        assert FULL.to_dict(version)["routes"][0]["scope"] == 0
    assert FULL.to_dict("0.4.0")["routes"][0]["mtu"] == 1400


CONVERSIONS = json.loads((Path(__file__).parent / "fixtures" / "conversions.json").read_text())


@pytest.mark.parametrize("row", CONVERSIONS, ids=lambda row: json.dumps(row["result"])[:70])
def test_conversions_are_those_of_the_reference_library(row: dict[str, Any]) -> None:
    """The fixture is what libcni 1.1.2 made of each result in each version; null stands for its refusal."""
    if row["becomes"] is None:
        with pytest.raises(CniError):
            Result.from_json(row["result"])
        return
    result = Result.from_json(row["result"])
    for version, wanted in row["becomes"].items():
        if wanted is not None:
            assert result.to_dict(version) == {"dns": {}} | wanted
        elif result == Result():
            # A result without anything is refused by libcni; ours has no reason to.
            assert result.to_dict(version) == {"cniVersion": version, "dns": {}}
        else:
            with pytest.raises(CniError, match="before 0.3.0"):
                result.to_dict(version)


def test_a_result_without_a_version_has_the_callers() -> None:
    body = {"ips": [{"address": "10.1.0.5/16"}]}
    assert Result.from_json(body, "1.0.0").ips
    assert not Result.from_json(body).ips
    assert Result.from_json(b"null", "1.0.0") == Result()


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(["cniVersion", "interfaces", "ips", "routes", "dns", "ip4", "ip6"])


@given(st.dictionaries(keys, json_values | st.sampled_from(SUPPORTED), max_size=5))
def test_malformed_results_are_cni_errors(body: dict[str, Any]) -> None:
    try:
        Result.from_json(json.dumps(body).encode())
    except CniError as error:
        assert error.code in (1, 6)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{", b'{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.300/8"}]}', b"\xff"]
)
def test_what_is_no_result_is_code_6(data: bytes) -> None:
    with pytest.raises(CniError) as raised:
        Result.from_json(data)
    assert raised.value.code == 6
