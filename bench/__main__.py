"""``python -m bench``: run the measurements, print a table, write ``bench/results/latest.json``."""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import agent, attach, lab, plugins, policy, runtime, traffic

RESULTS = Path(__file__).parent / "results"
SECTIONS: dict[str, Callable[[lab.BenchLab, int], list[dict[str, Any]]]] = {
    "attach": attach.measure,
    "storm": attach.storm,
    "plugins": plugins.measure,
    "traffic": traffic.measure,
    "agent": agent.measure,
    "policy": policy.measure,
    "runtime": runtime.measure,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], help="what to measure (default: all)")
    parser.add_argument("--rounds", type=int, default=100, help="ADD and DEL of each peer (default 100)")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("bench: must run as root: it makes network namespaces", file=sys.stderr)
        return 1
    rows: list[dict[str, Any]] = []
    console = Console()
    if not console.is_terminal:
        console = Console(width=130)
    with lab.BenchLab() as bench_lab:
        for name in arguments.sections or SECTIONS:
            console.print(f"measuring {name} …", highlight=False)
            rows += SECTIONS[name](bench_lab, arguments.rounds)
    report = {"kernel": platform.release(), "cores": os.cpu_count(), "finished": time.time(), "rows": rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "latest.json").write_text(json.dumps(report, indent=2) + "\n")
    table = Table(title="Weft against its peers, one run")
    for column in ("what", "unit", "weft", "peer", "peer is", "weft / peer", "aim"):
        table.add_column(column, justify="right" if column in ("weft", "peer", "weft / peer") else "left")
    for row in rows:
        peer = row.get("peer")
        ratio = f"{row['weft'] / peer:.3f}" if peer else ""
        table.add_row(
            row["what"],
            row["unit"],
            f"{row['weft']:.2f}",
            f"{peer:.2f}" if peer else "",
            row.get("peer is", ""),
            ratio,
            row.get("aim", ""),
        )
    console.print(table)
    console.print(f"written: {RESULTS / 'latest.json'}", highlight=False)
    return 0


sys.exit(main())
