"""What a node has of pods that are processes of the machine: their namespaces in sight."""

import subprocess
from pathlib import Path


class SharedNamespaces:
    """``base.NodeSide``. ``/run/netns`` stays a slave of the machine's: a namespace made later appears, too."""

    def lay(self, lab_folder: Path, folder: Path) -> None:
        namespaces = folder / "run" / "netns"
        namespaces.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "--rbind", "/run/netns", namespaces], check=True)

    def program(self) -> list[str] | None:
        return None
