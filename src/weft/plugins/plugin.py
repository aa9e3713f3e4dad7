"""The shape of every plugin."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from weft.cni import CniError, ErrorCode, Invocation, PluginConfiguration, Result
from weft.kernel.namespace import NetworkNamespace


class Plugin(Protocol):
    """Every verb raises ``weft.cni.CniError``, and leaves nothing behind when it does."""

    def add(self, request: "PluginRequest") -> Result:
        """Connect the sandbox; the result tells how."""

    def delete(self, request: "PluginRequest") -> None:
        """Undo ``add``. What is not there is no error."""

    def check(self, request: "PluginRequest") -> None:
        """Raise where the sandbox is not connected as ``add`` left it."""

    def gc(self, request: "PluginRequest") -> None:
        """Free what belongs to none of the valid attachments."""

    def status(self, request: "PluginRequest") -> None:
        """Raise where an ADD could not be served now."""


#: Finds a plugin by its type; None for one that is not ours.
Lookup = Callable[[str], Plugin | None]


@dataclass(frozen=True, slots=True)
class PluginRequest:
    """One call of a plugin (CNI specification, section 2).

    ``namespace`` is the sandbox's network namespace, opened by whoever called; None where the call has none:
    always for GC and STATUS, for DEL where the sandbox is gone. ``lookup`` finds the plugins that can be called
    without executing them.
    """

    invocation: Invocation
    configuration: PluginConfiguration
    namespace: NetworkNamespace | None
    lookup: Lookup = lambda kind: None

    @property
    def sandbox(self) -> NetworkNamespace:
        """The sandbox's namespace. Raises CniError where the call came without one."""
        if self.namespace is None:
            raise CniError(
                ErrorCode.GENERIC, f"failed to open netns {self.invocation.netns!r}: it is not a network namespace"
            )
        return self.namespace

    @property
    def previous_result(self) -> Result:
        """``prevResult``. Raises CniError where the plugin was not chained after another."""
        previous = self.configuration.previous_result
        if previous is None:
            raise CniError(
                ErrorCode.GENERIC,
                f"{self.configuration.type or 'the plugin'}: prevResult is missing; "
                "list it behind the plugin whose interface it works on",
            )
        return previous
