"""The lab as a user has it: the README's commands, the seed's answers, nothing left behind."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from weft.lab.pod import PORT
from weft.lab.state import read

WEFT = [sys.executable, "-m", "weft"]


class Lab:
    """A lab of a name of its own, through the command line."""

    def __init__(self) -> None:
        self.name = f"weft-t{uuid4().hex[:6]}"

    def weft(self, *words: str, status: int | None = 0) -> str:
        """``weft lab …``; what it printed. The exit status must be the one expected; None expects any."""
        verb, *rest = words
        done = subprocess.run(
            [*WEFT, "lab", verb, "--lab", self.name, *rest],
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )
        assert status in (None, done.returncode), f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def execute(self, target: str, *command: str) -> str:
        return self.weft("exec", target, "--", *command)

    def pods(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = json.loads(self.weft("pods", "-o", "json"))
        return listed

    def left(self) -> list[str]:
        """What is still there of it."""
        namespaces = [
            entry.name for entry in Path("/run/netns").iterdir() if entry.name.startswith(self.name + "-")
        ]
        mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if self.name in line]
        processes = [
            entry.parent.name
            for entry in Path("/proc").glob("[0-9]*/cmdline")
            if self.name.encode() in _content(entry)
        ]
        folders = [str(entry) for entry in Path("/var/lib/weft-lab").glob(self.name + "*")]
        return namespaces + mounts + processes + folders

    def cgroups(self) -> list[str]:
        """Its control groups that are left, among those of others that come and go."""
        walked = os.walk("/sys/fs/cgroup")  # which takes no offence at what has just gone
        return [name for _, names, _ in walked for name in names if name.startswith(f"weft-lab.{self.name}.")]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.fixture
def lab() -> Iterator[Lab]:
    before = own_network()
    made = Lab()
    try:
        yield made
    finally:
        made.weft("down")
        assert made.left() == []
        assert own_network() == before


def own_network() -> list[str]:
    """The machine's own devices and routes: no lab may touch them."""
    questions = (["-br", "link"], ["route"], ["-br", "address"])
    return [
        subprocess.run(["ip", *words], capture_output=True, text=True, check=True).stdout for words in questions
    ]


def test_the_seeds_answers(lab: Lab) -> None:
    lab.weft("up", "--range", "10.244.0.0/16", "--underlay", "10.32.201.0/24", "--pods-per-node", "1")
    assert lab.execute("controlplane", "ls", "/etc/cni/net.d").split() == ["10-weave.conflist"]
    configuration = json.loads(lab.execute("controlplane", "cat", "/etc/cni/net.d/10-weave.conflist"))
    assert (configuration["cniVersion"], configuration["cniVersions"]) == ("1.0.0", ["1.0.0", "1.1.0"])
    link = lab.execute("controlplane", "ip", "link")
    for pattern in (
        r"\d+: weave: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu \d+",
        r"\d+: vxlan-6784: ",
        r"\d+: vethwepl[0-9a-f]{7}@if\d+: .* master weave state UP",
    ):
        assert re.search(pattern, link), link
    address = lab.execute("controlplane", "ip", "a", "show", "weave")
    assert "inet 10.244.0.1/16 brd 10.244.255.255 scope global weave" in address
    routes = lab.execute("node01", "ip", "route")
    assert "10.244.0.0/16 dev weave proto kernel scope link src 10.244.192.0" in routes
    assert "10.32.201.0/24 dev eth0 proto kernel scope link src 10.32.201.3" in routes
    pod = next(pod for pod in lab.pods() if pod["node"] == "node01")
    assert "default via 10.244.192.0 dev eth0" in lab.execute(pod["name"], "ip", "route")
    eth0 = json.loads(lab.execute(pod["name"], "ip", "-j", "-4", "address", "show", "dev", "eth0"))[0]["addr_info"]
    assert [(item["local"], item["prefixlen"]) for item in eth0] == [(pod["ip"], 16)]
    assert "weave-net -> weft-launcher" in lab.execute("node01", "ls", "-l", "/opt/cni/bin")
    assert "Status: ready" in lab.execute("node01", "weft", "status")
    assert "✓ every pod reaches every pod on other nodes without NAT" in lab.weft("check")


def test_the_default_range_begins_where_weaves_did(lab: Lab) -> None:
    lab.weft("up", "--nodes", "1", "--pods-per-node", "0")
    assert "inet 10.32.0.1/12 brd 10.47.255.255" in lab.execute("controlplane", "ip", "a", "show", "weave")
    for verb in ("kubectl", "kubeconfig"):
        assert "--store kubernetes" in lab.weft(verb, status=1)


