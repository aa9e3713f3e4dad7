"""DELs that the launcher wrote down while no agent answered."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from weft.agent.wire import Request, WireError, decode_request

_log = logging.getLogger(__name__)

#: Seconds that a DEL which fails is tried again before it is put aside.
PATIENCE = 24 * 3600.0


def replay(folder: Path, delete: Callable[[Request, float], None]) -> int:
    """Do every DEL in the folder, oldest first, and remove the files of those done; how many were.

    ``delete`` is given the request and when it was written (seconds since the epoch). A DEL that fails is
    left for the next replay; a file that is no request is renamed to ``NAME.bad``, for somebody to look at.
    """
    done = 0
    if not folder.is_dir():
        return done
    for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        if path.suffix == ".bad" or not path.is_file():
            continue
        try:
            written = path.stat().st_mtime
            request = decode_request(path.read_bytes())
            if request.environment.get("CNI_COMMAND") != "DEL":
                raise WireError("it is not a DEL")
        except FileNotFoundError:
            continue
        except WireError as error:
            _log.error("%s is not a deferred DEL (%s); put aside", path, error)
            path.rename(path.with_name(path.name + ".bad"))
            continue
        try:
            delete(request, written)
        except Exception as error:
            _log.warning("deferred DEL %s failed: %s", path.name, error)
            if time.time() - written > PATIENCE:
                path.rename(path.with_name(path.name + ".bad"))
            continue
        path.unlink(missing_ok=True)
        done += 1
    return done
