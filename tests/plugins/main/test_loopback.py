"""``loopback`` against the reference."""

from tests.plugins.twins import Twins, needs_reference

pytestmark = needs_reference


def test_like_the_reference(twins: Twins) -> None:
    twins.compare({"type": "loopback"}, ifname="lo")


def test_the_interface_is_always_lo(twins: Twins) -> None:
    result = twins.compare({"type": "loopback"}, ifname="eth0")
    assert [item["name"] for item in result["interfaces"]] == ["lo"]


def test_a_previous_result_passes(twins: Twins) -> None:
    previous = {"interfaces": [{"name": "x"}], "ips": [{"address": "10.1.0.5/24", "interface": 0}], "dns": {}}
    twins.compare({"type": "loopback", "prevResult": {"cniVersion": "1.0.0", **previous}})


def test_check_finds_it_down(twins: Twins) -> None:
    host = twins.weft
    sent = {"cniVersion": "1.0.0", "name": "net", "type": "loopback"}
    result = host.call("ADD", sent).body
    assert host.call("CHECK", sent | {"prevResult": result}).status == 0
    assert host.call("DEL", sent).status == 0
    assert "down" in host.call("CHECK", sent | {"prevResult": result}).body["msg"]


def test_another_address_on_lo_is_refused(twins: Twins) -> None:
    from tests.namespaces import ip

    for host in twins:
        ip("address", "add", "10.7.7.7/32", "dev", "lo", namespace=host.pods["pod"])
    twins.refuse({"type": "loopback"})
