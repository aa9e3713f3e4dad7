"""The first process of a node: private folders, the launcher, and an agent that is started again when it dies.

In a lab with an API server it is the node's kubelet too.

Started as ``nsenter --net=… unshare --mount --uts -- python -m weft.lab.node LAB-FOLDER NODE RUNTIME
AGENT-OPTION…``.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from weft.lab import runtimes

#: Seconds before a dead agent is started again: at first, and at most.
SHORTEST_PAUSE = 0.1
LONGEST_PAUSE = 2.0
#: Seconds that an agent gets to stop.
STOP_TIMEOUT = 10.0
#: Where a node sees the lab's store.
STORE = "/var/lib/weft-store"


def main(lab_folder: str, node: str, runtime: str, *options: str) -> int:
    """Be a node until SIGTERM."""
    if os.getpid() == 1:
        be_init()
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stopping.set())
    socket.sethostname(node)
    folder = Path(lab_folder) / "nodes" / node
    log_path = folder / "agent.log"
    # Opened while it can be seen: the folder hides behind the private /var/lib.
    with log_path.open("ab") as log, (folder / f"{runtime}.log").open("ab") as runtime_log:
        side = runtimes.on_node(runtime)
        side.lay(Path(lab_folder), folder)
        make_private(Path(lab_folder), folder)
        subprocess.run([sys.executable, "-m", "weft", "cni", "install"], check=True, stdout=log, stderr=log)
        agent = Supervisor([sys.executable, "-m", "weft", "agent", "--node-name", node, *options], log.fileno())
        kubeconfig = Path(STORE) / "kubeconfig"
        if kubeconfig.exists():  # the lab has an API server
            from weft.lab.cluster.kubelet import Kubelet  # noqa: PLC0415

            logging.basicConfig(stream=sys.stderr, format="kubelet: %(message)s")
            os.dup2(log.fileno(), 2)
            kubelet = Kubelet(Path(lab_folder).name, node, Path(STORE), agent, stopping)
            thread = threading.Thread(target=kubelet.run, name="kubelet")
            thread.start()
        program = side.program()
        if program is not None:
            beside = Supervisor(program, runtime_log.fileno(), runtime)
            threading.Thread(target=beside.run, args=(stopping,), name=runtime).start()
        agent.run(stopping)
    return 0


def be_init() -> None:
    """Go on as a child. The first process of a PID namespace is left with everybody's orphans, and buries them."""
    child = os.fork()
    if child == 0:
        return
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: os.kill(child, number))
    while True:
        ended, status = os.wait()
        if ended == child:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def make_private(lab_folder: Path, folder: Path) -> None:
    """Lay the node's own folders over the machine's."""
    for name in ("etc-cni", "opt-cni", "var-lib", "run", "var-lib/weft-store"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "--bind", lab_folder / "store", folder / "var-lib" / "weft-store"], check=True)
    for name, place in (
        ("etc-cni", "/etc/cni"),
        ("opt-cni", "/opt/cni"),
        ("run", "/run"),
        ("var-lib", "/var/lib"),
    ):
        subprocess.run(["mount", "--rbind", folder / name, place], check=True)


class Supervisor:
    """Runs a program, and runs it again when it ends."""

    def __init__(self, command: list[str], log: int, name: str = "agent") -> None:
        self._command = command
        self._log = log
        self._name = name
        self._paused = threading.Event()
        self._ended = threading.Event()
        self._over = threading.Event()

    def run(self, stopping: threading.Event) -> None:
        """Keep it running until told to stop; then stop it."""
        pause = SHORTEST_PAUSE
        while not stopping.is_set():
            if self._paused.is_set():
                self._ended.set()
                stopping.wait(0.05)
                continue
            begun = time.monotonic()
            program = subprocess.Popen(self._command, stdout=self._log, stderr=self._log)
            while program.poll() is None and not (self._paused.is_set() or stopping.wait(0.05)):
                pass
            if program.returncode is None:
                end(program)
                continue
            pause = SHORTEST_PAUSE if time.monotonic() - begun > 10 else min(2 * pause, LONGEST_PAUSE)
            said = f"{self._name} ended with status {program.returncode}; starting it again\n"
            os.write(self._log, said.encode())
            stopping.wait(pause)
        self._over.set()

    def pause(self) -> None:
        """End the program until ``resume``; return when it has ended."""
        self._ended.clear()
        self._paused.set()
        while not (self._ended.wait(0.1) or self._over.is_set()):
            pass

    def resume(self) -> None:
        """Run the program again after ``pause``."""
        self._paused.clear()

    @property
    def paused(self) -> bool:
        """Whether it was told to pause."""
        return self._paused.is_set()


def end(program: "subprocess.Popen[bytes]") -> None:
    """Stop a program; kill it where it does not."""
    program.terminate()
    try:
        program.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        program.kill()
        program.wait()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
