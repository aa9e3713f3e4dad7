"""``python -m bench.outages``: pods come and go on three nodes over three members of etcd, while they fail.

Prints a table, writes ``bench/results/outages.json``. Every storm checks itself (tests/agent/storm): an address
that two pods have, a block with two owners, a journal, kernel, store or runtime that says something else than the
others, a pod that is not reached or an address that is lost ends the run with an error. What is refused and what
is late are no errors; they are counted.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.agent.storm.disasters import DISASTERS
from tests.agent.storm.network import network
from tests.agent.storm.storm import PEAK, Outcome, storm

RESULTS = Path(__file__).parent / "results"
#: Pods of each node at the end where a node is removed: the first one grows into what the removed one leaves.
_REMOVAL_PEAKS = (40, PEAK, 16)
#: Enough to run out of a spare block.
_LONG_PEAKS = (36, 36, 36)
_COLUMNS = (
    "what happens", "ADDs", "while it lasts", "refused, no agent", "refused, no address", "took > 1 s",
    "longest, s", "no ADD anywhere, s", "packets", "lost", "routes withdrawn", "all agree after, s",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.outages", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20, help="how long each storm lasts (default 20)")
    parser.add_argument("--only", choices=DISASTERS, action="append", help="only this storm; may be repeated")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("bench.outages: must run as root: it makes network namespaces", file=sys.stderr)
        return 1
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    rows = []
    for name in arguments.only or DISASTERS:
        console.print(f"{name} …")
        with tempfile.TemporaryDirectory() as folder, network(Path(folder)) as made:
            peaks = _REMOVAL_PEAKS if "removed" in name else _LONG_PEAKS if "long" in name else ()
            rows.append(_row(name, storm(made, [DISASTERS[name]], arguments.seconds, peaks=peaks)))
    report = {
        "kernel": platform.release(), "cores": os.cpu_count(), "finished": time.time(),
        "seconds": arguments.seconds, "rows": rows,
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "outages.json").write_text(json.dumps(report, indent=2) + "\n")
    _show(console, rows, arguments.seconds)
    console.print(f"written: {RESULTS / 'outages.json'}")
    return 0


def _row(name: str, outcome: Outcome) -> dict[str, Any]:
    without_agent = sum("no agent answers" in call.refused for call in outcome.refused)
    values = (
        name, len(outcome.made), len(outcome.while_struck), without_agent, len(outcome.refused) - without_agent,
        len(outcome.late), round(outcome.longest, 1), round(outcome.pause, 1),
        sum(item.sent for item in outcome.pings), outcome.lost, sum(map(len, outcome.withdrawn.values())),
        round(outcome.agreed_after, 1),
    )  # fmt: skip
    return dict(zip(_COLUMNS, values, strict=True))


def _show(console: Console, rows: list[dict[str, Any]], seconds: float) -> None:
    table = Table(
        title=f"three nodes, two calls at a time each, {seconds:g} s; most are struck after a fifth, healed after "
        "three fifths",
        title_justify="left",
    )
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column == _COLUMNS[0] else "right")
    for row in rows:
        table.add_row(*map(str, row.values()))
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
