"""The configuration by which a runtime finds ``weave-net``, and whether it is the one that runtimes take."""

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any

from weft.cni.capabilities import POD_ANNOTATIONS
from weft.cni.configuration import LARGEST, configuration_files, decode_object
from weft.cni.errors import CniError
from weft.plugins.files import write_kept
from weft.plugins.main.weave_settings import TYPE
from weft.troubles import Concern, Troubles

CONFIG_FILE = "10-weave.conflist"
_NETWORK = "weave"
#: Seconds between two looks at the folder.
LOOK_INTERVAL = 3.0
#: Keys by which Multus names the network that it calls for every pod.
_NAMING = ("clusterNetwork", "defaultNetworks")


def is_configured(folder: Path) -> bool:
    """Whether there is a configuration already, which is kept."""
    return (folder / CONFIG_FILE).exists()


def write_configuration(folder: Path, hairpin: bool) -> None:
    """Write the CNI configuration whole or not at all, last of all things; one that is there is kept.

    1.0.0 is the version that runtimes without ``cniVersions`` read: older containerd refuses 1.1.0.
    """
    if is_configured(folder):
        return
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "cniVersion": "1.0.0",
        "cniVersions": ["1.0.0", "1.1.0"],
        "name": _NETWORK,
        "plugins": [
            {"type": TYPE, "hairpinMode": hairpin, "capabilities": {POD_ANNOTATIONS: True}},
            {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
        ],
    }
    write_kept(folder / CONFIG_FILE, json.dumps(content, indent=2).encode() + b"\n", mode=0o644)


def shadowing(folder: Path) -> Path | None:
    """The file that runtimes take in place of ours: the first of the folder, unless it leads to this plugin.

    None where there is no such file. Raises OSError.
    """
    first = next(iter(configuration_files(folder)), None)
    if first is None or first.name == CONFIG_FILE or _leads_here(first):
        return None
    return first


class ConfigurationWatch:
    """Looks every few seconds whether another CNI's configuration sorts before ours, and says so: once in the log,
    as a trouble, and to ``tell``, which gets what is to be mended, or nothing when all is well."""

    def __init__(self, folder: Path, troubles: Troubles, tell: Callable[[str], None]) -> None:
        self._folder = folder
        self._tell = tell
        self._concern: Concern = troubles.about(
            "runtimes take another CNI's configuration", f"runtimes take {CONFIG_FILE} again"
        )

    def look(self) -> None:
        """Look once."""
        try:
            other = shadowing(self._folder)
        except OSError as error:
            self._concern.note(f"{self._folder}: {error.strerror}", "which one they take is not known")
            return
        if other is None:
            self._concern.over()
            self._tell("")
            return
        why = f"{other} sorts before {CONFIG_FILE}: remove it, or rename it so that it sorts behind"
        self._concern.note(why, "new pods get no address of this network; the file is left alone")
        self._tell(why)

    def run(self, stopping: threading.Event) -> None:
        """Look until told to stop."""
        while not stopping.wait(LOOK_INTERVAL):
            self.look()


def _leads_here(path: Path) -> bool:
    """Whether a configuration calls this plugin, by itself or through another that delegates (Multus)."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return _mentions(decode_object(file.read(LARGEST + 1)))
    except (OSError, CniError):
        # A runtime that cannot read it goes no further, or leaves it out: it may be half written. The next look
        # tells.
        return False


def _mentions(value: Any, key: str = "") -> bool:
    if isinstance(value, Mapping):
        return any(_mentions(item, str(name)) for name, item in value.items())
    if isinstance(value, list):
        return any(_mentions(item, key) for item in value)
    if not isinstance(value, str):
        return False
    named = key in _NAMING and value == _NETWORK
    return named or (key == "type" and value == TYPE) or PurePath(value).name == CONFIG_FILE
