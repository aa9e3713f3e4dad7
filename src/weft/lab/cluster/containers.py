"""Runs containers with runc, the runtime that containerd and CRI-O run them with."""

import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: In a node: where runc and the kubelet keep what they need while containers run.
FOLDER = Path("/run/weft-lab")
LOGS = FOLDER / "logs"
_STATE = FOLDER / "runc"
#: Seconds for a command of runc's.
_TIMEOUT = 30.0
#: Seconds for processes that were killed to let go of their control groups.
_RELEASE_TIMEOUT = 5.0
CGROUPS = Path("/sys/fs/cgroup")


class CannotRun(Exception):
    """runc is not there or refuses; the message says why."""


class Container:
    """One container that runs, or has run."""

    def __init__(self, name: str, config: dict[str, Any], log: Path) -> None:
        """Start it. Raises CannotRun."""
        self.name = name
        self._bundle = FOLDER / "bundles" / name
        self._bundle.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._bundle / "config.json").write_text(json.dumps(config))
        remove(name)
        LOGS.mkdir(mode=0o755, parents=True, exist_ok=True)
        with log.open("ab") as said:
            try:
                self._process = subprocess.Popen(
                    _runc("run", "--bundle", str(self._bundle), name),
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    start_new_session=True,
                )
            except FileNotFoundError:
                raise CannotRun("runc is not installed here: 'apt-get install runc'") from None

    @property
    def status(self) -> int | None:
        """Its exit status, None while it runs."""
        return self._process.poll()

    def stop(self, grace: float) -> None:
        """End it, with so many seconds to do so by itself, and remove what it left."""
        if self._process.poll() is None:
            _quietly("kill", self.name, "TERM")
            try:
                self._process.wait(grace)
            except subprocess.TimeoutExpired:
                _quietly("kill", self.name, "KILL")
        remove(self.name)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_TIMEOUT)
        shutil.rmtree(self._bundle, ignore_errors=True)


def remove(name: str) -> None:
    """Kill and forget a container, whoever started it."""
    _quietly("delete", "--force", name)


def remove_all() -> None:
    """Kill and forget what an earlier run left."""
    if _STATE.exists():
        for folder in _STATE.iterdir():
            remove(folder.name)
    shutil.rmtree(FOLDER / "bundles", ignore_errors=True)


def full_name(node: str, pod: str, container: str) -> str:
    """How runc knows a pod's container: its state is one folder for all nodes of some labs."""
    return f"{node}.{pod}.{container}"


def log_name(namespace: str, pod: str, container: str) -> str:
    """The file among ``LOGS`` with what a container says."""
    return f"{namespace}_{pod}_{container}.log"


def execute(name: str, words: Sequence[str], *, tty: bool) -> list[str]:
    """The command that runs words in a container, from within its node."""
    return _runc("exec", *(["--tty"] if tty else []), name, *words)


def cgroup(lab: str, name: str) -> str:
    """The path of a control group, of one level, so that runc removes all that it made."""
    return f"/weft-lab.{lab}.{name}"


def remove_cgroups(lab: str) -> None:
    """Remove the control groups of a lab whose processes were killed: those hold them for a moment yet."""
    deadline = time.monotonic() + _RELEASE_TIMEOUT
    while found := [*CGROUPS.glob(f"weft-lab.{lab}.*"), *CGROUPS.glob(f"*/weft-lab.{lab}.*")]:
        for folder in found:
            for inner in (*folder.glob("*/"), folder):
                with contextlib.suppress(OSError):
                    inner.rmdir()
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)


def _runc(*words: str) -> list[str]:
    return ["runc", "--root", str(_STATE), *words]


def _quietly(*words: str) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired, FileNotFoundError):
        subprocess.run(_runc(*words), capture_output=True, check=False, timeout=_TIMEOUT)
