"""``python -m bench.scale``: what a large cluster costs. Prints a table, writes ``bench/results/scale.json``.

Part one is simulated in this process by the agents' own decisions, part two is one real kernel.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.simulation import Simulation
from weft.ipam.ranges import parse_ranges

RESULTS = Path(__file__).parent / "results"
#: Peers of the kernel part: the cost of one peer's change must be the same with all of them.
PEERS = (10, 100, 1000, 5000)


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.scale", description=__doc__)
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--pods", type=int, default=110, help="pods of each node (default 110)")
    parser.add_argument("--churn", type=float, default=0.1, help="share of nodes replaced per hour (default 0.1)")
    parser.add_argument("--range", default="10.32.0.0/12", help="as for weft agent")
    parser.add_argument("--block-size", default="")
    parser.add_argument(
        "--writes-per-second", type=float, default=1000, help="what the store is taken to manage (default 1000)"
    )
    parser.add_argument("--no-kernel", action="store_true", help="only the simulation")
    arguments = parser.parse_args()
    console = Console() if sys.stdout.isatty() else Console(width=110)
    sections: dict[str, dict[str, float]] = {}
    simulation = Simulation(parse_ranges(arguments.range, arguments.block_size), arguments.nodes, arguments.pods)
    joined = simulation.join_at_once()
    joined["seconds until all serve, at that many writes a second"] = (
        joined["writes"] / arguments.writes_per_second
    )
    sections[f"{arguments.nodes} nodes join at once"] = joined
    sections[f"then run {arguments.pods} pods each"] = simulation.run_pods()
    sections["then the store holds"] = simulation.state()
    sections[f"then {arguments.churn:.0%} of the nodes are replaced"] = simulation.churn(arguments.churn)
    if not arguments.no_kernel:
        for peers in PEERS:
            sections[f"one real kernel, {peers} peers with 3 blocks"] = kernel(peers)
    show(console, sections)
    report = {
        "arguments": vars(arguments), "kernel": platform.release(), "cores": os.cpu_count(),
        "python": platform.python_version(), "finished": time.time(), "sections": sections,
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "scale.json").write_text(json.dumps(report, indent=2) + "\n")
    console.print(f"written: {RESULTS / 'scale.json'}", highlight=False)
    return 0


def kernel(peers: int) -> dict[str, float]:
    """One agent's dataplane in a network namespace that ends with its process."""
    command = ["unshare", "--net", "--", sys.executable, "-m", "bench.many_peers", str(peers), "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return {what: value for what, value in found.items() if what != "peers"}


def show(console: Console, sections: dict[str, dict[str, float]]) -> None:
    """One table."""
    table = Table(title="A large cluster, by the agents' own decisions")
    table.add_column("what")
    table.add_column("value", justify="right")
    for title, rows in sections.items():
        table.add_row(f"[bold]{title}[/]", "")
        for what, value in rows.items():
            shown = f"{value:,.0f}" if float(value).is_integer() or value >= 1000 else f"{value:,.3g}"
            table.add_row(f"  {what}", shown)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
