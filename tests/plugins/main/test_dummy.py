"""``dummy``: as the reference where there is one; where the kernel has no such devices, the request for one.

Debian's package has no ``dummy``; ``WEFT_REFERENCE`` can name a folder with a later one.
"""

from typing import Any

import pytest

from tests.kernel import oracle
from tests.namespaces import ip
from tests.plugins.main.masters import BOTH, IPAM, IPAM6, leases, own_dns, trial
from tests.plugins.twins import GO_FOLDER, Twins, lacking
from weft.kernel import kinds

LACKING = lacking("link add name upper type dummy")
KERNEL = pytest.mark.skipif(bool(LACKING), reason=LACKING)
REFERENCE = pytest.mark.skipif(
    not (GO_FOLDER / "dummy").exists(), reason=f"the reference in {GO_FOLDER} has no dummy"
)


def sent(**keys: Any) -> dict[str, Any]:
    return {"cniVersion": "1.0.0", "name": "net", "type": "dummy", **keys}


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "plain": {"ipam": IPAM},
    "ipv6": {"ipam": IPAM6},
    "both families": {"ipam": BOTH},
    "dns": {"ipam": IPAM, "dns": {"nameservers": ["10.1.0.1"]}},
}


@KERNEL
@REFERENCE
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_like_the_reference(twins: Twins, name: str) -> None:
    twins.compare({"type": "dummy", **CONFIGURATIONS[name]}, differences=[own_dns])


@KERNEL
@REFERENCE
@pytest.mark.parametrize("go_first", [True, False])
def test_added_by_one_deleted_by_the_other(twins: Twins, go_first: bool) -> None:
    trial(twins.go if go_first else twins.weft, [sent(ipam=BOTH)])


@KERNEL
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_device(twins: Twins, name: str) -> None:
    host, pod = twins.weft, twins.weft.pods["pod"]
    configuration = sent(**CONFIGURATIONS[name])
    answer = host.call("ADD", configuration)
    assert answer.status == 0, answer.body
    assert "dummy" in ip("-d", "link", "show", "eth0", namespace=pod)
    told = configuration | {"prevResult": answer.body}
    assert host.call("CHECK", told).status == 0
    ip("link", "set", "eth0", "down", namespace=pod)
    assert host.call("CHECK", told).code == 999
    assert host.call("DEL", configuration).status == 0
    assert "eth0" not in ip("link", namespace=pod)


@pytest.mark.skipif(not LACKING, reason="this kernel has dummy devices")
def test_a_kernel_without_such_devices(twins: Twins) -> None:
    answer = twins.weft.call("ADD", sent(ipam=IPAM))
    assert answer.code == 999 and "load the module dummy" in answer.body["msg"]
    assert not leases(twins.weft)


@pytest.mark.parametrize(
    ("keys", "named"),
    [({}, "ipam"), ({"ipam": {"type": "nonesuch"}}, "nonesuch"), ({"ipam": {"type": 7}}, "ipam.type 7")],
)
def test_refused(twins: Twins, keys: dict[str, Any], named: str) -> None:
    for command in ("ADD", "CHECK"):
        answer = twins.weft.call(command, sent(**keys))
        assert answer.code == 999 and named in answer.body["msg"], answer.body
    assert "eth0" not in ip("link", namespace=twins.weft.pods["pod"])


@REFERENCE
@pytest.mark.parametrize("keys", [{}, {"ipam": {"type": "nonesuch"}}, {"ipam": {"type": 7}}])
def test_refused_like_the_reference(twins: Twins, keys: dict[str, Any]) -> None:
    twins.refuse(sent(**keys))


def test_the_request() -> None:
    oracle.same_link_request(kinds.create_dummy("eth0"), "dummy", {}, ifname="eth0")


def test_status_garbage_and_deleting_what_is_gone(twins: Twins) -> None:
    host, configuration = twins.weft, sent(ipam=IPAM) | {"cniVersion": "1.1.0"}
    assert host.call("STATUS", configuration, pod=None).status == 0
    assert host.call("GC", configuration | {"cni.dev/valid-attachments": []}, pod=None).status == 0
    for pod in ("pod", None):
        assert host.call("DEL", configuration, pod=pod).status == 0
