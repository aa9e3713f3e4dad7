"""What ``weave-net`` asks of whoever enforces NetworkPolicy."""

from collections.abc import Sequence
from ipaddress import IPv4Interface, IPv6Interface
from typing import Protocol

from weft.cni import Invocation


class Gate(Protocol):
    """Puts the policies of pods in force."""

    def admit(self, call: Invocation, addresses: Sequence[IPv4Interface | IPv6Interface]) -> None:
        """Return when a pod's policies are in force; nobody can reach it before. Raises CniError."""

    def dismiss(self, call: Invocation) -> None:
        """The pod is cut off; one that was never admitted is no error."""

    def retain(self, valid: frozenset[tuple[str, str]]) -> None:
        """Every pod but these (container, interface) is cut off. Raises CniError."""

    def ensure_ready(self) -> None:
        """Raise CniError 50 where no pod could be admitted now."""


class OpenGate:
    """``Gate`` where nobody enforces policies."""

    def admit(self, call: Invocation, addresses: Sequence[IPv4Interface | IPv6Interface]) -> None:
        """Nothing to wait for."""

    def dismiss(self, call: Invocation) -> None:
        """Nothing to do."""

    def retain(self, valid: frozenset[tuple[str, str]]) -> None:
        """Nothing to do."""

    def ensure_ready(self) -> None:
        """Always."""
