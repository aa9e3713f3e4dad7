"""The first process of a node: private folders, the launcher, and an agent that is started again when it dies.

Started as ``nsenter --net=… unshare --mount --uts -- python -m weft.lab.node LAB-FOLDER NODE AGENT-OPTION…``.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

#: Seconds before a dead agent is started again: at first, and at most.
SHORTEST_PAUSE = 0.1
LONGEST_PAUSE = 2.0
#: Seconds that an agent gets to stop.
STOP_TIMEOUT = 10.0
#: Where a node sees the lab's store.
STORE = "/var/lib/weft-store"


def main(lab_folder: str, node: str, *options: str) -> int:
    """Be a node until SIGTERM."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stopping.set())
    socket.sethostname(node)
    folder = Path(lab_folder) / "nodes" / node
    log_path = folder / "agent.log"
    # Opened while it can be seen: the folder hides behind the private /var/lib.
    with log_path.open("ab") as log:
        make_private(Path(lab_folder), folder)
        subprocess.run([sys.executable, "-m", "weft", "cni", "install"], check=True, stdout=log, stderr=log)
        supervise([sys.executable, "-m", "weft", "agent", "--node-name", node, *options], log.fileno(), stopping)
    return 0


def make_private(lab_folder: Path, folder: Path) -> None:
    """Lay the node's own folders over the machine's, and keep the machine's namespaces in sight.

    ``/run/netns`` stays a slave of the machine's: a pod's namespace that is made later appears here, too.
    """
    for name in ("etc-cni", "opt-cni", "var-lib", "run", "run/netns", "var-lib/weft-store"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    mount = ["mount", "--rbind"]
    subprocess.run([*mount, "/run/netns", folder / "run" / "netns"], check=True)
    subprocess.run(["mount", "--bind", lab_folder / "store", folder / "var-lib" / "weft-store"], check=True)
    for name, place in (
        ("etc-cni", "/etc/cni"),
        ("opt-cni", "/opt/cni"),
        ("run", "/run"),
        ("var-lib", "/var/lib"),
    ):
        subprocess.run([*mount, folder / name, place], check=True)


def supervise(command: list[str], log: int, stopping: threading.Event, what: str = "agent") -> None:
    """Run a program, and run it again when it ends, until told to stop; then stop it."""
    pause = SHORTEST_PAUSE
    while not stopping.is_set():
        begun = time.monotonic()
        program = subprocess.Popen(command, stdout=log, stderr=log)
        while program.poll() is None and not stopping.wait(0.05):
            pass
        if stopping.is_set():
            program.terminate()
            try:
                program.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()
            return
        pause = SHORTEST_PAUSE if time.monotonic() - begun > 10 else min(2 * pause, LONGEST_PAUSE)
        os.write(log, f"{what} ended with status {program.returncode}; starting it again\n".encode())
        stopping.wait(pause)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
