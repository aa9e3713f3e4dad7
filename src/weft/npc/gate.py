"""No ADD returns before the pod's policies are in force; a DEL gives the addresses back.

Wraps a plugin, so that the plugin need not know of policies.
"""

import logging
import time
from typing import Protocol

from weft.cni import CniError, ErrorCode, Result
from weft.npc.admissions import Admission
from weft.plugins.plugin import Plugin, PluginRequest

_log = logging.getLogger(__name__)


class Unavailable(Exception):
    """Policies cannot be put in force now; the message says why."""


class Gate(Protocol):
    """Who puts policies in force: this process, or one beside it."""

    def admit(self, admission: Admission) -> bool:
        """Return when the pod's policies are in force; whether its labels were known. Raises Unavailable."""

    def dismiss(self, container_id: str, ifname: str) -> None:
        """The pod is gone. Raises Unavailable."""

    def retain(self, valid: frozenset[tuple[str, str]]) -> None:
        """Every pod but these (container, interface) is gone. Raises Unavailable."""


class Guarded:
    """A plugin behind a gate."""

    def __init__(self, plugin: Plugin, gate: Gate) -> None:
        self._plugin = plugin
        self._gate = gate

    def add(self, request: PluginRequest) -> Result:
        """Attach, then wait for the policies; what was attached is undone where they cannot be put in force."""
        result = self._plugin.add(request)
        admission = admission_of(request, result)
        try:
            if not self._gate.admit(admission):
                _log.warning("pod %s/%s is attached, and isolated until its labels are known", *admission.key)
        except Unavailable as error:
            self._plugin.delete(request)
            raise CniError(
                ErrorCode.TRY_AGAIN_LATER,
                f"pod {admission.namespace}/{admission.name}: no policy in force: {error}",
            ) from error
        return result

    def delete(self, request: PluginRequest) -> None:
        """Detach; a gate that is closed keeps nobody inside."""
        self._plugin.delete(request)
        try:
            self._gate.dismiss(request.invocation.container_id, request.invocation.ifname)
        except Unavailable as error:
            _log.warning("container %s is detached; %s", request.invocation.container_id, error)

    def check(self, request: PluginRequest) -> None:
        """As the plugin."""
        self._plugin.check(request)

    def gc(self, request: PluginRequest) -> None:
        """As the plugin."""
        self._plugin.gc(request)
        try:
            self._gate.retain(request.configuration.valid_attachments)
        except Unavailable as error:
            raise CniError(ErrorCode.TRY_AGAIN_LATER, str(error)) from error

    def status(self, request: PluginRequest) -> None:
        """As the plugin."""
        self._plugin.status(request)


def admission_of(request: PluginRequest, result: Result) -> Admission:
    """Who was attached, with which addresses: the runtime names the pod in CNI_ARGS."""
    call = request.invocation
    pairs = (pair.partition("=") for pair in call.args.split(";"))
    arguments = {name: value for name, _, value in pairs}
    return Admission(
        call.container_id,
        call.ifname,
        arguments.get("K8S_POD_NAMESPACE") or "default",
        arguments.get("K8S_POD_NAME") or call.container_id,
        arguments.get("K8S_POD_UID", ""),
        tuple(str(item.address.ip) for item in result.ips),
        time.time(),
    )
