"""Go and Weft on one host: in one chain, and one after the other, by real executables and ``weft cni``."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.namespaces import path
from tests.plugins.test_generated import left
from tests.plugins.twins import GO_FOLDER, Host, made, needs_reference, unequal
from weft.cli.install import find_program
from weft.plugins.registry import PROGRAM

pytestmark = needs_reference

CHAIN: list[dict[str, Any]] = [
    {
        "type": "bridge",
        "bridge": "cni0",
        "isDefaultGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": {"type": "host-local", "dataDir": "HERE/ipam", "subnet": "10.22.0.0/24"},
    },
    {"type": "portmap", "capabilities": {"portMappings": True}},
    {"type": "firewall"},
    {"type": "bandwidth", "ingressRate": 8000000, "ingressBurst": 800000},
    {"type": "tuning", "mtu": 1400, "dataDir": "HERE/tuning"},
]
NAMES = ("bridge", "host-local", "portmap", "firewall", "bandwidth", "tuning")
PORTS = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}
#: Folders of executables: the names that are Weft's.
FOLDERS: dict[str, tuple[str, ...]] = {
    "go": (),
    "weft": NAMES,
    "odd": ("bridge", "firewall", "tuning"),
    "even": ("host-local", "portmap", "bandwidth"),
}


@dataclass
class MixedHost:
    """A host with four folders of plugins, and ``weft cni`` as its runtime."""

    host: Host

    def __post_init__(self) -> None:
        for folder, ours in FOLDERS.items():
            place = self.host.folder / "bin" / folder
            place.mkdir(parents=True)
            for name in NAMES:
                program = find_program(PROGRAM) if name in ours else GO_FOLDER / name
                (place / name).symlink_to(program)
        network = {"cniVersion": "1.0.0", "name": "net", "plugins": CHAIN}
        (self.host.folder / "bin" / "net.conflist").write_text(
            json.dumps(network).replace("HERE", str(self.host.folder))
        )

    def weft(self, verb: str, folder: str) -> str:
        """``weft cni VERB`` with a folder's executables; what it printed."""
        bin_dir = self.host.folder / "bin"
        done = subprocess.run(
            ["nsenter", f"--net={path(self.host.name)}", sys.executable, "-m", "weft", "cni", verb, "net",
             self.host.pods["pod"], "--bin-dir", str(bin_dir / folder), "--conf-dir", str(bin_dir),
             "--cache-dir", str(bin_dir)],
            capture_output=True, text=True, check=False, timeout=60,
            env={**os.environ, "CAP_ARGS": json.dumps(PORTS) if verb == "add" else ""},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MixedHost]:
    with made(tmp_path_factory.mktemp("mixed")) as twins:
        yield MixedHost(twins.weft)


def without_rules(host: Host) -> dict[str, Any]:
    """The host's state, but for the rules: those that all containers share stay."""
    seen = left(host)
    for part in ("iptables", "ip6tables", "nftables"):
        del seen["host"][part]
    return seen


PAIRS = (("go", "weft"), ("weft", "go"), ("odd", "even"), ("even", "odd"), ("odd", "odd"))


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_attached_by_one_detached_by_the_other(mixed: MixedHost, first: str, second: str) -> None:
    """What the arguments were, the second runtime knows from the cache."""
    before = without_rules(mixed.host)
    result = json.loads(mixed.weft("add", first))
    assert result["ips"][0]["gateway"] == "10.22.0.1"
    rules = mixed.host.execute("iptables-save")
    assert "--to-destination" in rules and "CNI-FORWARD" in rules
    if "portmap" in FOLDERS[second]:
        mixed.weft("check", second)  # Debian's portmap looks for rules of both families
    mixed.weft("del", second)
    assert list(unequal(before, without_rules(mixed.host))) == []
    for command in ("iptables-save", "ip6tables-save", "nft list ruleset"):
        rules = mixed.host.execute(*command.split())
        assert "cnitool-" not in rules and "10.22.0.2" not in rules and "8080" not in rules
    assert not list((mixed.host.folder / "bin" / "results").iterdir())
