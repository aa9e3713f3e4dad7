"""DELs that the launcher wrote down while no agent answered."""

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from weft.agent.turns import Key, Turns
from weft.agent.wire import Request, WireError, decode_request

_log = logging.getLogger(__name__)

#: Seconds that an agent tries a DEL which fails before it puts it aside.
PATIENCE = 24 * 3600.0


class Deletions:
    """The folder of these DELs, and what does them.

    A DEL that lies there is later than what is attached under its container and interface, since an ADD does it
    first (``settle``). So no clock is asked which of two came first: clocks are set back and forward.
    """

    def __init__(self, folder: Path, run: Callable[[Request], None], turns: Turns) -> None:
        """``run`` does a DEL, whose turn is held, or raises."""
        self._folder = folder
        self._run = run
        self._turns = turns
        self._failing_since: dict[Path, float] = {}

    def replay(self) -> int:
        """Do every DEL in the folder, oldest first, and remove the files of those done; how many were.

        A DEL that fails is left for the next replay; a file that is no request is renamed to ``NAME.bad``, for
        somebody to look at.
        """
        done = 0
        for path, request in self._requests():
            with self._turns.turn(_key(request)):
                done += self._do(path, request)
        return done

    def settle(self, key: Key) -> None:
        """Do those of a container's interface, whose turn is held, for something new is about to have its name."""
        for path, request in self._requests():
            if _key(request) == key:
                self._do(path, request)

    def _requests(self) -> Iterator[tuple[Path, Request]]:
        try:
            paths = sorted(path for path in self._folder.iterdir() if not path.name.startswith("."))
        except FileNotFoundError:
            return
        for path in paths:
            if path.suffix == ".bad" or not path.is_file():
                continue
            try:
                request = decode_request(path.read_bytes())
                if request.environment.get("CNI_COMMAND") != "DEL":
                    raise WireError("it is not a DEL")
            except FileNotFoundError:
                continue
            except WireError as error:
                _log.error("%s is not a deferred DEL (%s); put aside", path, error)
                _put_aside(path)
                continue
            yield path, request

    def _do(self, path: Path, request: Request) -> bool:
        if not path.exists():
            return False  # done while this thread waited for its turn; what has the name now is something else
        try:
            self._run(request)
        except Exception as error:
            _log.warning("deferred DEL %s failed: %s", path.name, error)
            now = time.monotonic()
            if now - self._failing_since.setdefault(path, now) > PATIENCE:
                _put_aside(path)
            return False
        self._failing_since.pop(path, None)
        path.unlink(missing_ok=True)
        return True


def _key(request: Request) -> Key:
    return request.environment.get("CNI_CONTAINERID", ""), request.environment.get("CNI_IFNAME", "")


def _put_aside(path: Path) -> None:
    path.rename(path.with_name(path.name + ".bad"))
