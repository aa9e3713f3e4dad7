"""Generated configurations of plugins with one device: right ones as the reference, wrong ones refused alike."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.plugins.main.masters import BOTH, IPAM, IPAM6, MASTER, newer, own_dns
from tests.plugins.twins import Twins, needs_reference, shell

pytestmark = needs_reference

#: The twins are the same for all examples; each example leaves them as they were.
SETTINGS = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

ROUTES = st.lists(
    st.fixed_dictionaries(
        {"dst": st.sampled_from(["0.0.0.0/0", "192.0.2.0/24", "198.51.100.7/32"])},
        optional={"gw": st.sampled_from(["10.24.0.9", "10.24.0.10"])},
    ),
    max_size=2,
    unique_by=lambda route: route["dst"],
)
MACVLANS = st.fixed_dictionaries(
    {"ipam": st.builds(lambda ipam, found: ipam | {"routes": found}, st.sampled_from([IPAM, BOTH]), ROUTES)},
    optional={
        "mode": st.sampled_from(["", "bridge", "private", "vepa", "passthru"]),
        # Below 1280 there is no IPv6.
        "mtu": st.sampled_from([0]) | st.integers(1280, 1500),
        "mac": st.builds(lambda tail: f"02:00:00:00:00:{tail:02x}", st.integers(0, 255)),
        "dns": st.fixed_dictionaries({}, optional={"nameservers": st.just(["10.0.0.1"]), "domain": st.just("a")}),
    },
)


@settings(SETTINGS, max_examples=6)
@given(configuration=MACVLANS)
def test_right_ones(twins: Twins, configuration: dict[str, Any]) -> None:
    if "m0" not in shell(twins.go.name, "ip link show m0"):
        twins.prepare(*MASTER)
    # Debian's reference (1.1.1) does not find routes without a gateway in CHECK.
    twins.compare(
        {"type": "macvlan", "master": "m0", **configuration},
        differences=[newer, own_dns],
        reference_checks=False,
    )


#: By plugin: a right configuration, and the keys of which one is then given another value.
PLUGINS: dict[str, tuple[dict[str, Any], str]] = {
    "macvlan": ({"master": "m0", "ipam": IPAM6}, "master mode mtu mac runtimeConfig ipam dns"),
    "ipvlan": ({"master": "m0", "ipam": IPAM}, "master mode mtu ipam dns"),
    "vlan": ({"master": "m0", "vlanId": 5, "ipam": IPAM}, "master vlanId mtu ipam dns"),
    "host-device": ({"device": "m0", "ipam": IPAM}, "device pciBusID runtimeConfig ipam dns"),
}
WRONG = st.sampled_from([(kind, key) for kind, (_, keys) in PLUGINS.items() for key in keys.split()])
VALUES = st.sampled_from(
    [None, "", "x", "\0", "é", "a" * 20, 0, -1, 1, 1.0, 1.5, 1 << 31, 1 << 64, True, False, [], [1], {}, {"a": 1}]
)


@settings(SETTINGS, max_examples=60)
@given(place=WRONG, value=VALUES)
def test_one_other_value(twins: Twins, place: tuple[str, str], value: Any) -> None:
    kind, key = place
    sent = {"cniVersion": "1.0.0", "name": "net", "type": kind, **PLUGINS[kind][0], key: value}
    for host in twins:
        shell(host.name, "ip link show m0 || { ip link add m0 type veth peer name m1; ip link set m0 up; }")
    go, ours = (host.call("ADD", sent) for host in twins)
    assert (ours.status, ours.code) == (go.status, go.code), (sent, go.body, ours.body)
    for host in twins:
        if not go.status:
            assert host.call("DEL", sent).status == 0
        # The reference leaves devices where it fails late.
        left = shell(host.pods["pod"], "ip -o link show eth0")
        assert not left or host.go, left
        shell(host.pods["pod"], "ip link delete eth0")
