"""``ipvlan`` against the reference; where the kernel has no such devices, the request for one."""

from typing import Any

import pytest

from tests.kernel import oracle
from tests.namespaces import ip
from tests.plugins.main.masters import BOTH, IPAM, IPAM6, MASTER, leases, newer, own_dns, request, trial
from tests.plugins.twins import Twins, lacking, needs_reference
from weft.cni import CniError, Result
from weft.plugins.main.ipvlan import chained, parse

pytestmark = needs_reference
LACKING = lacking(MASTER[0], "link add link m0 name upper type ipvlan")
KERNEL = pytest.mark.skipif(bool(LACKING), reason=LACKING)


def sent(**keys: Any) -> dict[str, Any]:
    return {"cniVersion": "1.0.0", "name": "net", "type": "ipvlan", "master": "m0", **keys}


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "plain": {"ipam": IPAM},
    "layer 2": {"mode": "l2", "ipam": IPAM},
    "layer 3": {"mode": "l3", "ipam": IPAM},
    "layer 3 with netfilter": {"mode": "l3s", "ipam": IPAM},
    "mtu": {"mtu": 1300, "ipam": IPAM},
    "ipv6": {"ipam": IPAM6},
    "both families": {"ipam": BOTH | {"routes": [{"dst": "0.0.0.0/0"}]}},
    "dns": {"ipam": IPAM, "dns": {"nameservers": ["10.1.0.1"]}},
}


@KERNEL
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_like_the_reference(twins: Twins, name: str) -> None:
    twins.prepare(*MASTER)
    # Debian's reference (1.1.1) does not find routes without a gateway in CHECK.
    configuration = {"type": "ipvlan", "master": "m0", **CONFIGURATIONS[name]}
    twins.compare(configuration, differences=[newer, own_dns], reference_checks="families" not in name)


@KERNEL
def test_addresses_of_the_plugin_before(twins: Twins) -> None:
    twins.prepare(*MASTER)
    previous = {"cniVersion": "1.0.0", "interfaces": [{"name": "m0"}], "ips": [{"address": "10.24.0.7/24"}]}
    twins.compare(
        {"type": "ipvlan", "prevResult": previous},
        differences=[newer, own_dns],
        reference_checks=False,
        check=False,
    )


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
def test_check_finds_another_mode(twins: Twins) -> None:
    twins.prepare(*MASTER)
    result = twins.weft.call("ADD", sent(ipam=IPAM)).body
    assert "mode" in twins.weft.call("CHECK", sent(ipam=IPAM, mode="l3", prevResult=result)).body["msg"]


@pytest.mark.skipif(not LACKING, reason="this kernel has ipvlan devices")
def test_a_kernel_without_such_devices(twins: Twins) -> None:
    twins.prepare(*MASTER)
    answer = twins.refuse(sent(ipam=IPAM))
    assert "eth0 on m0" in answer.body["msg"] and "load the module ipvlan" in answer.body["msg"]
    assert not leases(twins.weft)


REFUSED: dict[str, dict[str, Any]] = {
    "no such master": {"master": "nonesuch", "ipam": IPAM},
    "no master": {"master": "", "ipam": IPAM},
    "mode": {"mode": "bridge", "ipam": IPAM},
    "mtu below zero": {"mtu": -1, "ipam": IPAM},
    "mtu of the wrong type": {"mtu": "9", "ipam": IPAM},
    "no ipam": {},
    "no such ipam": {"ipam": {"type": "nonesuch"}},
    "several interfaces before": {
        "master": "",
        "prevResult": {"cniVersion": "1.0.0", "interfaces": [{"name": "a"}, {"name": "b"}]},
        "ipam": IPAM,
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_like_the_reference(twins: Twins, name: str) -> None:
    twins.prepare(*MASTER)
    twins.refuse(sent(**REFUSED[name]))


@pytest.mark.parametrize(("mode", "number"), [("", 0), ("l2", 0), ("l3", 1), ("l3s", 2)])
def test_the_request(mode: str, number: int) -> None:
    oracle.same_link_request(
        parse(request(sent(mode=mode, mtu=1300))).creation("veth1", 7, 9),
        "ipvlan",
        {"ipvlan_mode": number},
        # IFLA_IPVLAN_FLAGS: neither private nor vepa, as the reference asks for.
        {2: b"\0\0"},
        ifname="veth1",
        link=7,
        mtu=1300,
        net_ns_fd=9,
    )


def before(*names: str, ips: bool = True) -> Result:
    told = {"cniVersion": "1.0.0", "interfaces": [{"name": name} for name in names]}
    return Result.from_json(told | ({"ips": [{"address": "10.24.0.7/24"}]} if ips else {}))


def test_what_it_takes_from_the_plugin_before() -> None:
    plan = parse(request(sent(master="")))
    taken = chained(plan, before("ens5"))
    assert taken.settings.master == "ens5" and taken.previous is not None
    assert chained(plan, before("ens5", ips=False)).previous is None
    assert chained(plan, None) == plan


def test_its_own_master_and_ipam_count_more() -> None:
    taken = chained(parse(request(sent(ipam=IPAM))), before("ens5", "ens6"))
    assert taken.settings.master == "m0" and taken.previous is None


@pytest.mark.parametrize("names", [(), ("a", "b"), ("",)])
def test_the_plugin_before_leaves_no_single_interface(names: tuple[str, ...]) -> None:
    with pytest.raises(CniError, match="name the master"):
        chained(parse(request(sent(master=""))), before(*names))


def test_status_garbage_and_deleting_what_is_gone(twins: Twins) -> None:
    host, configuration = twins.weft, sent(ipam=IPAM) | {"cniVersion": "1.1.0"}
    assert host.call("STATUS", configuration, pod=None).code == 50
    twins.prepare(*MASTER)
    assert host.call("STATUS", configuration, pod=None).status == 0
    assert host.call("GC", configuration | {"cni.dev/valid-attachments": []}, pod=None).status == 0
    for pod in ("pod", None):
        assert host.call("DEL", configuration | {"master": ""}, pod=pod).status == 0
