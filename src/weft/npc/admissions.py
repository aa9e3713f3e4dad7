"""The pods that were attached on this node, with their addresses: written down before the kernel is told.

Kubernetes tells a pod's address seconds after its ADD, and an agent that starts anew must not forget in between.
"""

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from weft.policy.objects import Key


class Admission(msgspec.Struct, frozen=True):
    """One attachment. ``created`` is in seconds since the epoch."""

    container_id: str
    ifname: str
    namespace: str
    name: str
    uid: str
    addresses: tuple[str, ...]
    created: float

    @property
    def key(self) -> Key:
        """The pod's namespace and name."""
        return self.namespace, self.name


class Admissions:
    """The admissions of a node, in one file that is written whole or not at all. One thread at a time."""

    def __init__(self, path: Path) -> None:
        """Raises OSError; ValueError where the file is not ours."""
        self._path = path
        self._items: dict[tuple[str, str], Admission] = {}
        try:
            for item in msgspec.json.decode(path.read_bytes(), type=list[Admission]):
                self._items[item.container_id, item.ifname] = item
        except FileNotFoundError:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except msgspec.MsgspecError as error:
            raise ValueError(f"{path}: {error}; remove it, and attach the pods anew") from None

    def add(self, admission: Admission) -> None:
        """Write an attachment down. Raises OSError."""
        self._items[admission.container_id, admission.ifname] = admission
        self._write()

    def remove(self, container_id: str, ifname: str) -> Admission | None:
        """Forget an attachment; what it was. Raises OSError."""
        found = self._items.pop((container_id, ifname), None)
        if found is not None:
            self._write()
        return found

    def of(self, key: Key) -> list[Admission]:
        """The attachments of a pod."""
        return [item for item in self._items.values() if item.key == key]

    def all(self) -> Iterable[Admission]:
        """Every attachment."""
        return list(self._items.values())

    def _write(self) -> None:
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        with temporary.open("wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(msgspec.json.encode(list(self._items.values())))
        temporary.rename(self._path)
