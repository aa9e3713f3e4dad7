"""Taking back the steps of an ADD that failed, the last one first."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import ParamSpec, Self

_log = logging.getLogger(__name__)
Parameters = ParamSpec("Parameters")


class Undo(AbstractContextManager["Undo"]):
    """Remembers how to take back what was done; does so where the block ends with an exception.

    A step that cannot be taken back does not keep the ones before it from being so; the first exception stays.
    """

    def __init__(self) -> None:
        self._steps: list[Callable[[], object]] = []

    def on_failure(
        self,
        step: Callable[Parameters, object],
        *arguments: Parameters.args,
        **more: Parameters.kwargs,
    ) -> None:
        """Call ``step`` if what comes now fails."""
        self._steps.append(lambda: step(*arguments, **more))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            return
        for step in reversed(self._steps):
            try:
                step()
            except Exception:
                _log.exception("cannot take back a step of an ADD that failed")
