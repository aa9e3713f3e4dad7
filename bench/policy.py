"""What NetworkPolicy costs: to put in force in a large cluster, and per packet and connection of an allowed flow.

The peer is the layout of the iptables controllers: a chain per policy, a rule per pod that leads there.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Self

from bench.lab import netns, run
from bench.policy_scale import write_rulesets
from bench.traffic import MASQUERADE, latency, throughput
from bench.traffic import Path as Way
from weft.kernel.namespace import NetworkNamespace
from weft.kernel.nftables import NftContext

SOURCE, TARGET = "10.77.1.1", "10.77.1.2"
#: Loaded tables that are compared; policies in each.
SIZES = (0, 100, 10_000)
TURNS = 6
CONNECTS = 400
#: The pods on a usual node, and all pods on one.
NODES = (100, 1)

_CONNECT = f"""
import socket, statistics, sys, time
times = []
for _ in range({CONNECTS}):
    begun = time.perf_counter()
    socket.create_connection((sys.argv[1], 7)).close()
    times.append(time.perf_counter() - begun)
print(statistics.median(times) * 1e6)
"""
_ACCEPT = """
import socket
listener = socket.create_server(("", 7), backlog=512)
print("ready", flush=True)
while True:
    listener.accept()[0].close()
"""


class Node:
    """A bridge with two pods, made with ``ip``, and a table of policies or none."""

    def __init__(self, name: str, load: Callable[[], None]) -> None:
        self.name = f"weft-bench{os.getpid()}-{name}"
        self._load = load
        self._names = [self.name, f"{self.name}-a", f"{self.name}-b"]
        self.load_time = 0.0

    def __enter__(self) -> Self:
        try:
            for name in self._names:
                run("ip", "netns", "add", name)
            self._ip("", "link add weave type bridge", "link set weave up", "address add 10.77.0.1/16 dev weave")
            for pod, address in (("a", SOURCE), ("b", TARGET)):
                self._ip("", f"link add dev {pod} type veth peer name eth0 netns {self.name}-{pod}")
                self._ip("", f"link set dev {pod} master weave up")
                self._ip(f"-{pod}", "link set lo up", "link set eth0 up", f"address add {address}/16 dev eth0")
            with NetworkNamespace.open(f"/run/netns/{self.name}") as namespace, namespace.entered():
                with NftContext() as nftables:
                    nftables.apply(MASQUERADE)  # what every node has: connection tracking is in all of them
                begun = time.perf_counter()
                self._load()
                self.load_time = (time.perf_counter() - begun) * 1000
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for name in self._names:
            subprocess.run(["ip", "netns", "delete", name], check=False)

    @property
    def way(self) -> Way:
        return Way(self.name, f"{self.name}-a", f"{self.name}-b", TARGET)

    def _ip(self, suffix: str, *commands: str) -> None:
        run("ip", "-n", self.name + suffix, "-batch", "-", stdin="\n".join(commands) + "\n")


def measure(lab: Any, rounds: int) -> list[dict[str, Any]]:
    """Rows: putting in force, then the allowed flow."""
    return [*scale_rows(), *flow_rows()]


def scale_rows() -> list[dict[str, Any]]:
    """Rows of ``bench.policy_scale``, for a usual node and for one that has all the pods."""
    rows = []
    for nodes in NODES:
        printed = run("unshare", "--net", sys.executable, "-m", "bench.policy_scale", str(nodes))
        found = json.loads(printed)
        where = f"{found['pods here']:.0f} of 10,000 pods here"
        for what, unit, key, aim in (
            ("compile", "ms", "compile", ""),
            ("load", "ms", "load", "< 3000 with compile"),
            ("load", "bytes", "load bytes", ""),
            ("pod added, in force", "ms", "pod added", "< 20"),
            ("pod added", "bytes", "pod added bytes", ""),
            ("label changed, in force", "ms", "label changed", "< 20"),
            ("label changed", "bytes", "label changed bytes", ""),
            ("policy added, in force", "ms", "policy added", "< 20"),
            ("policy added", "bytes", "policy added bytes", ""),
            ("memory with all objects", "MiB", "memory", "< 150"),
        ):
            rows.append({"what": f"policy: {what}, {where}", "unit": unit, "weft": found[key], "aim": aim})
    return rows


def flow_rows() -> list[dict[str, Any]]:
    """Rows: an allowed flow under 0, 100 and 10,000 policies, as ratio to none, and under iptables chains."""
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        nodes = {"none": stack.enter_context(Node("none", lambda: None))}
        for size in SIZES:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            write_rulesets(size, folder, (SOURCE, TARGET))
            nodes[f"{size:,}"] = stack.enter_context(Node(f"p{size}", partial(_load_ours, folder)))
            if size == max(SIZES):
                nodes["iptables"] = stack.enter_context(Node("ipt", partial(_load_iptables, folder)))
        for what, unit, take in (
            ("TCP", "Gbit/s", throughput),
            ("round trip", "µs", latency),
            ("TCP connect", "µs", connects),
        ):
            values = _in_turn({name: node.way for name, node in nodes.items()}, take)
            for size in SIZES:
                aim = "within 3 %" if what != "TCP connect" else ""
                rows.append(
                    _row(f"policy: {what} under {size:,} policies", unit, values[f"{size:,}"], values["none"], aim)
                )
            row = _row(f"policy: {what} under 10,000 policies", unit, values["10,000"], values["iptables"], "")
            rows.append({**row, "peer is": "iptables chains"})
        row = _row(
            "policy: load of 10,000 policies", "ms", nodes["10,000"].load_time, nodes["iptables"].load_time, ""
        )
        rows.append({**row, "peer is": "iptables-restore"})
    return rows


def connects(way: Way) -> float:
    """Median time of a TCP connection, microseconds."""
    server = subprocess.Popen(netns(way.target, sys.executable, "-c", _ACCEPT), stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        server.stdout.readline()
        return float(run(*netns(way.source, sys.executable, "-c", _CONNECT, way.address)))
    finally:
        server.terminate()
        server.wait()


def _row(what: str, unit: str, weft: float, peer: float, aim: str) -> dict[str, Any]:
    return {"what": what, "unit": unit, "weft": weft, "peer": peer, "peer is": "no policies", "aim": aim}


def _in_turn(ways: dict[str, Way], take: Callable[[Way], float]) -> dict[str, float]:
    values: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(TURNS):
        for name in ways if turn % 2 else reversed(ways):
            values[name].append(take(ways[name]))
    return {name: statistics.median(taken) for name, taken in values.items()}


def _load_ours(folder: str) -> None:
    with NftContext() as nftables:
        for ruleset in json.loads(Path(folder, "ours").read_text()):
            nftables.apply(ruleset)


def _load_iptables(folder: str) -> None:
    run("iptables-restore", stdin=Path(folder, "iptables").read_text())
