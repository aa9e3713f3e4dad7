"""A plugin's own keys, as a typed structure.

Keys are read as the reference plugins read them: unknown ones are left to others, null is as good as absent, upper
and lower case do not matter. A value of the wrong type is refused by name.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any, TypeVar, get_args

import msgspec

from weft.cni import CniError, Dns, ErrorCode, Invocation, PluginConfiguration

Shape = TypeVar("Shape", bound=msgspec.Struct)
Choice = TypeVar("Choice")


class Settings(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a plugin's structure of keys begins with; names in camelCase."""


class IpamSettings(Settings, frozen=True, kw_only=True):
    """Which plugin gives the addresses; empty for none."""

    type: str = ""


class DnsSettings(Settings, frozen=True, kw_only=True):
    """``dns`` of a network's configuration."""

    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def result(self) -> Dns:
        """The same in a result."""
        return Dns(self.nameservers, self.domain, self.search, self.options)

    def over(self, given: Dns) -> Dns:
        """The same where anything is set, else what IPAM gave."""
        own = self.result()
        return given if own == Dns() else own


class NetworkSettings(Settings, frozen=True, kw_only=True):
    """The keys that plugins with an interface of their own share."""

    ipam: IpamSettings = IpamSettings()
    dns: DnsSettings = DnsSettings()


class MacSettings(Settings, frozen=True, kw_only=True):
    """Where the runtime, or an argument, gives the container's MAC."""

    mac: str = ""


class CommonSettings(NetworkSettings, frozen=True, kw_only=True):
    """The keys whose type is the same for all plugins, whether they use them or not."""

    capabilities: dict[str, bool] = {}
    runtime_config: dict[str, Any] = {}
    prev_result: dict[str, Any] = {}
    args: dict[str, Any] = {}


def read(shape: type[Shape], configuration: PluginConfiguration) -> Shape:
    """A configuration's keys. Raises CniError, naming the key and its value."""
    return convert(shape, configuration.raw)


def convert(shape: type[Shape], raw: Mapping[str, Any], where: str = "") -> Shape:
    """Any object of a configuration, ``where`` it stands. Raises CniError."""
    try:
        return msgspec.convert(_folded(raw, shape), shape)
    except msgspec.ValidationError as error:
        raise refused(f"{where}{_explained(str(error), raw)}") from None


def refused(message: str) -> CniError:
    """What a plugin says to a configuration that it cannot use: as the reference plugins do, code 999."""
    return CniError(ErrorCode.GENERIC, message)


def invalid(key: str, value: object, mend: str) -> CniError:
    """A configuration with a wrong value: which, and how to mend it."""
    return refused(f"{key} {_shown(value)}: {mend}")


def chosen(key: str, value: str, choices: Mapping[str, Choice], usual: str) -> Choice:
    """What a word of a configuration stands for, ``usual`` where it is empty. Raises CniError."""
    found = choices.get(value or usual)
    if found is None:
        raise invalid(key, value, f"give one of {', '.join(choices)}")
    return found


def read_arguments(invocation: Invocation, *known: str) -> dict[str, str]:
    """CNI_ARGS. Raises CniError for keys that are not known, unless IgnoreUnknown=1 is among them."""
    try:
        return invocation.known_arguments(*known)
    except CniError as error:
        raise refused(error.message) from None


@functools.cache
def _names(shape: type[msgspec.Struct]) -> dict[str, tuple[str, type[msgspec.Struct] | None]]:
    """By the key in lower case: the key, and the structure that its value or its value's items are."""
    return {
        item.encode_name.lower(): (item.encode_name, _structure(item.type))
        for item in msgspec.structs.fields(shape)
    }


def _structure(kind: Any) -> type[msgspec.Struct] | None:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind
    return next(filter(None, map(_structure, get_args(kind))), None)


def _folded(raw: Any, shape: type[msgspec.Struct] | None) -> Any:
    """The value with its structures' keys as they are written, and without nulls."""
    if isinstance(raw, list):
        return [_folded(item, shape) for item in raw]
    if not isinstance(raw, Mapping):
        return raw
    if shape is None:
        return {key: _folded(value, None) for key, value in raw.items() if value is not None}
    names = _names(shape)
    found: dict[str, Any] = {}
    for key, value in raw.items():
        name, inner = names.get(key.lower(), ("", None))
        if value is not None and name and (name == key or name not in raw):
            found[name] = _folded(value, inner)
    return found


_PLACE = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?$", re.DOTALL)


def _explained(error: str, raw: Mapping[str, Any]) -> str:
    """msgspec's complaint, with the value that it is about."""
    found = _PLACE.match(error)
    path = (found and found["path"]) or ""
    what = (found and found["what"]) or error
    if not path:
        return what
    value: Any = raw
    for step in re.findall(r"[^.\[\]]+", path):
        if isinstance(value, Mapping):
            value = next((item for key, item in value.items() if key.lower() == step.lower()), None)
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return f"{path}: {what}"
    return f"{path} {_shown(value)}: {what[:1].lower()}{what[1:]}"


def _shown(value: object) -> str:
    text = msgspec.json.encode(value).decode() if isinstance(value, (dict, list, str, bool)) else str(value)
    return text if len(text) <= 100 else text[:99] + "…"
