"""The agent's part in NetworkPolicy: enforces a folder's itself, or waits for the controller beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weft.agent.settings import Settings, SettingsError
from weft.kernel import nftables
from weft.npc.client import SOCKET, RemoteEnforcer
from weft.npc.gate import PodGate
from weft.npc.settings import open_source
from weft.policy import rendering

if TYPE_CHECKING:
    from weft.npc.service import PolicyService


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
