"""The shape of every plugin."""

from dataclasses import dataclass
from typing import Protocol

from weft.cni import Invocation, PluginConfiguration, Result
from weft.kernel.namespace import NetworkNamespace


@dataclass(frozen=True, slots=True)
class PluginRequest:
    """One call of a plugin (CNI specification, section 2).

    ``namespace`` is the sandbox's network namespace, opened by whoever called; None where the call has none:
    always for GC and STATUS, for DEL where the sandbox is gone.
    """

    invocation: Invocation
    configuration: PluginConfiguration
    namespace: NetworkNamespace | None


class Plugin(Protocol):
    """Every verb raises ``weft.cni.CniError``, and leaves nothing behind when it does."""

    def add(self, request: PluginRequest) -> Result:
        """Connect the sandbox; the result tells how."""

    def delete(self, request: PluginRequest) -> None:
        """Undo ``add``. What is not there is no error."""

    def check(self, request: PluginRequest) -> None:
        """Raise where the sandbox is not connected as ``add`` left it."""

    def gc(self, request: PluginRequest) -> None:
        """Free what belongs to none of the valid attachments."""

    def status(self, request: PluginRequest) -> None:
        """Raise where an ADD could not be served now."""
