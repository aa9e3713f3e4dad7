"""Processes of the lab itself, beside its nodes: in the underlay's namespace, started again when they die.

Run as ``python -m weft.lab.service NAME LOG COMMAND…``.
"""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from weft.lab import network
from weft.lab.state import LabState, Process
from weft.lab.supervisor import Supervisor
from weft.lab.topology import underlay_namespace

#: Settings of an agent or a plugin in the caller's environment are not meant for the lab.
_NOT_INHERITED = ("WEFT_", "WEAVE_", "IPALLOC_", "CNI_", "HAIRPIN_MODE")


def start(lab: LabState, name: str, command: list[str]) -> None:
    """Start a process of the lab, and write down which it is."""
    namespace = network.NAMESPACES / underlay_namespace(lab.settings.name)
    process = subprocess.Popen(
        ["nsenter", f"--net={namespace}", "--",
         sys.executable, "-m", "weft.lab.service", name, str(lab.service_log(name)), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=environment(),
    )  # fmt: skip
    lab.services[name] = Process.of(process.pid)
    lab.write()


def environment() -> dict[str, str]:
    """What the lab's processes inherit of the caller's environment."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}


def main(name: str, log: str, *command: str) -> int:
    """Keep the process running until SIGTERM."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stopping.set())
    with Path(log).open("ab") as file:
        Supervisor(list(command), file.fileno(), name).run(stopping)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
