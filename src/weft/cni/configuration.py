"""Network configurations: one plugin's, and lists of them from files (specification, section 1)."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import msgspec

from weft.cni.capabilities import CapabilityArgs
from weft.cni.errors import CniError, ErrorCode
from weft.cni.results import Result
from weft.cni.versions import OLDEST, SUPPORTED, is_supported, newest_of

#: Bytes of a configuration; the reference has no bound, and nobody needs more.
LARGEST = 1 << 20
_VERSION = re.compile(r"\d+(\.\d+){0,2}")
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
_LIST_SUFFIX = ".conflist"
_PLUGIN_SUFFIX = ".conf"
_SUFFIXES = (_PLUGIN_SUFFIX, _LIST_SUFFIX, ".json")


@dataclass(frozen=True, slots=True)
class PluginConfiguration:
    """The configuration of one plugin. ``raw`` holds all of it, the other fields what every plugin knows.

    ``data`` is the JSON that it was read from, empty for one that was not.
    """

    cni_version: str
    name: str
    type: str
    raw: Mapping[str, Any] = field(repr=False)
    data: bytes = field(default=b"", repr=False, compare=False)

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read what a runtime sends on standard input.

        Raises CniError 6 for what is no JSON object, 1 for a version that Weft does not speak, 7 for the rest.
        """
        return replace(cls.from_dict(decode_object(data)), data=data)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """Check the keys that every plugin knows, the name first as the reference does. Raises CniError."""
        name = _text(raw, "name")
        if name and not _NAME.fullmatch(name):
            raise CniError(ErrorCode.INVALID_CONFIG, f"invalid network name {name!r}")
        version = _text(raw, "cniVersion") or OLDEST
        if not is_supported(version):
            raise CniError(
                ErrorCode.INCOMPATIBLE_VERSION,
                f"incompatible CNI versions: the configuration is {version!r}, "
                f"supported are {', '.join(SUPPORTED)}",
            )
        return cls(version, name, _text(raw, "type"), raw)

    @property
    def previous_result(self) -> Result | None:
        """``prevResult``, what the plugins before made. Raises CniError 6 where it is malformed."""
        previous = self._object("prevResult")
        return Result.from_json(previous, self.cni_version) if previous else None

    @property
    def runtime(self) -> CapabilityArgs:
        """``runtimeConfig``, the arguments of the capabilities that the plugin declared. Raises CniError 7."""
        return CapabilityArgs.from_dict(self._object("runtimeConfig"))

    @property
    def valid_attachments(self) -> frozenset[tuple[str, str]]:
        """The (container ID, interface) pairs that GC must keep. Raises CniError 7 where they are missing."""
        listed = self.raw.get("cni.dev/valid-attachments")
        try:
            return frozenset((item["containerID"], item["ifname"]) for item in listed or ())
        except (TypeError, KeyError):
            raise CniError(
                ErrorCode.INVALID_CONFIG, "cni.dev/valid-attachments is not a list of {containerID, ifname}"
            ) from None

    def _object(self, key: str) -> Mapping[str, Any]:
        value = self.raw.get(key)
        if value is not None and not isinstance(value, dict):
            raise CniError(ErrorCode.INVALID_CONFIG, f"{key} is not an object: {value!r}"[:200])
        return value or {}


@dataclass(frozen=True, slots=True)
class NetworkList:
    """A network: the plugins that make an attachment, in order.

    ``path`` is the file that it came from, ``source`` its JSON as it was read.
    """

    name: str
    cni_version: str
    plugins: tuple[Mapping[str, Any], ...]
    disable_check: bool = False
    disable_gc: bool = False
    load_only_inlined_plugins: bool = False
    path: Path | None = None
    source: bytes = field(default=b"", repr=False, compare=False)

    @classmethod
    def from_json(cls, data: bytes, path: Path | None = None) -> Self:
        """Read a list, or the single plugin's configuration of old. Raises CniError."""
        network = cls._read(data, path)
        if not network.plugins:
            raise CniError(ErrorCode.INVALID_CONFIG, f"network {network.name!r} has no plugins")
        return network

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read a network from a file; plugins in the folder of its name follow, if the list wants them.

        Raises CniError, naming the file.
        """
        at = path
        try:
            network = cls._read(path.read_bytes(), path)
            plugins = network.plugins
            if path.suffix == _LIST_SUFFIX and not network.load_only_inlined_plugins:
                for at in sorted((path.parent / network.name).glob(f"*{_PLUGIN_SUFFIX}")):
                    if at.is_dir():
                        continue
                    plugins += (decode_object(at.read_bytes()),)
                    _check_plugin(plugins[-1])
            at = path
            if not plugins:
                raise CniError(
                    ErrorCode.INVALID_CONFIG,
                    f"network {network.name!r} has no plugins, neither in the list nor in its folder",
                )
        except OSError as error:
            raise CniError(ErrorCode.IO_FAILURE, f"{at}: {error.strerror}") from None
        except CniError as error:
            raise CniError(error.code, f"{at}: {error.message}", error.details) from None
        return replace(network, plugins=plugins)

    @classmethod
    def _read(cls, data: bytes, path: Path | None) -> Self:
        """The list as it stands; without plugins where all of them are in the folder of its name."""
        raw = decode_object(data)
        if "plugins" not in raw and "type" in raw:
            single = PluginConfiguration.from_dict(raw)
            _check_plugin(raw)
            return cls(_required_name(single.name), single.cni_version, (raw,), path=path, source=data)
        version = _choose_version(raw)
        name = _required_name(PluginConfiguration.from_dict({**raw, "cniVersion": version}).name)
        plugins, inlined_only = raw.get("plugins"), _flag(raw, "loadOnlyInlinedPlugins")
        if "plugins" not in raw and not inlined_only:
            plugins = []
        elif not isinstance(plugins, list) or not plugins or not all(isinstance(item, dict) for item in plugins):
            raise CniError(ErrorCode.INVALID_CONFIG, f"network {name!r}: plugins is not a list of objects")
        for plugin in plugins:
            _check_plugin(plugin)
        return cls(
            name,
            version,
            tuple(plugins),
            _flag(raw, "disableCheck"),
            _flag(raw, "disableGC"),
            inlined_only,
            path,
            data,
        )

    @property
    def capabilities(self) -> frozenset[str]:
        """What the plugins want of a runtime: those declared by at least one of them."""
        declared = (plugin.get("capabilities") or {} for plugin in self.plugins)
        return frozenset(name for each in declared for name, wanted in each.items() if wanted)


def configuration_files(folder: Path) -> list[Path]:
    """The files of a folder that are configurations by their names, in the order in which runtimes take them: as
    libcni's ConfFiles finds them, sorted by bytes. Raises OSError."""
    with os.scandir(folder) as found:
        files = (item.name for item in found if not item.is_dir(follow_symlinks=False))
        names = [name for name in files if name.endswith(_SUFFIXES)]
    return [folder / name for name in sorted(names, key=os.fsencode)]


