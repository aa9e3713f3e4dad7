"""The objects on disk, a line per write: a server that is killed has all that it answered for.

Lines are ``{"version": N, "resource": PLURAL.GROUP, "namespace": …, "name": …, "object": … or null}``. What a
process wrote outlives it; a failure of power ends the lab anyway, so nothing waits for the disk.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from weft.lab.api.kinds import KINDS, Kind

Key = tuple[Kind, str, str]

#: Lines beyond those of the objects that there are, before the file is written anew.
_SPARE_LINES = 20_000
_BY_RESOURCE = {kind.resource: kind for kind in KINDS}


class _Line(msgspec.Struct, omit_defaults=True):
    version: int
    resource: str = ""
    namespace: str = ""
    name: str = ""
    object: dict[str, Any] | None = None


class Journal:
    """One file. Not for several processes at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = 0
        self._file = path.open("ab")

    def read(self) -> tuple[dict[Key, dict[str, Any]], int]:
        """The objects, and the newest version. A last line that was cut off was never answered for."""
        objects: dict[Key, dict[str, Any]] = {}
        version = 0
        for text in self._path.read_bytes().split(b"\n")[:-1]:
            line = msgspec.json.decode(text, type=_Line)
            version = max(version, line.version)
            if (kind := _BY_RESOURCE.get(line.resource)) is None:
                continue
            if line.object is None:
                objects.pop((kind, line.namespace, line.name), None)
            else:
                objects[(kind, line.namespace, line.name)] = line.object
        return objects, version

    def append(self, version: int, key: Key, item: Mapping[str, Any] | None) -> None:
        """Keep a write; None is a deletion."""
        self._file.write(_encoded(version, key, item))
        self._file.flush()
        self._lines += 1

    def shorten(self, objects: Mapping[Key, Mapping[str, Any]], version: int, *, always: bool = False) -> None:
        """Write the file anew, whole or not at all, where it holds much that is over."""
        if not always and self._lines < len(objects) + _SPARE_LINES:
            return
        temporary = self._path.with_suffix(".new")
        with temporary.open("wb") as file:
            file.write(msgspec.json.encode(_Line(version)) + b"\n")
            for key, item in objects.items():
                file.write(_encoded(int(item["metadata"]["resourceVersion"]), key, item))
        temporary.rename(self._path)
        self._file.close()
        self._file = self._path.open("ab")
        self._lines = len(objects)


def _encoded(version: int, key: Key, item: Mapping[str, Any] | None) -> bytes:
    kind, namespace, name = key
    line = _Line(version, kind.resource, namespace, name, None if item is None else dict(item))
    return msgspec.json.encode(line) + b"\n"
