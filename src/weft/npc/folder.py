"""A folder of Kubernetes manifests (Pod, Namespace, NetworkPolicy) as YAML or JSON, read as they change.

A file that cannot be read keeps what it said before: a slip of the pen opens nothing. A file named ``.revision``
names the state of the folder, for whoever wants to know when it is in force.
"""

import ctypes
import logging
import os
import select
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml

from weft.npc.source import Batch
from weft.policy.objects import Namespace, Pod, Policy
from weft.policy.parsing import ParseError, parse_namespace, parse_pod, parse_policy

_log = logging.getLogger(__name__)

REVISION = ".revision"
_SUFFIXES = (".yaml", ".yml", ".json")
#: Milliseconds between two looks at ``stopped``, and at a folder that the kernel tells nothing of.
_INTERVAL = 500
# inotify(7): IN_CLOSE_WRITE, IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE.
_EVENTS = 0x8 | 0x40 | 0x80 | 0x100 | 0x200
_PARSERS: dict[str, Callable[[Any], Pod | Namespace | Policy]] = {
    "Pod": parse_pod,
    "Namespace": parse_namespace,
    "NetworkPolicy": parse_policy,
}


@dataclass(frozen=True, slots=True)
class _File:
    """What a file said when it was last readable, and what is wrong with it now."""

    stamp: tuple[int, int, int]
    objects: tuple[Pod | Namespace | Policy, ...]
    problems: tuple[str, ...]


def documents(text: bytes, *, is_json: bool = False) -> list[Any]:
    """The objects of a manifest: documents of YAML, or JSON, with lists taken apart. Raises ValueError."""
    try:
        # Safe in either spelling: objects of plain types only.
        found = [msgspec.json.decode(text)] if is_json else list(yaml.load_all(text, yaml.CSafeLoader))
    except (yaml.YAMLError, msgspec.MsgspecError) as error:
        raise ValueError(" ".join(str(error).split())) from None
    result: list[Any] = []
    for document in found:
        if isinstance(document, list):
            result += document
        elif isinstance(document, dict) and isinstance(document.get("items"), list):
            result += document["items"]
        elif document is not None:
            result.append(document)
    return result


class FolderSource:
    """``weft.npc.source.Source`` of a folder, which may come into being later."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, _File] = {}

    @property
    def trouble(self) -> str:
        """A folder that cannot be read is one that is empty."""
        return ""

    def batches(self, stopped: Callable[[], bool]) -> Iterator[Batch]:
        """All there is, after every change of the folder."""
        last: Batch | None = None
        with _Watch(self._folder) as watch:
            while not stopped():
                batch = self.read()
                if batch != last:
                    last = batch
                    yield batch
                while not stopped() and not watch.changed():
                    pass

    def read(self) -> Batch:
        """What the folder says now."""
        # First, so that what is read afterwards is at least as new.
        revision = ""
        with suppress(OSError):
            revision = (self._folder / REVISION).read_text().strip()
        present: dict[str, _File] = {}
        with suppress(FileNotFoundError), os.scandir(self._folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.endswith(_SUFFIXES) and not entry.name.startswith("."):
                    present[entry.name] = self._read_file(entry)
        self._files = present
        objects = [item for file in present.values() for item in file.objects]
        return Batch(
            pods=tuple(item for item in objects if isinstance(item, Pod)),
            namespaces=tuple(item for item in objects if isinstance(item, Namespace)),
            policies=tuple(item for item in objects if isinstance(item, Policy)),
            whole=True,
            revision=revision,
            problems=tuple(problem for file in present.values() for problem in file.problems),
        )

    def _read_file(self, entry: "os.DirEntry[str]") -> _File:
        known = self._files.get(entry.name)
        stamp, objects, problems = (0, 0, 0), [], []
        try:
            status = entry.stat()
            stamp = status.st_mtime_ns, status.st_size, status.st_ino
            if known is not None and known.stamp == stamp:
                return known
            text = Path(entry.path).read_bytes()
            found = documents(text, is_json=entry.name.endswith(".json"))
        except (OSError, ValueError) as error:
            problem = f"{entry.name}: {error}"
            _log.error("%s: what it said before stays in force", problem)
            return _File(stamp, known.objects if known else (), (problem,))
        for document in found:
            try:
                objects.append(parse(document))
            except ParseError as error:
                problems.append(f"{entry.name}: {error}")
                _log.error("%s: %s", entry.name, error)
        return _File(stamp, tuple(objects), tuple(problems))


def parse(document: Any) -> Pod | Namespace | Policy:
    """An object of any kind that policies speak of. Raises ParseError."""
    kind = document.get("kind") if isinstance(document, dict) else None
    if kind not in _PARSERS:
        raise ParseError(f"kind {kind!r}: there are {', '.join(_PARSERS)}")
    return _PARSERS[kind](document)


class _Watch:
    """Tells when something in the folder has changed; where the kernel cannot tell, always."""

    def __init__(self, folder: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._folder = folder
        self._descriptor = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._watching = self._add()

    def _add(self) -> bool:
        if self._descriptor < 0:
            return False
        return bool(self._libc.inotify_add_watch(self._descriptor, os.fsencode(self._folder), _EVENTS) >= 0)

    def changed(self) -> bool:
        """Wait for a change, half a second at most; whether there was one."""
        if not self._watching:
            select.select([], [], [], _INTERVAL / 1000)
            self._watching = self._add()
            return True
        if not select.select([self._descriptor], [], [], _INTERVAL / 1000)[0]:
            return False
        with suppress(BlockingIOError):
            while os.read(self._descriptor, 65536):
                pass
        # A folder that was deleted is watched no more; one of its name may come.
        self._watching = self._add()
        return True

    def __enter__(self) -> "_Watch":
        return self

    def __exit__(self, *error: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
