"""``static`` against the reference."""

from typing import Any

import pytest

from tests.plugins.twins import Twins, needs_reference

pytestmark = needs_reference

ADDRESSES = [{"address": "10.10.0.1/24", "gateway": "10.10.0.254"}, {"address": "3ffe:ffff:0:1ff::1/64"}]
ROUTES = [{"dst": "0.0.0.0/0"}, {"dst": "192.168.0.0/16", "gw": "10.10.5.1"}, {"dst": "3ffe:ffff:0:1ff::1/64"}]


def network(**ipam: Any) -> dict[str, Any]:
    return {"type": "static", "ipam": {"type": "static", **ipam}}


def test_like_the_reference(twins: Twins) -> None:
    dns = {"nameservers": ["10.0.0.1"], "domain": "example", "search": ["x"], "options": ["y"]}
    twins.compare(network(addresses=ADDRESSES, routes=ROUTES, dns=dns))
    twins.compare(network(addresses=ADDRESSES[:1]), version="0.2.0")
    twins.compare(network(addresses=[]))


def test_addresses_by_arguments(twins: Twins) -> None:
    twins.compare(network(), args="IP=10.10.0.5/24")
    twins.compare(network(), args="IP=10.10.0.5/24,11.0.0.2/16;GATEWAY=10.10.0.254,11.0.9.9")
    twins.compare(network(addresses=ADDRESSES[:1]), args="IgnoreUnknown=1;IP=10.11.0.5/24;X=1")
    twins.compare({**network(addresses=ADDRESSES), "args": {"cni": {"ips": ["10.5.0.1/24"]}}})
    sent = {**network(addresses=ADDRESSES), "capabilities": {"ips": True}}
    twins.compare(
        {**sent, "args": {"cni": {"ips": ["10.5.0.1/24"]}}}, runtime={"ips": ["10.6.0.1/24", "fd00::5/64"]}
    )


REFUSED: dict[str, Any] = {
    "no prefix": network(addresses=[{"address": "10.0.0.1"}]),
    "nonsense": network(addresses=[{"address": "x/24"}]),
    "bad gateway": network(addresses=[{"address": "10.0.0.1/24", "gateway": "x"}]),
    "two in 0.2.0": {**network(addresses=[ADDRESSES[0], {"address": "10.1.0.1/24"}]), "cniVersion": "0.2.0"},
    "no ipam": {"type": "static"},
    "not a list": network(addresses="10.0.0.1/24"),
    "requested without prefix": {**network(), "runtimeConfig": {"ips": ["10.0.0.1"]}},
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_like_the_reference(twins: Twins, name: str) -> None:
    twins.refuse(REFUSED[name])


@pytest.mark.parametrize("args", ["IP=10.0.0.1", "GATEWAY=x", "FOO=bar", "IP=1;GATEWAY"])
def test_arguments_refused_like_the_reference(twins: Twins, args: str) -> None:
    twins.refuse(network(addresses=ADDRESSES), args)


def test_check_compares_gateways(twins: Twins) -> None:
    for host in twins:
        sent = {"cniVersion": "1.0.0", "name": "net", **network(addresses=ADDRESSES[:1])}
        good = {"ips": [{"address": "10.10.0.1/24", "gateway": "10.10.0.254"}]}
        bad = {"ips": [{"address": "10.10.0.1/24", "gateway": "10.10.0.253"}]}
        assert host.call("CHECK", sent | {"prevResult": {"cniVersion": "1.0.0", **good}}).status == 0
        assert host.call("CHECK", sent | {"prevResult": {"cniVersion": "1.0.0", **bad}}).code == 999
        assert host.call("CHECK", sent).code == 999
