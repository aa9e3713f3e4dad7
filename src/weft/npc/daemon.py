"""The policy controller as a process of its own: what Weave's second container was."""

import fcntl
import logging
import signal
import sys
import threading
from pathlib import Path

from weft.npc.controller import Choices
from weft.npc.service import PolicyService
from weft.npc.source import Source
from weft.npc.table import EnforcementError
from weft.privileges import POLICY, NotPermitted, require, require_writable

_log = logging.getLogger(__name__)


def run(node: str, source: Source, state_dir: Path, run_dir: Path, choices: Choices) -> int:
    """Enforce until SIGTERM or SIGINT; the exit status. Policies stay in force when it ends.

    1, with one line on standard error, where it cannot enforce.
    """
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        require("controller", POLICY)
        require_writable(state_dir, "--state-dir")
        require_writable(run_dir, "--run-dir")
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (state_dir / "npc.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            service = PolicyService(node, source, state_dir, run_dir, choices)
            service.start()
            _log.info("node %s: policies are enforced", node)
            stopping.wait()
            _log.info("stopping; policies stay in force")
            service.stop()
    except BlockingIOError:
        print(f"weft npc: another one runs with the state folder {state_dir}", file=sys.stderr)
        return 1
    except (NotPermitted, EnforcementError, OSError, ValueError) as error:
        print(f"weft npc: {error}", file=sys.stderr)
        return 1
    return 0
