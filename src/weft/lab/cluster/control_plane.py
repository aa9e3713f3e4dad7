"""The lab's API server as a process: ``python -m weft.lab.cluster.control_plane LAB-FOLDER ADDRESS``.

Started in the underlay's namespace. Objects outlive it, in ``LAB-FOLDER/api``; clients of the lab itself use a
Unix socket there, all others TLS on ADDRESS.
"""

import contextlib
import datetime
import logging
import os
import signal
import ssl
import sys
import threading
import time
from pathlib import Path

from weft.lab import service
from weft.lab.api import ApiServer
from weft.lab.api.errors import ApiError
from weft.lab.api.journal import Journal
from weft.lab.api.kinds import KINDS
from weft.lab.api.rbac import RoleBasedAccess
from weft.lab.api.storage import Object, Selection, Storage
from weft.lab.cluster import daemonsets, objects, scheduler
from weft.lab.cluster.access import make_certificate, write_kubeconfig
from weft.lab.cluster.admission import admit
from weft.lab.cluster.inside import Inside
from weft.lab.cluster.lab_pods import LabPods
from weft.lab.cluster.manifests import now, ready_condition
from weft.lab.state import LabState

_log = logging.getLogger(__name__)

PORT = 6443
#: Seconds after which a node that says nothing is not ready, as in Kubernetes; and between two looks.
SILENCE = 40.0
LOOK_INTERVAL = 2.0
#: Seconds between two looks at whether anything was written.
CONTROL_INTERVAL = 0.1
#: Where the kubeconfig is in the folder that all nodes see.
KUBECONFIG = "kubeconfig"
_NODE = next(kind for kind in KINDS if kind.name == "Node")


def start(lab: LabState) -> None:
    """Start it and wait until it answers. Raises LabError."""
    address = str(lab.settings.gateway.ip)
    service.start(lab, "api", [sys.executable, "-m", "weft.lab.cluster.control_plane", str(lab.folder), address])
    objects.await_server(lab)


def main(lab_folder: str, address: str) -> int:
    """Serve until SIGTERM. The socket appears when all else is there."""
    os.chdir("/")  # where commands in pods begin
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stopping.set())
    folder = Path(lab_folder) / "api"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    storage = Storage(Journal(folder / "objects.jsonl"), kubelets=True)
    certificate, key = make_certificate(folder, address)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    public = ApiServer(
        (address, PORT),
        storage=storage,
        tls=tls,
        authorize=RoleBasedAccess(storage),
        admit=admit,
        pods=Inside(Path(lab_folder).name, storage),
    )
    public.start()
    write_kubeconfig(Path(lab_folder) / "store" / KUBECONFIG, public.url, certificate)
    (folder / objects.SOCKET).unlink(missing_ok=True)
    before = os.umask(0o177)
    own = ApiServer(str(folder / objects.SOCKET), storage=storage, admit=admit)
    os.umask(before)
    own.start()
    # It may have to wait for a command of the lab's: what it has begun, the next one goes on with.
    lab_pods = LabPods(Path(lab_folder).name, storage, stopping)
    threading.Thread(target=lab_pods.run, name="pods", daemon=True).start()
    seen, looked = 0, 0.0
    while not stopping.wait(CONTROL_INTERVAL):
        if storage.version != seen or time.monotonic() > looked + LOOK_INTERVAL:
            seen, looked = storage.version, time.monotonic()
            control(storage)
    own.stop()
    public.stop()
    return 0


def control(storage: Storage) -> None:
    """Do what a cluster's controllers do, as far as a lab has them. Nothing that fails ends the server."""
    for controller in (mark_silent_nodes, daemonsets.reconcile, scheduler.bind_pods):
        try:
            controller(storage)
        except Exception:
            _log.exception("controller %s", controller.__name__)


def mark_silent_nodes(storage: Storage) -> None:
    """Say that a node is not heard of, as Kubernetes' node lifecycle controller does."""
    for node in storage.list(Selection(_NODE))[0]:
        for condition in node["status"].get("conditions") or []:
            if condition["type"] == "Ready" and condition["status"] != "Unknown":
                heard = datetime.datetime.fromisoformat(condition["lastHeartbeatTime"])
                if (datetime.datetime.now(datetime.UTC) - heard).total_seconds() > SILENCE:
                    _mark(storage, node["metadata"]["name"], condition)


def _mark(storage: Storage, node: str, heard: dict[str, str]) -> None:
    unknown = ready_condition(None, now()) | {"lastHeartbeatTime": heard["lastHeartbeatTime"]}

    def edit(item: Object) -> Object:
        others = [one for one in item["status"]["conditions"] if one["type"] != "Ready"]
        item["status"]["conditions"] = [*others, unknown]
        return item

    with contextlib.suppress(ApiError):  # it has just been deleted
        storage.change(_NODE, "", node, edit, status=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
