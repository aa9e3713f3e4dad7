"""kubectl logs: the end of a file, and what is written to it further on."""

from collections.abc import Callable, Iterator
from pathlib import Path

_PART = 65536


def parts(path: Path, tail: int | None, *, follow: Callable[[], bool] | None = None) -> Iterator[bytes]:
    """A file from its ``tail`` last lines on, all of it by default.

    With ``follow`` it goes on until that says no: it is asked where there is nothing, and is to wait a little.
    Raises OSError.
    """
    with path.open("rb") as file:
        if tail is not None:
            file.seek(start_of_tail(path.read_bytes(), tail))
        while True:
            while part := file.read(_PART):
                yield part
            if follow is None or not follow():
                return


def start_of_tail(text: bytes, lines: int) -> int:
    """Where the last lines of a text begin."""
    if lines <= 0:
        return len(text)
    place = len(text) - text.endswith(b"\n")
    for _ in range(lines):
        place = text.rfind(b"\n", 0, place)
        if place < 0:
            return 0
    return place + 1