def load_directory(folder: Path) -> tuple[list[NetworkList], list[CniError]]:
    """The networks of a folder in the lexical order of their files, and what is wrong with the other files.

    Raises CniError 5 where the folder cannot be read.
    """
    networks, errors = [], []
    try:
        paths = [path for path in configuration_files(folder) if path.is_file()]
    except OSError as error:
        raise CniError(ErrorCode.IO_FAILURE, f"{folder}: {error.strerror}") from None
    for path in paths:
        try:
            networks.append(NetworkList.from_file(path))
        except CniError as error:
            errors.append(error)
    return networks, errors


def find_network(folder: Path, name: str) -> NetworkList:
    """The first network of that name, lists before single plugins' files as in the reference library.

    Raises CniError 7, naming those that there are.
    """
    networks, errors = load_directory(folder)
    for network in sorted(networks, key=lambda item: item.path is None or item.path.suffix != _LIST_SUFFIX):
        if network.name == name:
            return network
    known = ", ".join(network.name for network in networks) or "none"
    raise CniError(
        ErrorCode.INVALID_CONFIG,
        f"no network {name!r} in {folder}; there are: {known}",
        "; ".join(map(str, errors)),
    )


def decode_object(data: bytes) -> dict[str, Any]:
    """A JSON object of bounded size. Raises CniError 6."""
    if len(data) > LARGEST:
        raise CniError(ErrorCode.UNDECODABLE, f"the configuration has {len(data)} bytes, more than {LARGEST}")
    try:
        raw = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise CniError(ErrorCode.UNDECODABLE, f"the configuration is not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise CniError(ErrorCode.UNDECODABLE, "the configuration is not a JSON object")
    return raw


def _choose_version(raw: Mapping[str, Any]) -> str:
    listed = raw.get("cniVersions")
    if listed is not None and (not isinstance(listed, list) or not all(isinstance(item, str) for item in listed)):
        raise CniError(ErrorCode.INVALID_CONFIG, f"cniVersions is not a list of versions: {listed!r}"[:200])
    for item in listed or ():
        if not _VERSION.fullmatch(item):
            raise CniError(ErrorCode.INVALID_CONFIG, f"cniVersions: {item!r} is not a version such as 1.1.0"[:200])
    version = _text(raw, "cniVersion")
    return newest_of([*(listed or []), version]) or version or OLDEST


def _required_name(name: str) -> str:
    if not name:
        raise CniError(ErrorCode.INVALID_CONFIG, "the network has no name")
    return name


def _check_plugin(plugin: Mapping[str, Any]) -> None:
    """What a runtime itself reads of a plugin's configuration."""
    kind = _text(plugin, "type")
    if not kind or "/" in kind or kind in (".", ".."):
        raise CniError(ErrorCode.INVALID_CONFIG, f"plugin type {kind!r} is not an executable's name")
    capabilities = plugin.get("capabilities") or {}
    if not isinstance(capabilities, dict) or not all(
        item in (True, False, None) for item in capabilities.values()
    ):
        raise CniError(
            ErrorCode.INVALID_CONFIG,
            f"{kind}: capabilities is not an object of true and false: {capabilities!r}"[:200],
        )


def _text(raw: Mapping[str, Any], key: str) -> str:
    value = raw.get(key)
    if value is not None and not isinstance(value, str):
        raise CniError(ErrorCode.UNDECODABLE, f"{key} is not text: {value!r}"[:200])
    return value or ""


def _flag(raw: Mapping[str, Any], key: str) -> bool:
    value = raw.get(key)
    # The reference takes the words, too.
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if value is not None and not isinstance(value, bool):
        raise CniError(ErrorCode.INVALID_CONFIG, f"{key} is neither true nor false: {value!r}"[:200])
    return bool(value)
