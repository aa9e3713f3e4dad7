"""Calling another plugin in the name of one that was called (CNI specification, section 4)."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from weft.cni import CniError, Command, ErrorCode, PluginConfiguration, Result, find_plugin
from weft.cni import delegate as execute
from weft.cni.versions import at_least
from weft.plugins.plugin import Plugin, PluginRequest
from weft.plugins.registry import own_program
from weft.plugins.settings import refused

#: IPAM plugins that give addresses out of what is written on this host.
_WITHOUT_INTERFACE = frozenset({"host-local", "static"})


def delegate(
    command: Command, kind: str, request: PluginRequest, configuration: Mapping[str, Any] | None = None
) -> Result | None:
    """Call the plugin ``kind`` with the request's parameters, and its configuration or the one given.

    CNI_PATH decides which executable that is; where it is one of this package, the plugin is called right here.
    The result of an ADD, None of any other command. Raises CniError: the plugin's own, 999 where there is none.
    """
    given = request.configuration if configuration is None else PluginConfiguration.from_dict(configuration)
    plugin = _own(kind, request)
    if plugin is None:
        return execute(command, kind, given, request.invocation)
    call = replace(request, invocation=replace(request.invocation, command=command), configuration=given)
    return perform(plugin, call)


def leaves_nothing(kind: str, request: PluginRequest) -> bool:
    """Whether an ADD of that plugin that failed needs no DEL: it is one of ours, or there is none."""
    try:
        return _own(kind, request) is not None
    except CniError:
        return True


def perform(plugin: Plugin, request: PluginRequest) -> Result | None:
    """Run the command of a request; the result of an ADD. Raises CniError."""
    match request.invocation.command:
        case Command.ADD:
            return plugin.add(request)
        case Command.DEL:
            plugin.delete(request)
        case Command.CHECK:
            plugin.check(request)
        case Command.GC:
            plugin.gc(request)
        case Command.STATUS:
            plugin.status(request)
        case Command.VERSION:
            raise CniError(ErrorCode.INVALID_ENVIRONMENT, "VERSION concerns no attachment")
    return None


class Ipam:
    """The IPAM plugin of a network; without a ``type`` every verb but ``add`` does nothing."""

    def __init__(self, kind: str, request: PluginRequest) -> None:
        self._kind = kind
        self._request = request

    @property
    def named(self) -> bool:
        """Whether the network has addresses at all."""
        return bool(self._kind)

    def require(self) -> None:
        """Raise CniError, before anything is made, where the plugin is not there."""
        if self._kind:
            _find(self._kind, self._request)

    @property
    def early(self) -> bool:
        """Whether it needs no interface, so that it can be asked before one is made."""
        return self._kind in _WITHOUT_INTERFACE

    def add(self) -> Result:
        """Addresses for an interface. Raises CniError, also where the plugin gave none."""
        if not self._kind:
            raise refused("ipam.type is missing: name the plugin that gives the addresses, such as host-local")
        given = delegate(Command.ADD, self._kind, self._request)
        if given is None or not given.ips:
            self.delete()
            raise refused(f"IPAM plugin {self._kind!r} returned missing IP config")
        return given

    def delete(self) -> None:
        """Give the addresses back."""
        self._call(Command.DEL)

    def check(self) -> None:
        """Raise CniError where the addresses are not reserved any more."""
        self._call(Command.CHECK)

    def gc(self) -> None:
        """Give back what belongs to no valid attachment."""
        if at_least(self._request.configuration.cni_version, "1.1.0"):
            self._call(Command.GC)

    def status(self) -> None:
        """Raise CniError where there is no address to give."""
        if at_least(self._request.configuration.cni_version, "1.1.0"):
            self._call(Command.STATUS)

    def _call(self, command: Command) -> None:
        if self._kind:
            delegate(command, self._kind, self._request)


def _own(kind: str, request: PluginRequest) -> Plugin | None:
    return request.lookup(kind) if own_program(_find(kind, request)) else None


def _find(kind: str, request: PluginRequest) -> Path:
    try:
        return find_plugin(kind, request.invocation.path)
    except CniError as error:
        raise refused(error.message) from None
