"""``weft migrate``: a take-over from Weave Net looked at, or done, without an agent that serves."""

import threading
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from weft.agent.cluster import Cluster
from weft.agent.daemon import Agent
from weft.agent.dataplane import find_underlay
from weft.agent.journal import Journal
from weft.agent.preconditions import only_one, require_privileges
from weft.agent.settings import Settings
from weft.agent.takeover.foreign import open_foreign
from weft.agent.takeover.planner import Plan, Refusal
from weft.agent.takeover.takeover import Takeover, examine, is_fresh
from weft.store import open_store
from weft.troubles import Troubles


class AlreadyServed(Exception):
    """An agent of Weft's has served this node: there is nothing to take over."""


def look_ahead(settings: Settings) -> Plan | Refusal | None:
    """What a take-over would do, or what one does that was begun; None where Weave Net is not on this node.

    Only reads.

    Raises AlreadyServed, and what ``examine`` raises.
    """
    begun = _begun(settings)
    if begun is not None:
        return begun
    underlay = find_underlay(settings.node_address)
    foreign = open_foreign(settings.store, settings.node_name)
    try:
        if _is_missing_file(settings.store):
            return examine(settings, underlay.mtu, None, foreign)
        store = open_store(settings.store)
        try:
            return examine(settings, underlay.mtu, Cluster(store), foreign)
        finally:
            store.close()
    finally:
        foreign.close()


def take_over(settings: Settings) -> bool:
    """Do it; False where Weave's network policies stay in force until an agent runs that has others.

    Raises SettingsError where an agent runs, TakeoverRefused, and what ``weft.agent.process.run`` reports.
    """
    bare = replace(settings, dhcp_socket=None, policy=replace(settings.policy, folder=None, api=""))
    require_privileges(settings)
    with only_one(settings.state_dir), ExitStack() as opened:
        return Agent(bare, threading.Event(), Troubles(), opened).take_over()


def _begun(settings: Settings) -> Plan | None:
    """The plan of a take-over that was interrupted."""
    path = settings.state_dir / "journal.db"
    if not path.exists():
        return None
    journal = Journal(path)
    try:
        known = Takeover(journal)
        if known.pending:
            return known.plan
        if not is_fresh(journal):
            raise AlreadyServed("an agent of Weft's has served this node already: nothing is left to take over")
        return None
    finally:
        journal.close()


def _is_missing_file(store: str) -> bool:
    """Whether opening the store would make it."""
    kind, _, path = store.partition("://")
    return kind == "sqlite" and not Path(path).exists()
