"""The configuration by which a runtime finds ``weave-net``."""

import json
import os
from pathlib import Path

from weft.cni.capabilities import POD_ANNOTATIONS
from weft.plugins.main.weave_settings import TYPE

CONFIG_FILE = "10-weave.conflist"


def write_configuration(folder: Path, hairpin: bool) -> None:
    """Write the CNI configuration whole or not at all, last of all things; one that is there is kept.

    1.0.0 is the version that runtimes without ``cniVersions`` read: older containerd refuses 1.1.0.
    """
    path = folder / CONFIG_FILE
    if path.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "cniVersion": "1.0.0",
        "cniVersions": ["1.0.0", "1.1.0"],
        "name": "weave",
        "plugins": [
            {"type": TYPE, "hairpinMode": hairpin, "capabilities": {POD_ANNOTATIONS: True}},
            {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
        ],
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w") as file:
        file.write(json.dumps(content, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
