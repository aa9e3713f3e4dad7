"""Small files in which a plugin keeps what its DEL will need: read where they are there, written whole."""

import contextlib
import os
from pathlib import Path


def read_kept(path: Path) -> bytes | None:
    """What a file holds, None where there is none. Raises OSError."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def write_kept(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a file, whole or not at all, also over a power failure; its folder is made. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Containers' IDs, of which kept files' names are made, never begin with a dot.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        temporary.rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def remove_kept(path: Path) -> None:
    """Remove a file, if it is there. Raises OSError."""
    path.unlink(missing_ok=True)


def kept_in(folder: Path) -> list[Path]:
    """The kept files of a folder, in order; none where there is no folder. Raises OSError."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())
    except FileNotFoundError:
        return []
