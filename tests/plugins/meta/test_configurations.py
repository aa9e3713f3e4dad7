"""Whatever a configuration holds, the plugins take it or refuse it by name: never another exception.

Pure: nothing is made. What the kernel is told of a configuration that was taken, the plugins' own tests show.
"""

import string
import struct
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.plugins.main.masters import request
from weft.cni import CniError
from weft.kernel import traffic_control
from weft.plugins.meta import bandwidth, flannel, sbr, tuning, vrf

KEYS = {
    "bandwidth": "ingressRate ingressBurst egressRate egressBurst shapedSubnets unshapedSubnets runtimeConfig",
    "flannel": "subnetFile dataDir delegate ipam runtimeConfig",
    "sbr": "table gateways addSourceHints",
    "tuning": "dataDir sysctl mac promisc mtu allmulti txQLen args runtimeConfig",
    "vrf": "vrfname table",
}
PARSERS: dict[str, Callable[[Any], Any]] = {
    "bandwidth": bandwidth.parse,
    "flannel": flannel.parse,
    "sbr": sbr.parse,
    "tuning": tuning.parse,
    "vrf": vrf.parse,
}
WORDS = (
    "10.0.0.0/8",
    "::/0",
    "fd00::1",
    "10.0.0.1",
    "net.ipv4.ip_forward",
    "02:00:00:00:00:01",
    "type",
    "routes",
    "",
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from(WORDS)
    | st.text(max_size=8)
)
INNER = ("cni", "mac", "sysctl", "bandwidth", "type", "name", "ipam", "dst", "ingressRate", "ingressBurst", "mtu")
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(INNER), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("kind", KEYS)
def test_any_value_of_any_key(kind: str) -> None:
    @settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
    @given(st.dictionaries(st.sampled_from(KEYS[kind].split()), VALUES))
    def check(keys: dict[str, Any]) -> None:
        try:
            PARSERS[kind](request({"cniVersion": "1.0.0", "name": "net", "type": kind, **keys}))
        except CniError as error:
            assert error.code in (7, 999) and error.message

    check()


RATES = st.integers(0, 2**64 - 1) | st.integers(0, 10**10)


@given(
    RATES, RATES, st.lists(st.sampled_from(["10.0.0.0/8", "fd00::/64", "0.0.0.0/0"]), max_size=3), st.booleans()
)
def test_what_is_taken_fits_into_a_message(rate: int, burst: int, subnets: list[str], excluded: bool) -> None:
    """However large a rate or burst is: its limit can be told to the kernel, and never is 0."""
    keys = {
        "ingressRate": rate,
        "ingressBurst": burst,
        "unshapedSubnets" if excluded else "shapedSubnets": subnets,
    }
    try:
        plan = bandwidth.parse(request({"cniVersion": "1.0.0", "name": "net", "type": "bandwidth", **keys}))
    except CniError:
        return
    if plan.ingress is None:
        assert (rate, burst) == (0, 0)
        return
    assert (plan.ingress.rate, plan.ingress.burst) == (rate // 8, burst // 8)
    assert 0 < plan.ingress.buffer < 2**32 and 0 < plan.ingress.limit < 2**32
    messages = bandwidth.limit(7, plan, plan.ingress, incoming=True)
    assert len(messages) == (1 if not subnets else 5 + len(subnets))
    assert all(struct.unpack_from("=i", message.payload, 4) == (7,) for message in messages)
    assert plan.default_class in (bandwidth.SHAPED, bandwidth.UNSHAPED)
    assert traffic_control.TokenBucket(rate // 8, burst // 8, 25_000) == plan.ingress


LINES = st.lists(
    st.sampled_from(
        [
            "FLANNEL_NETWORK=10.244.0.0/16",
            "FLANNEL_NETWORK=10.244.0.0/16,",
            "FLANNEL_SUBNET=10.244.3.1/24",
            "FLANNEL_SUBNET",
            "FLANNEL_IPV6_NETWORK=fd00::/48",
            "FLANNEL_IPV6_SUBNET=fd00:0:0:1::1/64",
            "FLANNEL_MTU=1450",
            "FLANNEL_MTU=²",
            "FLANNEL_IPMASQ=true",
        ]
    )
    | st.text(string.printable, max_size=20).map(lambda text: "FLANNEL_" + text)
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LINES)
def test_any_subnet_file(tmp_path: Path, lines: list[str]) -> None:
    """It is refused by name, or all of it is there."""
    file = tmp_path / "subnet.env"
    file.write_text("\n".join(lines))
    try:
        found = flannel.read_subnets(file)
    except CniError as error:
        assert str(file) in error.message
        return
    assert found.networks and found.shares and found.mtu >= 0


@given(
    st.dictionaries(st.sampled_from(["mtu", "ipMasq", "bridge", "isGateway", "hairpinMode"]), st.integers(0, 9)),
    st.booleans(),
    st.integers(0, 9000),
)
def test_the_delegates_own_keys_come_first(given_keys: dict[str, Any], masquerades: bool, mtu: int) -> None:
    networks = ip_network("10.244.0.0/16"), ip_network("10.244.1.0/24")
    subnets = flannel.NodeSubnets(networks[:1], networks[1:], mtu, masquerades)
    call = request({"cniVersion": "1.0.0", "name": "net", "type": "flannel", "delegate": given_keys})
    found = flannel.compose(call, flannel.parse(call), subnets)
    assert {key: found[key] for key in given_keys} == given_keys
    usual = {"mtu": mtu, "ipMasq": not masquerades, "isGateway": True}
    assert {key: value for key, value in found.items() if key in usual and key not in given_keys} == {
        key: value for key, value in usual.items() if key not in given_keys
    }
    assert found["ipam"] == {
        "type": "host-local",
        "ranges": [[{"subnet": "10.244.1.0/24"}]],
        "routes": [{"dst": "10.244.0.0/16"}],
    }
