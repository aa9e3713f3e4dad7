"""What a container runtime does with a network: run its plugins in order (specification, section 3)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from weft.cni.cache import DEFAULT_FOLDER, Cache, CachedAttachment
from weft.cni.configuration import NetworkList
from weft.cni.environment import Command, Invocation, check_container_id, check_interface_name, parse_args
from weft.cni.errors import CniError, ErrorCode
from weft.cni.execution import TIMEOUT, execute
from weft.cni.results import Result
from weft.cni.versions import at_least


@dataclass(frozen=True, slots=True)
class Attachment:
    """One interface of one container: what the runtime decides. ``netns`` is the namespace's path."""

    container_id: str
    netns: str
    ifname: str = "eth0"
    args: str = ""
    capability_args: Mapping[str, Any] = field(default_factory=dict)


class Runtime:
    """Attaches containers to networks by executing plugins, as libcni does."""

    def __init__(self, path: Sequence[str], cache_folder: Path = DEFAULT_FOLDER, timeout: float = TIMEOUT) -> None:
        """``path`` are the folders of CNI_PATH; ``timeout`` in seconds for each plugin."""
        self._path = tuple(path)
        self._cache = Cache(cache_folder)
        self._timeout = timeout

    def add(self, network: NetworkList, attachment: Attachment) -> Result:
        """Attach; when a plugin fails, everything is deleted again. Raises CniError of the plugin."""
        _check(attachment)
        if self._previous(network, attachment) is not None:
            # The rollback below must not take the first attachment away.
            raise CniError(
                ErrorCode.INVALID_ENVIRONMENT,
                f"CNI_CONTAINERID {attachment.container_id}, CNI_IFNAME {attachment.ifname}: "
                f"already attached to {network.name}; DEL it first",
            )
        previous: Mapping[str, Any] | None = None
        try:
            for plugin in network.plugins:
                output = self._execute(Command.ADD, network, plugin, attachment, previous)
                previous = Result.from_json(output).to_dict(network.cni_version)
            self._cache.write(self._cached(network, attachment, previous or {}))
        except CniError as error:
            try:
                self.delete(network, attachment)
            except CniError as second:
                raise CniError(
                    error.code, error.message, f"{error.details} (and DEL failed: {second})".strip()
                ) from error
            raise
        return Result.from_json(previous or {"cniVersion": network.cni_version})

    def delete(self, network: NetworkList, attachment: Attachment) -> None:
        """Detach, the plugins in reverse order. What is not attached is no error. Raises CniError."""
        _check(attachment)
        previous = None
        if at_least(network.cni_version, "0.4.0"):
            previous = self._previous(network, attachment)
        for plugin in reversed(network.plugins):
            self._execute(Command.DEL, network, plugin, attachment, previous)
        self._cache.remove(network.name, attachment.container_id, attachment.ifname)

    def check(self, network: NetworkList, attachment: Attachment) -> None:
        """Raise CniError where a plugin finds the attachment not as ADD left it."""
        _check(attachment)
        if not at_least(network.cni_version, "0.4.0"):
            raise CniError(
                ErrorCode.INCOMPATIBLE_VERSION,
                f"CHECK needs cniVersion 0.4.0, {network.name} has {network.cni_version}",
            )
        if network.disable_check:
            return
        previous = self._previous(network, attachment)
        if previous is None:
            raise CniError(
                ErrorCode.UNKNOWN_CONTAINER,
                f"{attachment.ifname} of container {attachment.container_id} is not attached to {network.name}",
            )
        for plugin in network.plugins:
            self._execute(Command.CHECK, network, plugin, attachment, previous)

    def status(self, network: NetworkList) -> None:
        """Raise CniError where a plugin could not serve an ADD now. Nothing to ask before version 1.1.0."""
        if at_least(network.cni_version, "1.1.0"):
            self._for_network(Command.STATUS, network, {})

    def gc(self, network: NetworkList, valid: Sequence[Attachment]) -> None:
        """Let the plugins free what belongs to none of the valid attachments. Nothing before version 1.1.0."""
        if at_least(network.cni_version, "1.1.0") and not network.disable_gc:
            listed = [{"containerID": item.container_id, "ifname": item.ifname} for item in valid]
            self._for_network(Command.GC, network, {"cni.dev/valid-attachments": listed})

    def _for_network(self, command: Command, network: NetworkList, more: Mapping[str, Any]) -> None:
        for plugin in network.plugins:
            configuration = {**plugin, "name": network.name, "cniVersion": network.cni_version, **more}
            execute(Invocation(command, path=self._path), plugin["type"], configuration, self._timeout)

    def _execute(
        self,
        command: Command,
        network: NetworkList,
        plugin: Mapping[str, Any],
        attachment: Attachment,
        previous: Mapping[str, Any] | None,
    ) -> bytes:
        configuration = {**plugin, "name": network.name, "cniVersion": network.cni_version}
        declared = plugin.get("capabilities") or {}
        runtime = {key: value for key, value in attachment.capability_args.items() if declared.get(key)}
        if runtime:
            configuration["runtimeConfig"] = runtime
        if previous is not None:
            configuration["prevResult"] = previous
        invocation = Invocation(
            command, attachment.container_id, attachment.netns, attachment.ifname, attachment.args, self._path
        )
        return execute(invocation, plugin["type"], configuration, self._timeout)

    def _previous(self, network: NetworkList, attachment: Attachment) -> Mapping[str, Any] | None:
        cached = self._cache.read(network.name, attachment.container_id, attachment.ifname)
        return Result.from_json(cached.result).to_dict(network.cni_version) if cached else None

    @staticmethod
    def _cached(network: NetworkList, attachment: Attachment, result: Mapping[str, Any]) -> CachedAttachment:
        content = {"name": network.name, "cniVersion": network.cni_version, "plugins": list(network.plugins)}
        return CachedAttachment(
            network.name,
            attachment.container_id,
            attachment.ifname,
            attachment.netns,
            msgspec.json.encode(content),
            tuple(parse_args(attachment.args).items()),
            attachment.capability_args,
            result,
        )


def _check(attachment: Attachment) -> None:
    check_container_id(attachment.container_id)
    check_interface_name(attachment.ifname)
