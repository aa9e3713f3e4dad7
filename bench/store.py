"""``python -m bench.store``: what a store costs, and what three members of etcd do when one of them fails.

The storms check themselves (tests/store/storm.py): a block with two owners, a claim that is lost or an event that
is not told ends the run with an error. Neither refused calls nor delays are errors; they are what is counted.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.store.engines import ENGINES
from tests.store.etcd import end_shared_etcd
from tests.store.faults import FAULTS, Fault
from tests.store.storm import storm
from tests.store.trio import Trio, trio
from weft.store import open_store

_CLAIMS = 500


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.store", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="how long each storm lasts (default 10)")
    seconds: float = parser.parse_args().seconds
    if os.geteuid() != 0:
        print("bench.store: must run as root: it makes network namespaces", file=sys.stderr)
        return 1
    console = Console(width=None if sys.stdout.isatty() else 130, highlight=False)
    console.print(_costs())
    console.print(_storms(seconds))
    return 0


def _costs() -> Table:
    table = Table(title=f"one client, nobody else; {_CLAIMS} blocks", title_justify="left")
    for column in ("engine", "claim, ms (median)", "p95", "a listing of all, ms"):
        table.add_column(column, justify="left" if column == "engine" else "right")
    for name in ("sqlite", "etcd"):
        with tempfile.TemporaryDirectory() as folder, ENGINES[name](Path(folder)) as engine:
            with closing(open_store(engine.url)) as store:
                value = b'{"owner":"node01"}'
                keys = [f"blocks/{number}" for number in range(_CLAIMS)]
                claims = [_timed(partial(store.create, key, value)) for key in keys]
                listings = [_timed(partial(store.entries, "")) for _ in range(10)]
            table.add_row(
                name,
                f"{statistics.median(claims):.2f}",
                f"{statistics.quantiles(claims, n=20)[-1]:.2f}",
                f"{statistics.median(listings):.1f}",
            )
    end_shared_etcd()
    return table


def _timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return (time.perf_counter() - begun) * 1000


def _storms(seconds: float) -> Table:
    table = Table(
        title=f"six clients claim for {seconds:g} s; struck after a fifth, healed after three fifths",
        title_justify="left",
    )
    for column in (
        "what happens",
        "claims",
        "refused calls",
        "settled after > 1 s",
        "longest, s",
        "nobody claims, s",
    ):
        table.add_column(column, justify="left" if column == "what happens" else "right")
    with trio() as three:
        for name, fault in {"nothing": _nothing, **FAULTS}.items():
            strike, heal = fault(three)
            outcome = storm(three, seconds, strike, heal)
            three.await_whole()
            table.add_row(
                name,
                str(outcome.claims),
                str(outcome.refused),
                str(outcome.delayed),
                f"{outcome.longest:.1f}",
                f"{outcome.pause:.1f}",
            )
    return table


def _nothing(three: Trio) -> Fault:
    return (lambda: None), (lambda: None)


if __name__ == "__main__":
    sys.exit(main())
