"""No pod is connected before its policies are in force; a DEL gives the addresses back."""

import logging
import time
from collections.abc import Sequence
from ipaddress import IPv4Interface, IPv6Interface
from typing import Protocol

from weft.cni import CniError, ErrorCode, Invocation
from weft.npc.admissions import Admission

_log = logging.getLogger(__name__)


class Unavailable(Exception):
    """Policies cannot be put in force now; the message says why."""


class Enforcer(Protocol):
    """Who puts policies in force: this process, or one beside it."""

    def admit(self, admission: Admission) -> bool:
        """Return when the pod's policies are in force; whether its labels were known. Raises Unavailable."""

    def dismiss(self, container_id: str, ifname: str) -> None:
        """The pod is gone. Raises Unavailable."""

    def retain(self, valid: frozenset[tuple[str, str]]) -> None:
        """Every pod but these (container, interface) is gone. Raises Unavailable."""

    def why_closed(self) -> str:
        """Why no pod can be admitted now; empty where one can."""


class PodGate:
    """``weft.plugins.main.weave_gate.Gate`` in front of an enforcer."""

    def __init__(self, enforcer: Enforcer) -> None:
        self._enforcer = enforcer

    def admit(self, call: Invocation, addresses: Sequence[IPv4Interface | IPv6Interface]) -> None:
        """Raises CniError 11 where the policies cannot be put in force now."""
        admission = admission_of(call, addresses)
        try:
            if not self._enforcer.admit(admission):
                _log.warning("pod %s/%s is attached, and isolated until its labels are known", *admission.key)
        except Unavailable as error:
            raise CniError(
                ErrorCode.TRY_AGAIN_LATER,
                f"pod {admission.namespace}/{admission.name}: no policy is in force: {error}",
            ) from error

    def dismiss(self, call: Invocation) -> None:
        """A gate that does not answer keeps nobody inside."""
        try:
            self._enforcer.dismiss(call.container_id, call.ifname)
        except Unavailable as error:
            _log.warning("container %s is detached; %s", call.container_id, error)

    def retain(self, valid: frozenset[tuple[str, str]]) -> None:
        """Raises CniError 11 where nobody answers."""
        try:
            self._enforcer.retain(valid)
        except Unavailable as error:
            raise CniError(ErrorCode.TRY_AGAIN_LATER, str(error)) from error

    def why_closed(self) -> str:
        """Why no pod can be admitted now; empty where one can."""
        return self._enforcer.why_closed()

    def ensure_ready(self) -> None:
        """Raises CniError 50 where no pod can be admitted now."""
        if why := self.why_closed():
            raise CniError(ErrorCode.NOT_AVAILABLE, f"no policy can be put in force: {why}")


def admission_of(call: Invocation, addresses: Sequence[IPv4Interface | IPv6Interface]) -> Admission:
    """Who is attached, with which addresses: the runtime names the pod in CNI_ARGS."""
    pairs = (pair.partition("=") for pair in call.args.split(";"))
    arguments = {name: value for name, _, value in pairs}
    return Admission(
        call.container_id,
        call.ifname,
        arguments.get("K8S_POD_NAMESPACE") or "default",
        arguments.get("K8S_POD_NAME") or call.container_id,
        arguments.get("K8S_POD_UID", ""),
        tuple(str(item.ip) for item in addresses),
        time.time(),
    )
