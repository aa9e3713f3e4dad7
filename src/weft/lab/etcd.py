"""The lab's etcd: one member in the underlay's namespace, at the address of the nodes' gateway.

Started as ``nsenter --net=… python -m weft.lab.etcd LAB-FOLDER ADDRESS``; started again when it dies.
"""

import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from weft.lab import network
from weft.lab.node import supervise
from weft.lab.state import LabState, Process
from weft.lab.topology import LabError, Settings, underlay_namespace

PORT = 2379
#: Seconds for etcd to serve.
READY_TIMEOUT = 30.0
#: How long etcd remembers changes that a watch may ask for.
_RETENTION = "1h"
#: What etcd says when it serves.
_READY = "ready to serve client requests"


def url(settings: Settings) -> str:
    """What the lab's agents take as ``--store``."""
    return f"etcd://{settings.gateway.ip}:{PORT}/weft"


def require() -> None:
    """Raise LabError where etcd is not installed."""
    if shutil.which("etcd") is None:
        raise LabError("etcd is not installed: run 'apt-get install etcd-server', or leave out --store etcd")


def start(lab: LabState) -> None:
    """Start it and wait until it serves. Raises LabError."""
    log = lab.etcd_log
    said = log.stat().st_size if log.exists() else 0
    namespace = network.NAMESPACES / underlay_namespace(lab.settings.name)
    process = subprocess.Popen(
        ["nsenter", f"--net={namespace}", "--",
         sys.executable, "-m", "weft.lab.etcd", str(lab.folder), str(lab.settings.gateway.ip)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    lab.etcd = Process.of(process.pid)
    lab.write()
    deadline = time.monotonic() + READY_TIMEOUT
    while _READY not in _after(log, said):
        if not lab.etcd.alive or time.monotonic() > deadline:
            lines = _after(log, said).splitlines()
            raise LabError(f"etcd does not start: {lines[-1] if lines else 'no word from it'} (see {log})")
        time.sleep(0.02)


def main(lab_folder: str, address: str) -> int:
    """Keep etcd running until SIGTERM."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stopping.set())
    # The settings of another etcd in the caller's environment are not meant for the lab.
    for name in [name for name in os.environ if name.startswith(("ETCD_", "ETCDCTL_"))]:
        del os.environ[name]
    if platform.machine() == "aarch64":
        os.environ["ETCD_UNSUPPORTED_ARCH"] = "arm64"  # etcd 3.4 wants to be asked
    clients, peers = f"http://{address}:{PORT}", "http://127.0.0.1:2380"
    command = [
        "etcd", "--name", "lab", "--data-dir", str(Path(lab_folder) / "etcd"),
        "--listen-client-urls", clients, "--advertise-client-urls", clients,
        "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", f"lab={peers}",
        "--auto-compaction-retention", _RETENTION,
    ]  # fmt: skip
    with (Path(lab_folder) / "etcd.log").open("ab") as log:
        supervise(command, log.fileno(), stopping, what="etcd")
    return 0


def _after(log: Path, size: int) -> str:
    try:
        return log.read_bytes()[size:].decode(errors="replace")
    except FileNotFoundError:
        return ""


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
