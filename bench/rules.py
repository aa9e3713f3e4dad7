"""Plugins that write iptables' rules, as whole processes: ours and the Go plugins in turn on one node."""

import json
import statistics
import sys
from typing import Any

from bench import attach

_COMMON = {
    "cniVersion": "1.0.0",
    "name": "bench",
    "prevResult": {
        "interfaces": [{"name": "weave"}, {"name": "eth0", "sandbox": "/run/netns/bench"}],
        "ips": [{"address": "10.99.0.2/16", "interface": 1}],
    },
    "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]},
}
_AIMS = {"portmap": "≤ 0.2", "firewall": "≤ 1"}
_PEERS = {"weft": attach.WEFT_PLUGINS, "go": attach.GO_PLUGINS}


def in_turn(rounds: int) -> dict[str, list[float]]:
    """ADD and DEL of both peers in turn: milliseconds by ``KIND PEER VERB``."""
    times: dict[str, list[float]] = {}
    warm_up = 3
    sandboxes = attach.Sandboxes(1)
    try:
        for number in range(rounds + warm_up):
            for kind in _AIMS:
                for peer, folder in _PEERS.items():
                    for verb in ("ADD", "DEL"):
                        elapsed = attach.run_plugin(
                            f"{folder}/{kind}",
                            {**_COMMON, "type": kind},
                            verb,
                            attach.container_id(number + 1),
                            sandboxes.paths[0],
                        )
                        if number >= warm_up:
                            times.setdefault(f"{kind} {peer} {verb}", []).append(elapsed)
    finally:
        sandboxes.close()
    return times


def measure(lab: Any, rounds: int) -> list[dict[str, Any]]:
    """Rows: median of ADD and DEL of each plugin."""
    times = json.loads(attach.on_node(lab, "bench.rules", "in_turn", str(rounds)))
    return [
        {
            "what": f"{kind} {verb}, median of {rounds}",
            "unit": "ms",
            "weft": statistics.median(times[f"{kind} weft {verb}"]),
            "peer": statistics.median(times[f"{kind} go {verb}"]),
            "peer is": f"Go {kind}",
            "aim": aim,
        }
        for kind, aim in _AIMS.items()
        for verb in ("ADD", "DEL")
    ]


if __name__ == "__main__":
    print(json.dumps(in_turn(int(sys.argv[2]))))
