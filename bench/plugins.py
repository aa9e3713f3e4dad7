"""Every plugin against its Go twin: ADD and DEL as whole processes, in turn, on the same node.

Ours go through the launcher to the node's agent. What a plugin works on (an interface, a master) is made before
the clock runs. Started again inside the node as ``python -m bench.plugins ROUNDS [PLUGIN…]``.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.attach import GO_PLUGINS, WEFT_PLUGINS, Sandboxes, container_id, execute, on_node

PEERS = {"weft": WEFT_PLUGINS, "go": GO_PLUGINS}
#: ADD and DEL that are not counted, first of all.
WARM_UP = 3
_AIM, _NO_SLOWER = "≤ 0.2", "≤ 1"


@dataclass(frozen=True)
class Subject:
    """A plugin to measure; with ``chained``, behind a bridge that the same peer made."""

    configuration: Mapping[str, Any]
    aim: str = _NO_SLOWER
    chained: bool = False
    #: ip(8) commands that the node needs; where one is refused, the plugin is left out with the kernel's words.
    needs: tuple[str, ...] = ()
    #: ip(8) commands before each ADD; NAME is a name of its own.
    before_each: tuple[str, ...] = ()


def _local(name: str, second: int) -> dict[str, Any]:
    return {"type": "host-local", "ranges": [[{"subnet": f"10.{second}.0.0/16"}]], "dataDir": f"/run/bench-{name}"}


_MASTER = ("link add bench0 type veth peer name bench1", "link set bench0 up", "link set bench1 up")
_PORTS = [{"hostPort": 8000 + number, "containerPort": 80, "protocol": "tcp"} for number in range(2)]


def subjects(peer: str) -> dict[str, Subject]:
    """What is measured of a peer; its bridge and its files are its own."""
    ipam = _local(peer, 101 if peer == "go" else 102)
    return {
        "bridge": Subject(_bridge(peer), _AIM),
        "ptp": Subject({"type": "ptp", "ipam": ipam}, _AIM),
        "loopback": Subject({"type": "loopback"}),
        "macvlan": Subject({"type": "macvlan", "master": "bench0", "ipam": ipam}, needs=_MASTER),
        "ipvlan": Subject(
            {"type": "ipvlan", "master": "bench0", "ipam": ipam},
            needs=(*_MASTER, "link add link bench0 name bench2 type ipvlan"),
        ),
        "vlan": Subject(
            {"type": "vlan", "master": "bench0", "vlanId": 5, "ipam": ipam},
            needs=(*_MASTER, "link add link bench0 name bench2 type vlan id 6"),
        ),
        "host-device": Subject(
            {"type": "host-device", "device": "benchd0"},
            before_each=("link add benchd0 type veth peer name benchd1",),
        ),
        "host-local": Subject({"type": "host-local", "ipam": ipam}, _AIM),
        "static": Subject(
            {"type": "static", "ipam": {"type": "static", "addresses": [{"address": "10.9.0.5/24"}]}}
        ),
        "portmap": Subject({"type": "portmap", "runtimeConfig": {"portMappings": _PORTS}}, _AIM, chained=True),
        "firewall": Subject({"type": "firewall"}, chained=True),
        "bandwidth": Subject(
            {
                "type": "bandwidth",
                "ingressRate": 8000000,
                "ingressBurst": 800000,
                "egressRate": 8000000,
                "egressBurst": 800000,
            },
            chained=True,
        ),
        "tuning": Subject(
            {
                "type": "tuning",
                "mtu": 1400,
                "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"},
                # As on a host, where the default is in /run: the lab's /run is on a disk.
                "dataDir": f"/dev/shm/bench-tuning-{peer}",
            },
            chained=True,
        ),
        "sbr": Subject({"type": "sbr"}, chained=True),
        "vrf": Subject(
            {"type": "vrf", "vrfname": "blue"}, chained=True, needs=("link add benchv type vrf table 99",)
        ),
    }


def _bridge(peer: str) -> dict[str, Any]:
    ipam = _local(peer, 103 if peer == "go" else 104)
    return {"type": "bridge", "bridge": f"br-{peer}", "isGateway": True, "hairpinMode": True, "ipam": ipam}


def in_turn(rounds: int, *names: str) -> dict[str, Any]:
    """Milliseconds by plugin, peer and verb; for a plugin that cannot be measured here, why."""
    times: dict[str, Any] = {}
    both = {peer: subjects(peer) for peer in PEERS}
    for name in names or both["go"]:
        if why := _obstacle(name, both["go"][name]):
            times[name] = why
            continue
        sandboxes = Sandboxes(2 * (rounds + WARM_UP))
        try:
            times[name] = _measure({peer: each[name] for peer, each in both.items()}, sandboxes, rounds)
        finally:
            sandboxes.close()
            _ip("link delete bench0")
    return times


def _measure(pair: Mapping[str, Subject], sandboxes: Sandboxes, rounds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {f"{peer} {verb}": [] for peer in PEERS for verb in ("ADD", "DEL")}
    paths = iter(sandboxes.paths)
    for number in range(rounds + WARM_UP):
        for peer in (*PEERS,) if number % 2 else (*reversed(PEERS),):
            adding, deleting = _once(peer, pair[peer], container_id(number + 1), next(paths))
            if number >= WARM_UP:
                found[f"{peer} ADD"].append(adding)
                found[f"{peer} DEL"].append(deleting)
    return found


def _once(peer: str, subject: Subject, container: str, netns: str) -> tuple[float, float]:
    """Milliseconds of one ADD and its DEL."""
    folder, common = PEERS[peer], {"cniVersion": "1.0.0", "name": f"bench-{peer}"}
    configuration: dict[str, Any] = {**subject.configuration, **common}
    below = {**_bridge(peer), **common}
    for command in subject.before_each:
        _ip(command)
    if subject.chained:
        configuration["prevResult"] = execute(folder, below, "ADD", container, netns)[1]
    adding, result = execute(folder, configuration, "ADD", container, netns)
    deleting, _ = execute(folder, {**configuration, "prevResult": result}, "DEL", container, netns)
    if subject.chained:
        execute(folder, below, "DEL", container, netns)
    for command in subject.before_each:
        _ip(f"link delete {command.split()[2]}")
    return adding, deleting


def _obstacle(name: str, subject: Subject) -> str:
    """Why a plugin cannot be measured here; empty where it can. What it needs is there then."""
    if not Path(GO_PLUGINS, name).exists():
        return "Debian has no twin"
    try:
        for command in subject.needs:
            if said := _ip(command):
                _ip("link delete bench0")
                return f"'ip {command}': {said}"
    finally:
        for extra in ("bench2", "benchv"):
            _ip(f"link delete {extra}")
    return ""


def _ip(command: str) -> str:
    """What ip(8) complains of."""
    done = subprocess.run(["ip", *command.split()], capture_output=True, text=True, check=False, timeout=30)
    return done.stderr.strip() if done.returncode else ""


def measure(lab: Any, rounds: int, say: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """Rows: median ADD and DEL of every plugin that can be measured here."""
    rows = []
    times = json.loads(on_node(lab, "bench.plugins", str(max(rounds // 4, 5))))
    for name, found in times.items():
        if isinstance(found, str):
            say(f"{name} is left out: {found}")
            continue
        for verb in ("ADD", "DEL"):
            weft, go = found[f"weft {verb}"], found[f"go {verb}"]
            rows.append(
                {
                    "what": f"{name}: {verb}, median of {len(weft)}",
                    "plugin": name,
                    "unit": "ms",
                    "weft": statistics.median(weft),
                    "peer": statistics.median(go),
                    "peer is": f"Go {name}",
                    "aim": subjects("go")[name].aim,
                }
            )
    return rows


if __name__ == "__main__":
    print(json.dumps(in_turn(int(sys.argv[1]), *sys.argv[2:])))
