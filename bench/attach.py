"""ADD and DEL as whole processes: the launcher with weave-net against the Go plugins bridge and host-local.

Both run on the same node in the same minutes, in turn, from this file started again inside the node.
"""

import concurrent.futures
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

GO_PLUGINS = "/usr/lib/cni"
WEFT_PLUGINS = "/opt/cni/bin"
STORM_PODS = 200
STORM_AT_ONCE = 8

GO_CONFIGURATION: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "go",
    "type": "bridge",
    "bridge": "cni-go",
    "isDefaultGateway": True,
    "hairpinMode": True,
    "mtu": 1450,
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.99.0.0/16"}]], "dataDir": "/var/lib/bench-go"},
}
_WEFT_CONFIGURATION = {"cniVersion": "1.0.0", "name": "weave", "type": "weave-net", "hairpinMode": True}
_PEERS = {"weft": (WEFT_PLUGINS, _WEFT_CONFIGURATION), "go": (GO_PLUGINS, GO_CONFIGURATION)}


class Sandboxes:
    """Empty network namespaces, each held by a sleeping process."""

    def __init__(self, count: int) -> None:
        self._holders = [subprocess.Popen(["unshare", "--net", "sleep", "600"]) for _ in range(count)]
        home = Path("/proc/self/ns/net").stat().st_ino
        self.paths = [f"/proc/{holder.pid}/ns/net" for holder in self._holders]
        for path in self.paths:
            while Path(path).stat().st_ino == home:
                time.sleep(0.001)

    def close(self) -> None:
        for holder in self._holders:
            holder.kill()
            holder.wait()


def call(peer: str, verb: str, container: str, netns: str) -> float:
    """Run a peer's plugin to its end; milliseconds. Raises RuntimeError with what it printed when it fails."""
    return execute(*_PEERS[peer], verb, container, netns)[0]


def execute(
    folder: str, configuration: Mapping[str, Any], verb: str, container: str, netns: str
) -> tuple[float, Any]:
    """Run a plugin of a folder to its end: milliseconds, and what it printed.

    IPAM plugins come from the same folder. Raises RuntimeError with what it printed when it fails.
    """
    path = f"{folder}/{configuration['type']}"
    environment = {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": container,
        "CNI_NETNS": netns,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": folder,
        "PATH": os.environ["PATH"],
    }
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout:
        stdin.write(json.dumps(configuration).encode())
        stdin.seek(0)
        actions = [(os.POSIX_SPAWN_DUP2, stdin.fileno(), 0), (os.POSIX_SPAWN_DUP2, stdout.fileno(), 1)]
        begin = time.perf_counter()
        pid = os.posix_spawn(path, [path], environment, file_actions=actions)
        _, status = os.waitpid(pid, 0)
        elapsed = time.perf_counter() - begin
        stdout.seek(0)
        output = stdout.read()
    if status:
        raise RuntimeError(f"{path} {verb}: {output.decode()}")
    return elapsed * 1000, json.loads(output) if output.strip() else None


def container_id(number: int) -> str:
    return f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}" * 4


def in_turn(rounds: int) -> dict[str, list[float]]:
    """ADD and DEL of both peers in turn: milliseconds by ``PEER VERB``."""
    times: dict[str, list[float]] = {f"{peer} {verb}": [] for peer in _PEERS for verb in ("ADD", "DEL")}
    warm_up = 5
    sandboxes = Sandboxes(2 * (rounds + warm_up))
    try:
        paths = iter(sandboxes.paths)
        for number in range(rounds + warm_up):
            for peer in _PEERS:
                netns, container = next(paths), container_id(number + 1)
                for verb in ("ADD", "DEL"):
                    elapsed = call(peer, verb, container, netns)
                    if number >= warm_up:
                        times[f"{peer} {verb}"].append(elapsed)
    finally:
        sandboxes.close()
    return times


def pods_per_second() -> dict[str, float]:
    """Attach 200 pods, 8 at a time, with each peer; then detach them."""
    rates = {}
    for peer in _PEERS:
        sandboxes = Sandboxes(STORM_PODS)
        jobs = [(container_id(1000 + number), path) for number, path in enumerate(sandboxes.paths)]
        try:
            with concurrent.futures.ThreadPoolExecutor(STORM_AT_ONCE) as threads:
                for verb in ("ADD", "DEL"):
                    begin = time.perf_counter()
                    for done in [threads.submit(call, peer, verb, *job) for job in jobs]:
                        done.result()
                    rates[f"{peer} {verb}"] = STORM_PODS / (time.perf_counter() - begin)
        finally:
            sandboxes.close()
    return rates


def measure(lab: Any, rounds: int) -> list[dict[str, Any]]:
    """Rows: median and 99th percentile of ADD and DEL."""
    times = json.loads(on_node(lab, "bench.attach", "in_turn", str(rounds)))
    rows = []
    for verb, aim in (("ADD", "≤ 0.15"), ("DEL", "≤ 0.1")):
        weft, go = times[f"weft {verb}"], times[f"go {verb}"]
        for name, pick in (("median", statistics.median), ("p99", _p99)):
            rows.append(
                {
                    "what": f"{verb}, {name} of {len(weft)}",
                    "unit": "ms",
                    "weft": pick(weft),
                    "peer": pick(go),
                    "peer is": "Go bridge + host-local",
                    "aim": aim if name == "median" else "",
                }
            )
    return rows


def storm(lab: Any, rounds: int) -> list[dict[str, Any]]:
    """Rows: pods per second, 8 at a time."""
    rates = json.loads(on_node(lab, "bench.attach", "pods_per_second"))
    return [
        {
            "what": f"{verb} of {STORM_PODS} pods, {STORM_AT_ONCE} at a time",
            "unit": "pods/s",
            "weft": rates[f"weft {verb}"],
            "peer": rates[f"go {verb}"],
            "peer is": "Go bridge + host-local",
        }
        for verb in ("ADD", "DEL")
    ]


def _p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[98]


def on_node(lab: Any, module: str, function: str, *arguments: str) -> str:
    """What a function of a module prints that is started again inside the node."""
    done = subprocess.run(
        lab.node("controlplane", sys.executable, "-m", module, function, *arguments),
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
        cwd=Path(__file__).parent.parent,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


if __name__ == "__main__":
    name, *numbers = sys.argv[1:]
    functions: dict[str, Any] = {"in_turn": in_turn, "pods_per_second": pods_per_second}
    print(json.dumps(functions[name](*map(int, numbers))))