def test_nodes_that_start_together_have_halved_shares(lab: Lab) -> None:
    lab.weft(
        "up", "--nodes", "3", "--pods-per-node", "0", "--range", "10.244.0.0/16", "--ipalloc-init", "consensus=3"
    )
    nodes = json.loads(lab.weft("nodes", "-o", "json"))
    assert [node["gateway"] for node in nodes] == ["10.244.0.1", "10.244.128.0", "10.244.192.0"]


def test_further_nodes_come_in_weaves_order(lab: Lab) -> None:
    lab.weft("up", "--nodes", "4", "--pods-per-node", "0", "--range", "10.244.0.0/16")
    nodes = json.loads(lab.weft("nodes", "-o", "json"))
    assert [node["gateway"] for node in nodes] == ["10.244.0.1", "10.244.192.0", "10.244.64.0", "10.244.160.0"]


def test_up_run_rm_and_up_again(lab: Lab) -> None:
    lab.weft("up", "--pods-per-node", "1")
    assert "created: 10.44." in lab.weft("run", "shell", "--node", "node01", "--label", "role=debug")
    shell = next(pod for pod in lab.pods() if pod["name"] == "shell")
    assert shell["labels"] == {"role": "debug"}
    assert "0% packet loss" in lab.execute("shell", "ping", "-c", "1", "10.32.0.1")
    assert "the name 'shell' is taken" in lab.weft("run", "shell", "--node", "node01", status=1)
    report = json.loads(lab.weft("check", "-o", "json"))
    assert report["good"]
    assert len(report["pairs"]) == 6
    assert "are up already" in lab.weft("up", "--pods-per-node", "1")
    assert "--nodes 3 instead of 2" in lab.weft("up", "--pods-per-node", "1", "--nodes", "3", status=1)
    lab.weft("rm", "shell")
    assert "there are: web-1, web-2" in lab.weft("rm", "shell", status=1)
    assert "controlplane, node01, web-1, web-2" in lab.weft("exec", "nobody", "--", "true", status=1)
    lab.weft("exec", "node01", "--", "sh", "-c", "exit 7", status=7)


def test_both_families(lab: Lab) -> None:
    lab.weft("up", "--pods-per-node", "2", "--range", "10.32.0.0/12,fd00:10:32::/48")
    by_name = {pod["name"]: pod for pod in lab.pods()}
    assert (by_name["web-1"]["ip"][:8], by_name["web-1"]["ip6"][:12]) == ("10.32.0.", "fd00:10:32::")
    assert "12 of 12 pairs" in lab.weft("check")
    # One family that is broken is named, and the other is not.
    lab.execute("web-2", "ip", "-6", "route", "del", "default")
    said = lab.weft("check", status=1)
    assert "✗ web-2 → web-1: IPv6 TCP:" in said
    assert not re.search("(: |; )TCP", said)


def test_pods_of_several_ranges_and_of_one_that_is_added(lab: Lab) -> None:
    # The first node owns both blocks of the first range before the second one comes.
    lab.weft("up", "--pods-per-node", "2", "--range", "10.244.0.0/28,10.245.0.0/16")
    assert {pod["ip"].rpartition(".")[0] for pod in lab.pods()} == {"10.244.0", "10.245.0"}
    assert "12 of 12 pairs" in lab.weft("check")
    assert "the ranges are 10.244.0.0/28,10.245.0.0/16,fd00:10:32::/48" in lab.execute(
        "node01", "weft", "range", "add", "fd00:10:32::/48"
    )
    deadline = time.monotonic() + 30
    while "fd00:10:32::/48" not in lab.weft("exec", "controlplane", "--", "weft", "status", "ipam", status=None):
        assert time.monotonic() < deadline
    lab.weft("run", "late", "--node", "controlplane")
    lab.weft("run", "later", "--node", "node01")
    # The old pods have no IPv6 address, and none of what they have is taken from them.
    assert ["ip6" in pod for pod in sorted(lab.pods(), key=lambda pod: str(pod["name"]))] == [
        True, True, False, False, False, False
    ]  # fmt: skip
    assert "30 of 30 pairs" in lab.weft("check")


