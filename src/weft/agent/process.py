"""The agent's process: what must hold before anything is touched, the status API, one agent after the other."""

import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from weft.agent.daemon import Agent
from weft.agent.dataplane import UnderlayError
from weft.agent.enrolment import about_store
from weft.agent.journal import JournalError
from weft.agent.preconditions import only_one, require_privileges
from weft.agent.records import ClusterError
from weft.agent.report import NotServing, Report
from weft.agent.settings import Settings, SettingsError
from weft.agent.status import StatusServer
from weft.agent.takeover.takeover import TakeoverRefused
from weft.ipam.pool import PoolExhausted
from weft.ipam.shares import RangeExhausted
from weft.kernel.netlink import NetlinkError
from weft.privileges import NotPermitted
from weft.store import StoreError, StoreUnavailable
from weft.troubles import Troubles

#: Seconds before a store that did not answer at the start is asked again: doubled each time, from and to.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0


def run(settings: Settings) -> int:
    """Run agents until SIGTERM or SIGINT; the exit status.

    2 for settings that cannot be used here, 1 where something it needs is not there: a later start may
    succeed. Either comes with one line on standard error. A store that does not answer is waited for.
    """
    logging.basicConfig(
        level=settings.log_level, stream=sys.stderr, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s"
    )
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        require_privileges(settings)
        with only_one(settings.state_dir):
            _run_agents(settings, stopping)
    except (SettingsError, ClusterError, UnderlayError, ValueError) as error:
        print(f"weft agent: {error}", file=sys.stderr)
        return 2
    except (TakeoverRefused, NotPermitted) as refused:
        print(f"weft agent: {refused}", file=sys.stderr)
        return 1
    except (StoreError, JournalError, RangeExhausted, PoolExhausted, NetlinkError, OSError) as error:
        print(f"weft agent: {error}", file=sys.stderr)
        return 1
    return 0


class _Present:
    """The agent that there is at the moment, for the status API."""

    def __init__(self, troubles: Troubles) -> None:
        self._troubles = troubles
        self._agent: Agent | None = None

    @contextmanager
    def being(self, agent: Agent) -> Iterator[None]:
        """It is this one."""
        self._agent = agent
        try:
            yield
        finally:
            self._agent = None

    def report(self) -> Report:
        return self._get().report()

    def remove_peer(self, name: str) -> str:
        return self._get().remove_peer(name)

    def change_ranges(self, verb: str, value: str) -> str:
        return self._get().change_ranges(verb, value)

    def _get(self) -> Agent:
        """Raises NotServing."""
        agent = self._agent
        if agent is None:
            raise NotServing(self._troubles.present)
        return agent


def _run_agents(settings: Settings, stopping: threading.Event) -> None:
    """An agent, and another one where its place in the cluster has changed, until told to stop.

    Each reads anew what it was told in files, so whatever was wrong there is seen as soon as it is mended.
    """
    troubles = Troubles()
    present = _Present(troubles)
    settings.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = StatusServer(
        settings.status_socket,
        settings.http_address,
        present.report,
        present.remove_peer,
        settings.metrics_address,
        present.change_ranges,
    )
    status.start()
    pause = _FIRST_PAUSE
    try:
        while not stopping.is_set():
            try:
                with ExitStack() as opened:
                    agent = Agent(settings, stopping, troubles, opened)
                    pause = _FIRST_PAUSE
                    with present.being(agent):
                        agent.run()
            except StoreUnavailable as error:
                about_store(troubles).note(str(error), "waiting for it", refused=error.refused)
                stopping.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
    finally:
        status.close()
