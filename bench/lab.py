"""The lab that is measured, and the network set up by hand beside it."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

LAB = f"weft-bench{os.getpid()}"
WEFT = (sys.executable, "-m", "weft")
RANGE = "10.244.0.0/16"


def run(*command: str, stdin: str | None = None) -> str:
    """Run a command to its end; its output. Raises CalledProcessError with what it said."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


class BenchLab:
    """Two nodes with two pods each, in a lab of their own name."""

    def __enter__(self) -> Self:
        run(*WEFT, "lab", "up", "--lab", LAB, "--nodes", "2", "--pods-per-node", "2", "--range", RANGE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        run(*WEFT, "lab", "down", "--lab", LAB)

    def node(self, name: str, *command: str) -> Sequence[str]:
        """The command as it is run on a node."""
        return (*WEFT, "lab", "exec", "--lab", LAB, name, "--", *command)

    def pods(self) -> list[dict[str, Any]]:
        """The lab's pods: name, node, address, namespace."""
        pods: list[dict[str, Any]] = json.loads(run(*WEFT, "lab", "pods", "--lab", LAB, "-o", "json"))
        return pods

    def namespace(self, name: str) -> str:
        """The name of a node's or pod's namespace for ``ip netns exec``."""
        return f"{LAB}-{name}"


def netns(name: str, *command: str) -> Sequence[str]:
    """The command inside a named namespace."""
    return ("nsenter", f"--net={Path('/run/netns') / name}", "--", *command)