def test_others_reach_pods_of_other_nodes_from_the_bridges_address(lab: Lab) -> None:
    """A node's own address, and what a service proxy has translated: the answer must come back by the tunnel."""
    lab.weft("up", "--pods-per-node", "1")
    near, far = sorted(lab.pods(), key=lambda pod: str(pod["node"]))
    shown = json.loads(lab.execute("controlplane", "ip", "-j", "-4", "address", "show"))
    addresses = {device["ifname"]: device["addr_info"][0]["local"] for device in shown}
    bridge = addresses["weave"]

    def seen(target: str, asker: str, source: str = "") -> str:
        asking = f"""
import socket
with socket.create_connection(({target!r}, {PORT}), 5, ({source!r}, 0)) as connection:
    connection.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
    print(connection.makefile().read().split()[-1])
"""
        return lab.execute(asker, sys.executable, "-c", asking).strip()

    assert seen(far["ip"], "controlplane", addresses["eth0"]) == bridge
    # What kube-proxy does for a node's port, whoever asks there.
    proxy = f"""
    table ip services {{
        chain output {{ type nat hook output priority -100; ip daddr 10.96.0.9 dnat to {far["ip"]}; }}
        chain prerouting {{ type nat hook prerouting priority -100; ip daddr 10.96.0.9 dnat to {far["ip"]}; }}
        chain postrouting {{ type nat hook postrouting priority srcnat; ct status dnat masquerade; }}
    }}"""
    lab.execute("controlplane", "nft", proxy)
    lab.execute("controlplane", "ip", "route", "add", "10.96.0.0/12", "dev", "eth0")
    assert [seen("10.96.0.9", asker) for asker in ("controlplane", near["name"])] == [bridge, bridge]
    assert "2 of 2 pairs connect, each seen with the sender's own address" in lab.weft("check")


def test_two_labs_at_once(lab: Lab) -> None:
    other = Lab()
    try:
        lab.weft("up", "--pods-per-node", "1")
        other.weft("up", "--pods-per-node", "1")
        assert "2 of 2 pairs" in lab.weft("check")
        assert "2 of 2 pairs" in other.weft("check")
    finally:
        other.weft("down")
    assert other.left() == []
    assert "2 of 2 pairs" in lab.weft("check")


def test_nat_between_pods_is_found_and_named(lab: Lab) -> None:
    lab.weft("up", "--pods-per-node", "1")
    lab.execute(
        "controlplane", "nft",
        "add table ip nat; add chain ip nat post { type nat hook postrouting priority 90; };"
        "add rule ip nat post oifname vxlan-6784 masquerade",
    )  # fmt: skip
    said = lab.weft("check", status=1)
    assert "web-1 → web-2: TCP: NAT, the receiver saw 10.32.0.1 instead of 10.32.0.2" in said
    assert "✓ every pod reaches every pod on its node" not in said
    assert "✗ every pod reaches every pod on other nodes without NAT" in said


def test_a_broken_pair_is_named(lab: Lab) -> None:
    lab.weft("up", "--nodes", "1", "--pods-per-node", "3")
    victim = next(pod for pod in lab.pods() if pod["name"] == "web-2")
    lab.execute("web-2", "ip", "link", "set", "eth0", "down")
    said = lab.weft("check", status=1)
    assert victim["ip"]
    for pair in ("web-1 → web-2", "web-3 → web-2", "web-2 → web-1"):
        assert f"✗ {pair}: TCP:" in said
    assert "web-1 → web-3" not in said


