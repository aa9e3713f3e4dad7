"""A real containerd: how long a sandbox takes to have its address, by Weft's plugin and by the Go plugins in turn.

And how long the lab itself takes, with containerd and with its own runtime.
"""

import json
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from bench.attach import GO_CONFIGURATION, GO_PLUGINS
from bench.lab import RANGE, WEFT, run
from weft.lab import pods, state
from weft.lab.runtimes.containerd import pod_config
from weft.lab.runtimes.containerd.cri import Cri
from weft.lab.runtimes.containerd.daemon import PODS, socket_of

NODE = "controlplane"
#: Sandboxes of one peer before it is the other's turn, and how many of its first are left out.
TURN, WARM_UP = 5, 1
#: The Go plugins under names of their own, beside the links that bear theirs.
_GO_NAMES = {"bridge": "go-bridge", "host-local": "go-host-local"}
_CONFIGURATION = "00-go.conflist"


def measure(_lab: Any, rounds: int) -> list[dict[str, Any]]:
    """Rows: a sandbox's way to its address, its end, and the lab's commands."""
    # Not the lab that the other sections share.
    own, other = (f"weft-bench{os.getpid()}{kind}" for kind in "cp")
    timed = {}
    try:
        for name, runtime in ((other, "processes"), (own, "containerd")):
            up = (*WEFT, "lab", "up", "--lab", name, "--range", RANGE, "--runtime", runtime)
            timed[runtime] = [_seconds(*up), _seconds(*WEFT, "lab", "check", "--lab", name)]
        times = _in_turn(own, rounds)
    finally:
        for name in (own, other):
            run(*WEFT, "lab", "down", "--lab", name)
    return [
        *(
            {
                "what": f"{what} with containerd, median of {len(times['weft', verb])}",
                "unit": "ms",
                "weft": statistics.median(times["weft", verb]),
                "peer": statistics.median(times["go", verb]),
                "peer is": "Go bridge + host-local, same containerd",
                "aim": "≤ 1",
            }
            for verb, what in (("run", "RunPodSandbox to its address"), ("stop", "StopPodSandbox"))
        ),
        *(
            {
                "what": f"weft lab {what}, 2 nodes with 2 pods, containerd",
                "unit": "s",
                "weft": timed["containerd"][place],
                "peer": timed["processes"][place],
                "peer is": "the lab's own runtime",
            }
            for place, what in enumerate(("up", "check"))
        ),
    ]


def _in_turn(name: str, rounds: int) -> dict[tuple[str, str], list[float]]:
    """Milliseconds by peer and verb."""
    lab = state.required(name)
    folder = lab.node_folder(NODE)
    for go, renamed in _GO_NAMES.items():
        shutil.copy(Path(GO_PLUGINS) / go, folder / "opt-cni" / "bin" / renamed)
    plugin = {**GO_CONFIGURATION, "type": _GO_NAMES["bridge"]}
    plugin["ipam"] = {**GO_CONFIGURATION["ipam"], "type": _GO_NAMES["host-local"]}
    network = IPv4Network(plugin["ipam"]["ranges"][0][0]["subnet"])
    content = {"cniVersion": "1.0.0", "name": "go", "plugins": [plugin]}
    first = folder / "etc-cni" / "net.d" / _CONFIGURATION
    times: dict[tuple[str, str], list[float]] = {}
    with Cri(socket_of(folder)) as cri:
        for number in range(2 * max(1, rounds // TURN)):
            peer = ("weft", "go")[number % 2]
            if peer == "go":
                first.with_suffix(".new").write_text(json.dumps(content))
                first.with_suffix(".new").rename(first)
            else:
                first.unlink(missing_ok=True)
            _await_network(cri, name, lambda address, go=peer == "go": (address in network) is go)  # type: ignore[misc]
            for turn in range(TURN + WARM_UP):
                sandbox, took = _run(cri, name)
                ended = _stop(cri, sandbox)
                if turn >= WARM_UP:
                    times.setdefault((peer, "run"), []).append(took)
                    times.setdefault((peer, "stop"), []).append(ended)
    return times


def _await_network(cri: Cri, name: str, is_it: Callable[[IPv4Address], bool]) -> None:
    """containerd hears of a changed configuration by itself; only an address says which one it has."""
    for _ in range(100):
        sandbox, _ = _run(cri, name)
        address = IPv4Address(cri.sandbox_status(sandbox).addresses[0])
        _stop(cri, sandbox)
        if is_it(address):
            return
    raise RuntimeError("containerd does not take the other configuration")


def _run(cri: Cri, name: str) -> tuple[str, float]:
    pod = pods.new_pod("bench", NODE, {})
    config = pod_config.sandbox(pod, 0, PODS, f"/weft-lab.{name}.{NODE}")
    begin = time.perf_counter()
    sandbox = cri.run_sandbox(config)
    if not cri.sandbox_status(sandbox).addresses:
        raise RuntimeError(f"sandbox {sandbox} has no address")
    return sandbox, (time.perf_counter() - begin) * 1000


def _stop(cri: Cri, sandbox: str) -> float:
    begin = time.perf_counter()
    cri.stop_sandbox(sandbox)
    took = (time.perf_counter() - begin) * 1000
    cri.remove_sandbox(sandbox)
    return took


def _seconds(*command: str) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return time.perf_counter() - begin
