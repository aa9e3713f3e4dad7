"""The planner: every address in use becomes the node's own, or nothing happens."""

from ipaddress import IPv4Interface, ip_address, ip_network

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from weft.agent.takeover.foreign import addresses_of
from weft.agent.takeover.layout import Device, Layout, PodPair
from weft.agent.takeover.planner import Plan, Refusal, Situation, plan
from weft.agent.takeover.rules import own_rules
from weft.ipam.ranges import PodRange
from weft.kernel import iptables, openvswitch

PODS = PodRange.of("10.32.0.0/20")
FIRST = int(PODS.network.network_address)


def layout(gateway: int, used: list[int]) -> Layout:
    def interface(number: int) -> IPv4Interface:
        return IPv4Interface((FIRST + number, PODS.network.prefixlen))

    return Layout(
        devices=(Device("weave", "bridge", "42:8e:e8:c4:52:1b", 1376), Device("vethwe-bridge", "veth")),
        bridge_addresses=(interface(gateway),),
        pairs=tuple(PodPair(f"vethwepl{number:07x}", (interface(number),)) for number in used),
    )


numbers = st.integers(1, 4094)


@given(st.lists(numbers, min_size=1, max_size=12, unique=True), st.sets(numbers, max_size=6), st.sets(numbers))
def test_every_address_in_use_is_in_a_block_that_nobody_else_uses(
    here: list[int], elsewhere: set[int], owned: set[int]
) -> None:
    owners = {PODS.block_at(ip_address(FIRST + number)): "other" for number in list(owned)[:2]}
    foreign = {ip_address(FIRST + number): "a pod" for number in elsewhere}
    outcome = plan(layout(here[0], here[1:]), Situation("node", PODS, owners, foreign))
    blocks = {PODS.block_at(ip_address(FIRST + number)) for number in here}
    clash = blocks & owners.keys() or any(address in block for address in foreign for block in blocks)
    if clash:
        assert isinstance(outcome, Refusal)
        assert all(item.reason and item.mend for item in outcome.reasons)
        return
    assert isinstance(outcome, Plan)
    assert {ip_network(block) for block in outcome.blocks} == blocks
    assert outcome.blocks[0] == str(PODS.block_at(ip_address(FIRST + here[0])))
    assert {int(pod.address) - FIRST for pod in outcome.pods if pod.address} == set(here[1:])
    written = msgspec.json.encode(outcome, enc_hook=str)
    assert msgspec.json.decode(written, type=Plan, dec_hook=lambda kind, value: kind(value)) == outcome


@given(st.integers(1, 100))
def test_an_address_that_two_pods_have_is_refused(number: int) -> None:
    outcome = plan(layout(200, [number, number]), Situation("node", PODS))
    assert isinstance(outcome, Refusal)
    assert "is used twice" in outcome.reasons[0].reason


def test_a_bridge_that_is_none_and_an_mtu_that_does_not_fit_are_refused() -> None:
    for device, text in (
        (Device("weave", "veth"), "not a bridge"),
        (Device("weave", "bridge", mtu=65535), "pods have MTU 65535"),
    ):
        found = Layout(devices=(device,), bridge_addresses=(IPv4Interface((FIRST + 1, 20)),))
        outcome = plan(found, Situation("node", PODS, mtus=(576, 1450)))
        assert isinstance(outcome, Refusal)
        assert text in outcome.reasons[0].reason


def test_a_datapath_with_ports_of_others_stays() -> None:
    found = Layout(devices=(Device("datapath", "openvswitch"), Device("mine", "veth", master="datapath")))
    outcome = plan(found, Situation("node", PODS))
    assert isinstance(outcome, Plan)
    assert outcome.devices == ()
    assert "mine" in outcome.stays[0].why


def test_rules_of_others_stay_and_a_policy_drop_keeps_the_way_out() -> None:
    saved = """\
*filter
:FORWARD DROP [0:0]
:MINE - [0:0]
:WEAVE-NPC - [0:0]
:WEAVE-NPC-DEFAULT - [0:0]
:WEAVERS - [0:0]
-A FORWARD -o weave -j WEAVE-NPC
-A FORWARD -o weave -m state --state NEW -j NFLOG --nflog-group 86
-A FORWARD -i weave ! -o weave -j ACCEPT
-A FORWARD -o weave -p tcp -j DROP
-A FORWARD -j WEAVERS
-A MINE -j WEAVE-NPC-DEFAULT
"""
    found = own_rules(iptables.parse("filter", saved))
    assert found.lines() == [
        "-D FORWARD -o weave -j WEAVE-NPC",
        "-D FORWARD -o weave -m state --state NEW -j NFLOG --nflog-group 86",
        ":WEAVE-NPC - [0:0]",
        "-X WEAVE-NPC",
    ]
    assert [what for what, _ in found.kept] == [
        "chain WEAVE-NPC-DEFAULT",
        "rule FORWARD -i weave ! -o weave -j ACCEPT",
    ]


def test_the_request_that_deletes_a_datapath() -> None:
    message = openvswitch.delete_datapath(0x1C, "datapath")
    assert (message.kind, message.flags) == (0x1C, 1)
    # OVS_DP_CMD_DEL, version 2; no index; OVS_DP_ATTR_NAME.
    assert message.payload == b"\x02\x02\0\0" + b"\0\0\0\0" + b"\x0d\0\x01\0datapath\0\0\0\0"


def test_which_pods_of_the_api_hold_addresses_elsewhere() -> None:
    def pod(node: str, phase: str = "Running", **spec: bool) -> dict[str, object]:
        return {
            "metadata": {"namespace": "default", "name": "web"},
            "spec": {"nodeName": node, **spec},
            "status": {"phase": phase, "podIP": "10.32.0.9", "podIPs": [{"ip": "10.32.0.9"}, {"ip": "fd00::9"}]},
        }

    assert list(addresses_of(pod("b"), "a")) == [
        (ip_address("10.32.0.9"), "pod default/web on node b"),
        (ip_address("fd00::9"), "pod default/web on node b"),
    ]
    for none in (pod("a"), pod("b", "Succeeded"), pod("b", hostNetwork=True), pod("")):
        assert list(addresses_of(none, "a")) == []
