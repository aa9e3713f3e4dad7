"""The lab's etcd: one member in the underlay's namespace, at the address of the nodes' gateway.

Started as ``python -m weft.lab.etcd LAB-FOLDER ADDRESS`` by ``weft.lab.service``.
"""

import os
import platform
import shutil
import sys
import time
from pathlib import Path

from weft.lab import service
from weft.lab.state import LabState
from weft.lab.topology import LabError, Settings

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
    log = lab.service_log("etcd")
    said = log.stat().st_size if log.exists() else 0
    command = [sys.executable, "-m", "weft.lab.etcd", str(lab.folder), str(lab.settings.gateway.ip)]
    service.start(lab, "etcd", command)
    deadline = time.monotonic() + READY_TIMEOUT
    while _READY not in _after(log, said):
        if not lab.services["etcd"].alive or time.monotonic() > deadline:
            lines = _after(log, said).splitlines()
            raise LabError(f"etcd does not start: {lines[-1] if lines else 'no word from it'} (see {log})")
        time.sleep(0.02)


def main(lab_folder: str, address: str) -> None:
    """Become etcd."""
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
    os.execvp("etcd", command)  # noqa: S606


def _after(log: Path, size: int) -> str:
    try:
        return log.read_bytes()[size:].decode(errors="replace")
    except FileNotFoundError:
        return ""


if __name__ == "__main__":
    main(*sys.argv[1:])
