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
from pathlib import Path

from weft.lab import runtimes
from weft.lab.supervisor import Supervisor

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


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
