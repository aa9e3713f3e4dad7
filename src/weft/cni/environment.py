"""The parameters of a call, in environment variables (specification, section 2, "Parameters")."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from weft.cni.errors import CniError, ErrorCode

_CONTAINER_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
_NOT_IN_AN_INTERFACE_NAME = re.compile(r"[/:\s]")
#: Bytes of an interface name, the kernel's IFNAMSIZ without its end.
_LONGEST_INTERFACE_NAME = 15


class Command(StrEnum):
    """CNI_COMMAND."""

    ADD = "ADD"
    DEL = "DEL"
    CHECK = "CHECK"
    GC = "GC"
    STATUS = "STATUS"
    VERSION = "VERSION"


_ATTACHMENT_COMMANDS = (Command.ADD, Command.DEL, Command.CHECK)
_NEEDED_BY = {
    "CNI_CONTAINERID": _ATTACHMENT_COMMANDS,
    "CNI_NETNS": (Command.ADD, Command.CHECK),
    "CNI_IFNAME": _ATTACHMENT_COMMANDS,
    "CNI_PATH": (*_ATTACHMENT_COMMANDS, Command.GC, Command.STATUS),
}


@dataclass(frozen=True, slots=True)
class Invocation:
    """One call's parameters, checked. ``netns`` is a path or empty, ``args`` is CNI_ARGS as it came."""

    command: Command
    container_id: str = ""
    netns: str = ""
    ifname: str = ""
    args: str = ""
    path: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read and check the CNI_* variables. Raises CniError 4, naming the variable."""
        named = environment.get("CNI_COMMAND", "")
        try:
            command = Command(named)
        except ValueError:
            raise CniError(ErrorCode.INVALID_ENVIRONMENT, f"unknown CNI_COMMAND: {named}") from None
        missing = [
            name for name, commands in _NEEDED_BY.items() if command in commands and not environment.get(name)
        ]
        if missing:
            raise CniError(ErrorCode.INVALID_ENVIRONMENT, f"required env variables [{','.join(missing)}] missing")
        container_id, ifname = environment.get("CNI_CONTAINERID", ""), environment.get("CNI_IFNAME", "")
        if container_id:
            check_container_id(container_id)
        if ifname:
            check_interface_name(ifname)
        return cls(
            command,
            container_id,
            environment.get("CNI_NETNS", ""),
            ifname,
            environment.get("CNI_ARGS", ""),
            tuple(part for part in environment.get("CNI_PATH", "").split(":") if part),
        )

    def to_environment(self) -> dict[str, str]:
        """The variables of this call, for a plugin that is executed."""
        return {
            "CNI_COMMAND": self.command.value,
            "CNI_CONTAINERID": self.container_id,
            "CNI_NETNS": self.netns,
            "CNI_IFNAME": self.ifname,
            "CNI_ARGS": self.args,
            "CNI_PATH": ":".join(self.path),
        }


def check_container_id(container_id: str) -> None:
    """Raise CniError 4 where the specification does not allow the container ID."""
    if not _CONTAINER_ID.fullmatch(container_id):
        raise CniError(
            ErrorCode.INVALID_ENVIRONMENT,
            f"CNI_CONTAINERID {container_id!r}: must begin with a letter or digit "
            "and hold only those, '_', '.' and '-'",
        )


def check_interface_name(ifname: str) -> None:
    """Raise CniError 4 where neither the specification nor the kernel allows the interface name."""
    if (
        not 0 < len(ifname.encode(errors="surrogateescape")) <= _LONGEST_INTERFACE_NAME
        or ifname in (".", "..")
        or _NOT_IN_AN_INTERFACE_NAME.search(ifname)
    ):
        raise CniError(
            ErrorCode.INVALID_ENVIRONMENT,
            f"CNI_IFNAME {ifname!r}: must have 1 to {_LONGEST_INTERFACE_NAME} bytes, without '/', ':' and "
            "white space, not . or ..",
        )


def parse_args(text: str) -> dict[str, str]:
    """CNI_ARGS, ``K=V;K=V``, as pairs. Raises CniError 4 for anything else."""
    pairs = {}
    for part in filter(None, text.split(";")):
        key, separator, value = part.partition("=")
        if not separator or not key:
            raise CniError(ErrorCode.INVALID_ENVIRONMENT, f"CNI_ARGS: {part!r} is not KEY=VALUE")
        pairs[key] = value
    return pairs


def check_known_args(pairs: Mapping[str, str], known: Collection[str]) -> None:
    """Raise CniError 4 for a key that is not known, unless IgnoreUnknown is 1 or true."""
    if pairs.get("IgnoreUnknown", "").lower() in ("1", "true"):
        return
    unknown = sorted(set(pairs) - set(known) - {"IgnoreUnknown"})
    if unknown:
        raise CniError(
            ErrorCode.INVALID_ENVIRONMENT,
            f"CNI_ARGS: unknown keys {', '.join(unknown)}; leave them out or add IgnoreUnknown=1",
        )
