"""containerd as a node has it: its configuration, its folders, the words that start it."""

import shutil
import subprocess
from pathlib import Path

from weft.lab.runtimes.containerd.image import NAME

#: On the node, and on any other: where containerd listens.
SOCKET = Path("/run/containerd/containerd.sock")
#: On the node: what its pods have of files.
PODS = Path("/var/lib/weft-pods")
#: A kernel has no overlay upon an overlay, such as the root of many a container.
_OVERLAY = "overlayfs"

_CONFIGURATION = """\
version = 2
# What a lab does not use, and what would write outside of the node's own folders.
disabled_plugins = [
  "io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  disable_apparmor = true
  # A lab may run where the score may not be lowered.
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "{snapshotter}"
  default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  BinaryName = "runc"
  SystemdCgroup = false
"""


class Daemon:
    """``base.NodeSide``. A node that starts is a machine that boots: its ``/run`` is empty, what ran is over."""

    def lay(self, lab_folder: Path, folder: Path) -> None:
        shutil.rmtree(folder / "run", ignore_errors=True)
        configuration = _in(folder / "run", SOCKET.with_name("config.toml"))
        configuration.parent.mkdir(mode=0o711, parents=True)
        configuration.write_text(_CONFIGURATION.format(image=NAME, snapshotter=_snapshotter(folder)))
        pods = folder / "var-lib" / PODS.name
        pods.mkdir(parents=True, exist_ok=True)
        (lab_folder / "pods").mkdir(mode=0o700, exist_ok=True)
        subprocess.run(["mount", "--bind", lab_folder / "pods", pods], check=True)

    def program(self) -> list[str] | None:
        return ["containerd", "--config", str(SOCKET.with_name("config.toml"))]


def socket_of(folder: Path) -> Path:
    """Where a node's containerd listens, seen from outside; ``folder`` has the node's private ones."""
    return _in(folder / "run", SOCKET)


def _in(run: Path, path: Path) -> Path:
    return run / path.relative_to("/run")


def _snapshotter(folder: Path) -> str:
    """How containers' file systems are laid upon their image."""
    asked = ["stat", "--file-system", "--format", "%T", str(folder)]
    kind = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    return "native" if kind == _OVERLAY else "overlayfs"