def test_a_killed_agent_comes_back_and_pods_keep_talking(lab: Lab) -> None:
    lab.weft("up", "--pods-per-node", "1")
    target = next(pod for pod in lab.pods() if pod["node"] == "node01")
    agents = lab.execute(
        "controlplane", "sh", "-c", "ss -xlp 2>/dev/null; cat /run/weft/cni.sock 2>/dev/null; true"
    )
    assert agents is not None
    state = read(lab.name)
    assert state is not None
    node = state.node("controlplane").process
    assert node is not None
    # The agent is the only child of the node's first process.
    (agent,) = Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split()
    ping = subprocess.Popen(
        [*WEFT, "lab", "exec", "--lab", lab.name, "web-1", "--",
         "ping", "-q", "-i", "0.02", "-c", "150", target["ip"]],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    time.sleep(0.5)
    os.kill(int(agent), signal.SIGKILL)
    said = ping.communicate(timeout=60)[0]
    assert " 0% packet loss" in said, said
    deadline = time.monotonic() + 20
    while "NotReady" in lab.weft("nodes"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    lab.weft("run", "late", "--node", "controlplane")
    assert "6 of 6 pairs" in lab.weft("check")


def test_a_killed_node_is_brought_back_by_up(lab: Lab) -> None:
    lab.weft("up", "--pods-per-node", "1")
    state = read(lab.name)
    assert state is not None
    process = state.node("node01").process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    time.sleep(0.1)
    assert re.search(r"node01 +NotReady", lab.weft("nodes"))
    assert "node01 starts again" in lab.weft("up", "--pods-per-node", "1")
    assert "2 of 2 pairs" in lab.weft("check")


@pytest.mark.parametrize("seconds", [0.2, 0.6, 1.0])
def test_down_after_a_killed_up_leaves_nothing(lab: Lab, seconds: float) -> None:
    up = subprocess.Popen([*WEFT, "lab", "up", "--lab", lab.name], stdout=subprocess.DEVNULL)
    time.sleep(seconds)
    up.kill()
    up.wait()
    lab.weft("down")
    assert lab.left() == []
    assert "nothing there" in lab.weft("down")


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("--underlay", "10.32.201.0/24"), 2, "10.32.0.0/12 overlaps the underlay 10.32.201.0/24"),
        (("--range", "ten"), 2, "--range 'ten'"),
        (("--range", "10.0.0.1/8"), 2, "host bits"),
        (("--range", "10.0.0.0/8,fd00::1/48"), 2, "fd00::1/48"),
        (("--range", "10.0.0.0/8,10.1.0.0/16"), 1, "ranges 10.0.0.0/8 and 10.1.0.0/16 overlap"),
        (("--nodes", "0"), 2, "--nodes 0"),
        (("--nodes", "50", "--underlay", "172.25.1.0/28"), 2, "no room for 50 nodes"),
        (("--range", "10.1.0.0/30"), 1, "too small"),
        (("--ipalloc-init", "magic"), 1, "magic"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(lab: Lab, words: tuple[str, ...], status: int, said: str) -> None:
    printed = lab.weft("up", *words, status=status)
    assert said in printed
    assert "Traceback" not in printed
    assert lab.left() == []


def test_commands_without_a_lab_say_how_to_start_one(lab: Lab) -> None:
    for words in (("check",), ("pods",), ("nodes",), ("run", "x", "--node", "y"), ("exec", "x", "--", "true")):
        assert "weft lab up" in lab.weft(*words, status=1)


def test_a_lab_on_etcd_outlives_its_etcd(lab: Lab) -> None:
    up = ("up", "--store", "etcd", "--pods-per-node", "1")
    lab.weft(*up)
    assert "2 of 2 pairs" in lab.weft("check")
    assert "--store sqlite instead of etcd" in lab.weft("up", "--pods-per-node", "1", status=1)
    assert not list(Path(f"/var/lib/weft-lab/{lab.name}").glob("store/store.db*"))
    state = read(lab.name)
    assert state is not None
    keeper = state.services["etcd"]
    # etcd is the only child of the process that keeps it running.
    (server,) = Path(f"/proc/{keeper.pid}/task/{keeper.pid}/children").read_text().split()
    os.kill(int(server), signal.SIGKILL)
    lab.weft("run", "meanwhile", "--node", "node01")
    assert "6 of 6 pairs" in lab.weft("check")
    assert "are up already" in lab.weft(*up)
    (server,) = Path(f"/proc/{keeper.pid}/task/{keeper.pid}/children").read_text().split()
    for pid in (keeper.pid, int(server)):
        os.kill(pid, signal.SIGKILL)
    # A node needs no store for a pod whose address it has.
    lab.weft("run", "without", "--node", "controlplane")
    assert "etcd starts again" in lab.weft(*up)
    assert "12 of 12 pairs" in lab.weft("check")
    assert "etcd" in lab.weft("logs", "etcd")


def test_a_lab_that_goes_down_leaves_the_folders_that_another_lays_its_own_over(lab: Lab) -> None:
    """The kernel would take a folder away with what is mounted over it in another lab's nodes."""
    lab.weft("up", "--nodes", "1", "--pods-per-node", "0")
    other = Lab()
    try:
        other.weft("up", "--nodes", "1", "--pods-per-node", "0", "--underlay", "172.25.2.0/24")
    finally:
        other.weft("down")
    assert "weave-net" in lab.execute("controlplane", "ls", "/opt/cni/bin").split()
    assert lab.execute("controlplane", "ls", "/etc/cni/net.d").split() == ["10-weave.conflist"]
