"""``vlan`` against the reference; where the kernel has no such devices, the request for one."""

from typing import Any

import pytest

from tests.kernel import oracle
from tests.namespaces import ip
from tests.plugins.main.masters import BOTH, IPAM, IPAM6, MASTER, leases, own_dns, request, trial
from tests.plugins.twins import Twins, lacking, needs_reference
from weft.plugins.main.vlan import parse

pytestmark = needs_reference
LACKING = lacking(MASTER[0], "link add link m0 name upper type vlan id 5")
KERNEL = pytest.mark.skipif(bool(LACKING), reason=LACKING)


def sent(**keys: Any) -> dict[str, Any]:
    return {"cniVersion": "1.0.0", "name": "net", "type": "vlan", "master": "m0", "vlanId": 100, **keys}


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "plain": {"vlanId": 100, "ipam": IPAM},
    "no number": {"ipam": IPAM},
    "largest number": {"vlanId": 4094, "ipam": IPAM},
    "mtu": {"vlanId": 100, "mtu": 1300, "ipam": IPAM},
    "ipv6": {"vlanId": 100, "ipam": IPAM6},
    "both families": {"vlanId": 100, "ipam": BOTH | {"routes": [{"dst": "0.0.0.0/0"}]}},
    "dns": {"vlanId": 100, "ipam": IPAM, "dns": {"nameservers": ["10.1.0.1"]}},
}


@KERNEL
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_like_the_reference(twins: Twins, name: str) -> None:
    twins.prepare(*MASTER)
    # Debian's reference (1.1.1) does not find routes without a gateway in CHECK.
    configuration = {"type": "vlan", "master": "m0", **CONFIGURATIONS[name]}
    twins.compare(configuration, differences=[own_dns], reference_checks="families" not in name)


@KERNEL
@pytest.mark.parametrize("go_first", [True, False])
def test_added_by_one_deleted_by_the_other(twins: Twins, go_first: bool) -> None:
    twins.prepare(*MASTER)
    trial(twins.go if go_first else twins.weft, [sent(ipam=BOTH)])


@KERNEL
def test_the_master_in_the_container(twins: Twins) -> None:
    host, pod = twins.weft, twins.weft.pods["pod"]
    for command in MASTER:
        ip(*command.split(), namespace=pod)
    answer = host.call("ADD", sent(linkInContainer=True, ipam=IPAM))
    assert answer.status == 0, answer.body
    assert "eth0@m0" in ip("link", namespace=pod)


@KERNEL
def test_check_finds_what_changed(twins: Twins) -> None:
    twins.prepare(*MASTER)
    host = twins.weft
    result = host.call("ADD", sent(ipam=IPAM)).body
    assert "VLAN 100" in host.call("CHECK", sent(ipam=IPAM, vlanId=7, prevResult=result)).body["msg"]
    assert "MTU 1500" in host.call("CHECK", sent(ipam=IPAM, mtu=1300, prevResult=result)).body["msg"]


@pytest.mark.skipif(not LACKING, reason="this kernel has vlan devices")
def test_a_kernel_without_such_devices(twins: Twins) -> None:
    twins.prepare(*MASTER)
    answer = twins.refuse(sent(ipam=IPAM))
    assert "eth0 on m0" in answer.body["msg"] and "load the module 8021q" in answer.body["msg"]
    assert not leases(twins.weft)


REFUSED: dict[str, dict[str, Any]] = {
    "no such master": {"master": "nonesuch", "ipam": IPAM},
    "no master": {"master": "", "ipam": IPAM},
    "vlan too large": {"vlanId": 4095, "ipam": IPAM},
    "vlan below zero": {"vlanId": -1, "ipam": IPAM},
    "vlan of the wrong type": {"vlanId": "5", "ipam": IPAM},
    "mtu above the master's": {"mtu": 1501, "ipam": IPAM},
    "mtu below zero": {"mtu": -1, "ipam": IPAM},
    "no ipam": {},
    "no such ipam": {"ipam": {"type": "nonesuch"}},
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_like_the_reference(twins: Twins, name: str) -> None:
    twins.prepare(*MASTER)
    twins.refuse(sent(**REFUSED[name]))


@pytest.mark.parametrize("vlan", [0, 1, 4094])
def test_the_request(vlan: int) -> None:
    message = parse(request(sent(vlanId=vlan, mtu=1300))).creation("veth1", 7, 9)
    oracle.same_link_request(message, "vlan", {"vlan_id": vlan}, ifname="veth1", link=7, mtu=1300, net_ns_fd=9)


def test_the_request_without_an_mtu() -> None:
    message = parse(request(sent(vlanId=5))).creation("veth1", 7, 9)
    oracle.same_link_request(message, "vlan", {"vlan_id": 5}, ifname="veth1", link=7, net_ns_fd=9)


def test_status_garbage_and_deleting_what_is_gone(twins: Twins) -> None:
    """The reference's DEL fails where the master is gone."""
    host, configuration = twins.weft, sent(ipam=IPAM) | {"cniVersion": "1.1.0"}
    assert host.call("STATUS", configuration, pod=None).code == 50
    for pod in ("pod", None):
        assert host.call("DEL", configuration, pod=pod).status == 0
    twins.prepare(*MASTER)
    assert host.call("STATUS", configuration, pod=None).status == 0
    assert host.call("GC", configuration | {"cni.dev/valid-attachments": []}, pod=None).status == 0
