"""Network configurations: one plugin's, and lists of them from files (specification, section 1)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import msgspec

from weft.cni.errors import CniError, ErrorCode
from weft.cni.results import Result
from weft.cni.versions import OLDEST, SUPPORTED, is_supported, newest_of

#: Bytes of a configuration; the reference has no bound, and nobody needs more.
LARGEST = 1 << 20
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
_LIST_SUFFIX = ".conflist"
_SUFFIXES = (".conf", _LIST_SUFFIX, ".json")


@dataclass(frozen=True, slots=True)
class PluginConfiguration:
    """The configuration of one plugin. ``raw`` holds all of it, the other fields what every plugin knows."""

    cni_version: str
    name: str
    type: str
    raw: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read what a runtime sends on standard input.

        Raises CniError 6 for what is no JSON object, 1 for a version that Weft does not speak, 7 for the rest.
        """
        return cls.from_dict(decode_object(data))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """Check the keys that every plugin knows. Raises CniError."""
        version = _text(raw, "cniVersion") or OLDEST
        if not is_supported(version):
            raise CniError(
                ErrorCode.INCOMPATIBLE_VERSION,
                f"incompatible CNI versions: the configuration is {version!r}, "
                f"supported are {', '.join(SUPPORTED)}",
            )
        name = _text(raw, "name")
        if name and not _NAME.fullmatch(name):
            raise CniError(ErrorCode.INVALID_CONFIG, f"invalid network name {name!r}")
        for key in ("ipam", "dns", "capabilities", "runtimeConfig", "prevResult", "args"):
            if raw.get(key) is not None and not isinstance(raw[key], dict):
                raise CniError(ErrorCode.INVALID_CONFIG, f"{key} is not an object: {raw[key]!r}"[:200])
        return cls(version, name, _text(raw, "type"), raw)

    @property
    def previous_result(self) -> Result | None:
        """``prevResult``, what the plugins before made. Raises CniError 6 where it is malformed."""
        previous = self.raw.get("prevResult")
        return Result.from_json({"cniVersion": self.cni_version, **previous}) if previous else None

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


@dataclass(frozen=True, slots=True)
class NetworkList:
    """A network: the plugins that make an attachment, in order. ``path`` is the file that it came from."""

    name: str
    cni_version: str
    plugins: tuple[Mapping[str, Any], ...]
    disable_check: bool = False
    disable_gc: bool = False
    load_only_inlined_plugins: bool = False
    path: Path | None = None

    @classmethod
    def from_json(cls, data: bytes, path: Path | None = None) -> Self:
        """Read a list, or the single plugin's configuration of old. Raises CniError."""
        raw = decode_object(data)
        if "plugins" not in raw:
            single = PluginConfiguration.from_dict(raw)
            _require_type(raw)
            return cls(_required_name(single.name), single.cni_version, (raw,), path=path)
        version = _choose_version(raw)
        name = _required_name(PluginConfiguration.from_dict({**raw, "cniVersion": version}).name)
        plugins = raw["plugins"]
        if not isinstance(plugins, list) or not plugins or not all(isinstance(item, dict) for item in plugins):
            raise CniError(ErrorCode.INVALID_CONFIG, f"network {name!r}: plugins is not a list of objects")
        for plugin in plugins:
            _require_type(plugin)
        return cls(
            name,
            version,
            tuple(plugins),
            _flag(raw, "disableCheck"),
            _flag(raw, "disableGC"),
            _flag(raw, "loadOnlyInlinedPlugins"),
            path,
        )

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read a network from a file; plugins in the folder of its name follow, if the list wants them.

        Raises CniError, naming the file.
        """
        try:
            data = path.read_bytes()
            network = cls.from_json(data, path)
            folder = path.parent / network.name
            if network.load_only_inlined_plugins or not folder.is_dir() or path.suffix != _LIST_SUFFIX:
                return network
            more = tuple(decode_object(item.read_bytes()) for item in sorted(folder.glob("*.conf")))
            for plugin in more:
                _require_type(plugin)
        except OSError as error:
            raise CniError(ErrorCode.IO_FAILURE, f"{path}: {error.strerror}") from None
        except CniError as error:
            raise CniError(error.code, f"{path}: {error.message}", error.details) from None
        return cls(
            network.name,
            network.cni_version,
            network.plugins + more,
            network.disable_check,
            network.disable_gc,
            path=path,
        )


def load_directory(folder: Path) -> tuple[list[NetworkList], list[CniError]]:
    """The networks of a folder in the lexical order of their files, and what is wrong with the other files.

    Raises CniError 5 where the folder cannot be read.
    """
    networks, errors = [], []
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES and path.is_file())
    except OSError as error:
        raise CniError(ErrorCode.IO_FAILURE, f"{folder}: {error.strerror}") from None
    for path in paths:
        try:
            networks.append(NetworkList.from_file(path))
        except CniError as error:
            errors.append(error)
    return networks, errors


def find_network(folder: Path, name: str) -> NetworkList:
    """The first network of that name. Raises CniError 7, naming those that there are."""
    networks, errors = load_directory(folder)
    for network in networks:
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
    version = _text(raw, "cniVersion")
    return newest_of([*(listed or []), version]) or version or OLDEST


def _required_name(name: str) -> str:
    if not name:
        raise CniError(ErrorCode.INVALID_CONFIG, "the network has no name")
    return name


def _require_type(plugin: Mapping[str, Any]) -> None:
    kind = _text(plugin, "type")
    if not kind or "/" in kind or kind in (".", ".."):
        raise CniError(ErrorCode.INVALID_CONFIG, f"plugin type {kind!r} is not an executable's name")


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
