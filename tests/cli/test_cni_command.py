"""``weft cni`` by hand: a network of Debian's Go plugins, in namespaces of the test."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.namespaces import ip, network_namespace
from weft.cli.cni import container_id_of
from weft.cli.install import PLUGIN_NAMES, install


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    network = {
        "cniVersion": "1.0.0",
        "name": "hand",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "hand0",
                "ipam": {"type": "host-local", "subnet": "10.89.0.0/24", "dataDir": str(tmp_path / "leases")},
            }
        ],
    }
    (tmp_path / "net.d").mkdir()
    (tmp_path / "net.d" / "10-hand.conflist").write_text(json.dumps(network))
    return tmp_path


def weft(folder: Path, host: str | None, *words: str, status: int = 0) -> str:
    entering = ["nsenter", f"--net=/run/netns/{host}", "--"] if host else []
    environment = {**os.environ, "NETCONFPATH": str(folder / "net.d"), "CNI_PATH": "/usr/lib/cni"}
    done = subprocess.run(
        [*entering, sys.executable, "-m", "weft", "cni", *words],
        env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def test_add_check_del(folder: Path) -> None:
    with network_namespace() as host, network_namespace() as sandbox:
        cache = ("--cache-dir", str(folder / "cache"))
        result = json.loads(weft(folder, host, "add", "hand", sandbox, *cache))
        assert result["ips"][0]["address"] == "10.89.0.2/24"
        (kept,) = (folder / "cache" / "results").iterdir()
        assert kept.name == f"hand-{container_id_of(f'/run/netns/{sandbox}')}-eth0"
        assert weft(folder, host, "check", "hand", sandbox, *cache) == ""
        assert "already attached" in weft(folder, host, "add", "hand", sandbox, *cache, status=1)
        assert weft(folder, host, "del", "hand", sandbox, *cache) == ""
        assert weft(folder, host, "del", "hand", f"/run/netns/{sandbox}", *cache) == ""
        said = weft(folder, host, "check", "hand", sandbox, *cache, "-o", "json", status=1)
        assert json.loads(said)["code"] == 3


def test_list_shows_what_would_run_and_what_is_wrong(folder: Path) -> None:
    said = weft(folder, None, "list")
    assert "hand  cniVersion 1.0.0" in said
    assert "    bridge  /usr/lib/cni/bridge  foreign  0.1.0 to 1.0.0\n" in said
    assert "      ipam host-local  /usr/lib/cni/host-local  foreign  0.1.0 to 1.0.0\n" in said
    (folder / "net.d" / "20-bad.conf").write_text("{")
    (folder / "net.d" / "30-odd.conf").write_text('{"name": "odd", "type": "no-such"}')
    said = weft(folder, None, "list", status=1)
    assert "MISSING" in said
    assert "20-bad.conf" in said
    listed = json.loads(weft(folder, None, "list", "-o", "json", status=1))
    assert [network["name"] for network in listed["networks"]] == ["hand", "odd"]


def test_list_tells_ours_from_others_and_who_would_not_answer(folder: Path) -> None:
    install(folder / "agent")
    install(folder / "alone", without_agent=True)
    network = {
        "cniVersion": "1.1.0",
        "name": "mixed",
        "plugins": [{"type": "bridge", "capabilities": {"mac": True}}, {"type": "firewall"}],
    }
    (folder / "net.d" / "05-mixed.conflist").write_text(json.dumps(network))
    for path, provider in (("agent", "weft, through the agent"), ("alone", "weft, without an agent")):
        words = ("list", "-o", "json", "--bin-dir", str(folder / path), "--bin-dir", "/usr/lib/cni")
        listed = json.loads(weft(folder, None, *words))
        mixed = listed["networks"][0]
        assert (mixed["name"], mixed["capabilities"]) == ("mixed", ["mac"])
        assert [row["provider"] for row in mixed["plugins"]] == [provider, provider]
        assert [row["versions"][0] for row in mixed["plugins"]] == ["0.1.0", "0.4.0"]
        assert [row["error"] for row in mixed["plugins"]] == ["", ""]
        found = {row["type"]: row["provider"] for row in listed["plugins"]}
        assert found.keys() == set(PLUGIN_NAMES)
        assert set(found.values()) - {provider} <= {"weft, through the agent"}
    listed = json.loads(weft(folder, None, "list", "-o", "json"))
    assert "1.1.0" in listed["networks"][0]["plugins"][0]["error"]
    assert "PROBLEM: does not answer cniVersion 1.1.0" in weft(folder, None, "list")


def test_gc_keeps_what_still_has_a_namespace(folder: Path) -> None:
    cache = ("--cache-dir", str(folder / "cache"))
    results = folder / "cache" / "results"
    with network_namespace() as host, network_namespace() as kept:
        with network_namespace() as gone:
            for sandbox in (kept, gone):
                weft(folder, host, "add", "hand", sandbox, "--container-id", sandbox, *cache)
        assert len(list(results.iterdir())) == 2
        assert weft(folder, host, "gc", "hand", *cache) == ""
        assert [file.name for file in results.iterdir()] == [f"hand-{kept}-eth0"]
        assert weft(folder, host, "check", "hand", kept, "--container-id", kept, *cache) == ""
        assert weft(folder, host, "gc", "hand", kept, "--all", "--keep", f"{kept}/eth0", *cache) == ""
        assert len(list(results.iterdir())) == 1
        assert weft(folder, host, "gc", "hand", kept, "--all", *cache) == ""
        assert list(results.iterdir()) == []
        assert "eth0" not in ip("link", namespace=kept)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("add", "nonet", "x"), 1, "there are: hand"),
        (("add", "hand", "x", "--cap-args", "["), 1, "--cap-args"),
        (("add", "hand", "x", "--container-id", "../x"), 1, "CNI_CONTAINERID"),
        (("add", "hand", "x", "--ifname", "a/b"), 1, "CNI_IFNAME"),
        (("add", "hand"), 2, "NETNS"),
        (("gc", "hand", "--keep", "x"), 1, "--keep"),
        (("status", "nonet"), 1, "there are: hand"),
        (("list", "--conf-dir", "/nowhere"), 1, "/nowhere"),
    ],
)
def test_bad_words_are_one_clear_line(folder: Path, words: tuple[str, ...], status: int, said: str) -> None:
    assert said in weft(folder, None, *words, status=status)
