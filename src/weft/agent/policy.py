"""The agent's part in NetworkPolicy: enforces a folder's itself, or waits for the controller beside it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from weft.agent.settings import Settings, SettingsError
from weft.kernel import nftables
from weft.npc.client import SOCKET, RemoteEnforcer
from weft.npc.gate import PodGate
from weft.npc.settings import open_source
from weft.policy import rendering
from weft.troubles import Concern

if TYPE_CHECKING:
    from weft.npc.service import PolicyService

#: Seconds between two looks whether pods can be admitted. A controller starts within one of them.
_LOOK_INTERVAL = 5.0


def open_policy(settings: Settings) -> PolicyService | None:
    """The controller of this process; None where it is not the agent that enforces.

    Raises SettingsError where policies cannot be enforced on this node.
    """
    policy = settings.policy
    try:
        source = open_source(policy)
    except ValueError as error:
        raise SettingsError(f"--policy-api {error}") from None
    if source is None:
        return None
    from weft.npc.service import PolicyService  # noqa: PLC0415  # only who enforces pays for it
    from weft.npc.table import EnforcementError  # noqa: PLC0415

    try:
        return PolicyService(settings.node_name, source, settings.state_dir, settings.run_dir, policy.choices)
    except EnforcementError as error:
        raise SettingsError(str(error)) from None


def in_force(settings: Settings, service: PolicyService | None) -> bool:
    """Whether policies are enforced on this node, or nobody is to enforce any."""
    if service is None and not settings.policy.expect_npc:
        return True
    try:
        # The controller makes this chain last of all.
        nftables.context().list(f"chain {rendering.TABLE} forward")
    except nftables.NftablesError:
        return False
    return True


def gate(settings: Settings, service: PolicyService | None) -> PodGate | None:
    """The gate that pods come through, of whoever enforces; None where nobody does."""
    if service is not None:
        return PodGate(service)
    return PodGate(RemoteEnforcer(settings.run_dir / SOCKET)) if settings.policy.expect_npc else None


def watch(gate: PodGate, stopping: threading.Event, concern: Concern) -> None:
    """Look whether pods can be admitted, until told to stop: where they cannot be twice in a row, the node is not
    ready."""
    closed = 0
    while not stopping.wait(_LOOK_INTERVAL):
        why = gate.why_closed()
        closed = closed + 1 if why else 0
        if not why:
            concern.over()
        elif closed > 1:
            concern.note(why, "each attach is refused", unready=True)
