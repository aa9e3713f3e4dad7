"""What a container runtime does with a network: run its plugins in order (specification, section 3)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from weft.cni.arguments import format_arguments, parse_arguments
from weft.cni.cache import DEFAULT_FOLDER, Cache, CachedAttachment
from weft.cni.configuration import NetworkList
from weft.cni.environment import Command, Invocation, check_container_id, check_interface_name
from weft.cni.errors import CniError, ErrorCode
from weft.cni.execution import TIMEOUT, execute, supported_versions
from weft.cni.results import Result
from weft.cni.versions import at_least


@dataclass(frozen=True, slots=True)
class Attachment:
    """One interface of one container: what the runtime decides.

    ``netns`` is the namespace's path, ``args`` is CNI_ARGS, ``capability_args`` what ``CapabilityArgs.to_dict``
    gives.
    """

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
        if self._cache.read(network.name, attachment.container_id, attachment.ifname) is not None:
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
                previous = Result.from_json(output, network.cni_version).to_dict(network.cni_version)
            self._cache.write(_cached(network, attachment, previous or {}))
        except CniError as error:
            try:
                self.delete(network, attachment)
            except CniError as second:
                raise CniError(
                    error.code, error.message, f"{error.details} (and DEL failed: {second})".strip()
                ) from error
            raise
        return Result.from_json(previous or {}, network.cni_version)

    def delete(self, network: NetworkList, attachment: Attachment) -> None:
        """Detach, the plugins in reverse order. What is not attached is no error. Raises CniError.

        Arguments that are not given are those of the ADD.
        """
        _check(attachment)
        try:
            attachment, previous = self._recall(network, attachment)
        except CniError as error:
            if error.code == ErrorCode.IO_FAILURE:
                raise
            # A cache that cannot be understood must not keep a container from being deleted.
            self._cache.remove(network.name, attachment.container_id, attachment.ifname)
            previous = None
        if not at_least(network.cni_version, "0.4.0"):
            previous = None
        for plugin in reversed(network.plugins):
            self._execute(Command.DEL, network, plugin, attachment, previous)
        self._cache.remove(network.name, attachment.container_id, attachment.ifname)

    def check(self, network: NetworkList, attachment: Attachment) -> None:
        """Raise CniError where a plugin finds the attachment not as ADD left it.

        Arguments that are not given are those of the ADD.
        """
        _check(attachment)
        if not at_least(network.cni_version, "0.4.0"):
            raise CniError(
                ErrorCode.INCOMPATIBLE_VERSION,
                f"CHECK needs cniVersion 0.4.0, {network.name} has {network.cni_version}",
            )
        if network.disable_check:
            return
        attachment, previous = self._recall(network, attachment)
        if previous is None:
            raise CniError(
                ErrorCode.UNKNOWN_CONTAINER,
                f"{attachment.ifname} of container {attachment.container_id} is not attached to {network.name}",
            )
        for plugin in network.plugins:
            self._execute(Command.CHECK, network, plugin, attachment, previous)

    def status(self, network: NetworkList) -> None:
        """Raise CniError of the first plugin that could not serve an ADD now. Before 1.1.0 nobody is asked."""
        if not at_least(network.cni_version, "1.1.0"):
            return
        for plugin in network.plugins:
            self._run(Command.STATUS, network, plugin, Invocation(Command.STATUS, path=self._path), {})

    def gc(self, network: NetworkList, valid: Collection[tuple[str, str]]) -> None:
        """Free what belongs to none of the valid attachments, which are (container ID, interface) pairs.

        Attachments that this cache knows are deleted, whatever the network's version; then, from version 1.1.0 on,
        the plugins collect what else they find. Goes on after a failure; raises CniError of the first, with the
        others in its details. A network with ``disableGC`` is left alone.
        """
        if network.disable_gc:
            return
        failures = []
        for cached in self.attachments(network):
            if (cached.container_id, cached.ifname) not in valid:
                try:
                    self.delete(network, Attachment(cached.container_id, cached.netns, cached.ifname))
                except CniError as error:
                    failures.append(
                        _with_prefix(error, f"failed to delete {cached.container_id} {cached.ifname}: ")
                    )
        if at_least(network.cni_version, "1.1.0"):
            listed = [{"containerID": container_id, "ifname": ifname} for container_id, ifname in sorted(valid)]
            # The second name is what an earlier text of the specification had; the reference library sends both.
            more = {"cni.dev/valid-attachments": listed, "cni.dev/attachments": listed}
            for plugin in network.plugins:
                try:
                    self._run(Command.GC, network, plugin, Invocation(Command.GC, path=self._path), more)
                except CniError as error:
                    failures.append(error)
        if failures:
            first, *others = failures
            details = "; ".join(filter(None, (first.details, *map(str, others))))
            raise CniError(first.code, first.message, details)

    def attachments(self, network: NetworkList) -> list[CachedAttachment]:
        """What the cache knows to be attached to a network."""
        return self._cache.attachments(network.name)

    def validate(self, network: NetworkList) -> frozenset[str]:
        """The capabilities that the plugins declare.

        Raises CniError: 5 for a plugin that is not there, 1 for one that does not speak the network's version.
        """
        for plugin in network.plugins:
            kind = plugin["type"]
            versions = self.versions(kind)
            if network.cni_version not in versions:
                raise CniError(
                    ErrorCode.INCOMPATIBLE_VERSION,
                    f"plugin {kind!r} does not support cniVersion {network.cni_version}; it answers "
                    f"{', '.join(versions)}",
                )
        return network.capabilities

    def versions(self, kind: str) -> list[str]:
        """What a plugin answers to VERSION. Raises CniError."""
        return supported_versions(kind, self._path, self._timeout)

    def _execute(
        self,
        command: Command,
        network: NetworkList,
        plugin: Mapping[str, Any],
        attachment: Attachment,
        previous: Mapping[str, Any] | None,
    ) -> bytes:
        more: dict[str, Any] = {}
        declared = plugin.get("capabilities") or {}
        runtime = {key: value for key, value in attachment.capability_args.items() if declared.get(key)}
        if runtime:
            more["runtimeConfig"] = runtime
        if previous is not None:
            more["prevResult"] = previous
        invocation = Invocation(
            command, attachment.container_id, attachment.netns, attachment.ifname, attachment.args, self._path
        )
        return self._run(command, network, plugin, invocation, more)

    def _run(
        self,
        command: Command,
        network: NetworkList,
        plugin: Mapping[str, Any],
        invocation: Invocation,
        more: Mapping[str, Any],
    ) -> bytes:
        configuration = {**plugin, "name": network.name, "cniVersion": network.cni_version, **more}
        try:
            return execute(invocation, plugin["type"], configuration, self._timeout)
        except CniError as error:
            raise _with_prefix(error, f"plugin {plugin['type']!r} failed ({command.lower()}): ") from None

    def _recall(self, network: NetworkList, attachment: Attachment) -> tuple[Attachment, Mapping[str, Any] | None]:
        """The attachment with the arguments of its ADD, and its result. Raises CniError 5 and 6."""
        cached = self._cache.read(network.name, attachment.container_id, attachment.ifname)
        if cached is None:
            return attachment, None
        recalled = replace(
            attachment,
            args=attachment.args or format_arguments(dict(cached.args)),
            capability_args=attachment.capability_args or cached.capability_args,
        )
        return recalled, Result.from_json(cached.result).to_dict(network.cni_version)


def _cached(network: NetworkList, attachment: Attachment, result: Mapping[str, Any]) -> CachedAttachment:
    content = {"name": network.name, "cniVersion": network.cni_version, "plugins": list(network.plugins)}
    return CachedAttachment(
        network.name,
        attachment.container_id,
        attachment.ifname,
        attachment.netns,
        network.source or msgspec.json.encode(content),
        tuple(parse_arguments(attachment.args).items()),
        attachment.capability_args,
        result,
    )


def _with_prefix(error: CniError, prefix: str) -> CniError:
    return CniError(error.code, prefix + error.message, error.details)


def _check(attachment: Attachment) -> None:
    check_container_id(attachment.container_id)
    check_interface_name(attachment.ifname)
    parse_arguments(attachment.args)
