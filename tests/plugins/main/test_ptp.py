"""``ptp`` against the reference."""

from typing import Any

import pytest

from tests.plugins.twins import Twins, needs_reference

pytestmark = needs_reference

IPAM: dict[str, Any] = {"type": "host-local", "dataDir": "HERE/ipam", "ranges": [[{"subnet": "10.23.0.0/24"}]]}
IPAM6: dict[str, Any] = {"type": "host-local", "dataDir": "HERE/ipam", "ranges": [[{"subnet": "fd00:23::/64"}]]}
BOTH = {**IPAM, "ranges": [*IPAM["ranges"], *IPAM6["ranges"]]}
DEFAULT = {"routes": [{"dst": "0.0.0.0/0"}]}

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "plain": {"ipam": IPAM},
    "default route": {"ipam": IPAM | DEFAULT},
    "mtu": {"mtu": 1280, "ipam": IPAM},
    "masquerade": {"ipMasq": True, "ipam": IPAM | DEFAULT},
    "ipv6": {"ipam": IPAM6 | {"routes": [{"dst": "::/0"}]}},
    "both families masqueraded": {"ipMasq": True, "ipam": BOTH | DEFAULT},
    "dns": {"ipam": IPAM, "dns": {"nameservers": ["10.1.0.1"], "search": ["x.example"]}},
    "dns of ipam": {
        "ipam": {
            "type": "static",
            "addresses": [{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}],
            "dns": {"nameservers": ["10.1.0.9"]},
        }
    },
    "host prefix": {"ipam": {"type": "static", "addresses": [{"address": "10.9.0.5/30", "gateway": "10.9.0.6"}]}},
}


def undetected(seen: dict[str, Any]) -> None:
    """On a link with two ends nobody else can have an IPv6 address: ours is usable at once."""
    for item in seen["pod"]["addresses"]:
        for address in item["addr_info"]:
            address.pop("nodad", None)
    for item in seen["host"]["addresses"]:
        for address in item["addr_info"]:
            address.pop("nodad", None)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_like_the_reference(twins: Twins, name: str) -> None:
    # The reference's CHECK misses a default route without a gateway of its own.
    twins.compare({"type": "ptp", **CONFIGURATIONS[name]}, differences=[undetected])


REFUSED: dict[str, dict[str, Any]] = {
    "no ipam": {},
    "mtu of the wrong type": {"mtu": "9", "ipam": IPAM},
    "no gateway": {"ipam": {"type": "static", "addresses": [{"address": "10.9.0.5/24"}]}},
    "no such ipam": {"ipam": {"type": "nonesuch"}},
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_like_the_reference(twins: Twins, name: str) -> None:
    twins.refuse({"type": "ptp", **REFUSED[name]})


def test_packets_pass(twins: Twins) -> None:
    """From the container through the host to another container, whose answer comes back."""
    host = twins.weft
    answer = host.call("ADD", {"cniVersion": "1.0.0", "name": "net", "type": "ptp", "ipam": IPAM | DEFAULT})
    assert answer.status == 0, answer.body
    from tests.plugins.twins import shell

    assert "1 received" in shell(host.pods["pod"], "ping -c 1 -W 2 10.23.0.1")
