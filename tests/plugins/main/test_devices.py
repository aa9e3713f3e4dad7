"""What plugins with one device in the container share: when IPAM is asked, and what is taken back."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.namespaces import ip
from tests.plugins.main.masters import MASTER
from tests.plugins.twins import Host, Twins

#: An IPAM plugin that needs the interface, as dhcp does: it notes each call, and whether the interface is there.
LATE_IPAM = """#!/bin/sh
there=no
nsenter --net="$CNI_NETNS" ip link show "$CNI_IFNAME" >/dev/null 2>&1 && there=yes
echo "$CNI_COMMAND $there" >> "{log}"
[ "$CNI_COMMAND" != ADD ] || cat "{answer}"
"""
KINDS: dict[str, dict[str, Any]] = {
    "macvlan": {"type": "macvlan", "master": "m0"},
    "host-device": {"type": "host-device", "device": "m0"},
    "tap": {"type": "tap"},
}


def sent(host: Host, kind: str, **answer: Any) -> dict[str, Any]:
    """A configuration with that IPAM plugin, which answers so."""
    (host.folder / "answer").write_text(json.dumps({"cniVersion": "1.0.0", **answer}))
    script = host.executables / "late"
    script.write_text(LATE_IPAM.format(log=host.folder / "log", answer=host.folder / "answer"))
    script.chmod(0o755)
    return {"cniVersion": "1.0.0", "name": "net", "ipam": {"type": "late"}, **KINDS[kind]}


def calls(host: Host) -> list[str]:
    """What was asked of IPAM."""
    log: Path = host.folder / "log"
    return log.read_text().splitlines() if log.exists() else []


@pytest.mark.parametrize("kind", KINDS)
def test_ipam_that_needs_the_interface(twins: Twins, kind: str) -> None:
    twins.prepare(*MASTER)
    host = twins.weft
    configuration = sent(host, kind, ips=[{"address": "10.24.0.7/24", "gateway": "10.24.0.1"}])
    answer = host.call("ADD", configuration)
    assert answer.status == 0, answer.body
    assert "10.24.0.7/24" in ip("address", namespace=host.pods["pod"])
    assert host.call("CHECK", configuration | {"prevResult": answer.body}).status == 0
    assert host.call("DEL", configuration).status == 0
    # A lease is released through the interface; host-device has given it back by then.
    released = "DEL no" if kind == "host-device" else "DEL yes"
    assert calls(host) == ["ADD yes", "CHECK yes", released]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ({"ips": []}, "missing IP config"),
        ({"ips": [{"address": "10.24.0.7/24"}], "routes": [{"dst": "192.0.2.0/24"}] * 2}, "192.0.2.0/24"),
        (
            {"ips": [{"address": "10.24.0.7/24"}], "routes": [{"dst": "192.0.2.0/24", "gw": "10.99.0.9"}]},
            "192.0.2.0/24",
        ),
    ],
)
def test_a_late_failure_is_taken_back(twins: Twins, kind: str, answer: dict[str, Any], named: str) -> None:
    twins.prepare(*MASTER)
    host = twins.weft
    told = host.call("ADD", sent(host, kind, **answer))
    assert told.code == 999 and named in told.body["msg"]
    assert calls(host)[0] == "ADD yes" and calls(host)[1].startswith("DEL")
    assert "eth0" not in ip("link", namespace=host.pods["pod"])
    assert "state UP" in ip("link", "show", "dev", "m0", namespace=host.name)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_asked_of_ipam_where_there_is_no_place(twins: Twins, kind: str) -> None:
    twins.prepare(*MASTER)
    host = twins.weft
    ip("link", "add", "eth0", "type", "bridge", namespace=host.pods["pod"])
    assert host.call("ADD", sent(host, kind, ips=[{"address": "10.24.0.7/24"}])).code == 999
    assert calls(host) == []
