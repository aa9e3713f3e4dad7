"""The parameters of a call, in environment variables (specification, section 2, "Parameters")."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from weft.cni.arguments import known_arguments, parse_arguments
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

    @property
    def arguments(self) -> dict[str, str]:
        """CNI_ARGS as pairs. Raises CniError 4 where it is malformed."""
        return parse_arguments(self.args)

    def known_arguments(self, *known: str) -> dict[str, str]:
        """CNI_ARGS of a plugin that knows these keys. Raises CniError 4 for others, unless IgnoreUnknown=1."""
        return known_arguments(self.args, *known)

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
