"""What an idle agent costs: memory and processor time."""

import os
import statistics
import time
from pathlib import Path
from typing import Any

from bench.lab import LAB

_SECONDS = 10.0


def measure(lab: Any, rounds: int) -> list[dict[str, Any]]:
    """Rows: resident and proportional memory of the largest agent, processor time while nothing happens."""
    pids = agents()
    before = {pid: _ticks(pid) for pid in pids}
    time.sleep(_SECONDS)
    used = [(_ticks(pid) - before[pid]) / os.sysconf("SC_CLK_TCK") / _SECONDS * 100 for pid in pids]
    return [
        {"what": "agent, resident memory", "unit": "MiB", "weft": max(map(_resident, pids)), "aim": "< 50"},
        {"what": "agent, proportional memory", "unit": "MiB", "weft": max(map(_proportional, pids))},
        {"what": f"agent, idle for {_SECONDS:.0f} s", "unit": "% of a core", "weft": statistics.mean(used)},
    ]


def agents() -> list[int]:
    """Process IDs of the lab's agents."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
            root = str((path.parent / "ns/net").readlink())
        except OSError:
            continue
        if b"agent" in words and any(word.endswith(b"weft") for word in words) and root in _namespaces():
            found.append(int(path.parent.name))
    return found


def _namespaces() -> set[str]:
    return {f"net:[{path.stat().st_ino}]" for path in Path("/run/netns").glob(f"{LAB}-*")}


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _resident(pid: int) -> float:
    return _kibibytes(Path(f"/proc/{pid}/status"), "VmRSS:") / 1024


def _proportional(pid: int) -> float:
    return _kibibytes(Path(f"/proc/{pid}/smaps_rollup"), "Pss:") / 1024


def _kibibytes(path: Path, label: str) -> float:
    return float(next(line for line in path.read_text().splitlines() if line.startswith(label)).split()[1])
