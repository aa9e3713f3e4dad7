"""The executable's side of the protocol: what every plugin does with a call, whoever wrote it.

``plugin_main`` makes a plugin out of functions; ``main`` and ``answer`` are its parts, for those who dispatch
by themselves.
"""

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import msgspec

from weft.cni.configuration import LARGEST, PluginConfiguration, decode_object
from weft.cni.environment import Command, Invocation
from weft.cni.errors import CniError, ErrorCode
from weft.cni.results import Result
from weft.cni.versions import NEWEST, SUPPORTED, at_least, is_supported

_log = logging.getLogger(__name__)

#: The version in which the specification brought a command.
_SINCE = {Command.CHECK: "0.4.0", Command.GC: "1.1.0", Command.STATUS: "1.1.0"}


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a plugin: its parameters and its configuration, both checked by the specification's rules."""

    invocation: Invocation
    configuration: PluginConfiguration


def plugin_main(
    name: str,
    *,
    add: Callable[[Call], Result],
    delete: Callable[[Call], None],
    check: Callable[[Call], None] | None = None,
    gc: Callable[[Call], None] | None = None,
    status: Callable[[Call], None] | None = None,
    versions: Sequence[str] = SUPPORTED,
) -> NoReturn:
    """Be a plugin: answer the call that this process was started for, and end it.

    A function raises CniError for what goes wrong; any other exception becomes an error of code 999. A command
    without a function succeeds. ``versions`` are those of the specification that the plugin works with.
    """
    functions = {Command.DEL: delete, Command.CHECK: check, Command.GC: gc, Command.STATUS: status}

    def work(call: Call) -> Result | None:
        if call.invocation.command is Command.ADD:
            return add(call)
        if function := functions.get(call.invocation.command):
            function(call)
        return None

    sys.exit(main(name, versions, lambda environment, data: answer(name, versions, environment, data, work)))


def main(
    name: str, versions: Sequence[str], handle: Callable[[Mapping[str, str], bytes], tuple[int, bytes]]
) -> int:
    """Read the call from environment and standard input, print what ``handle`` answers; the exit status.

    VERSION, and a call without a command, are answered here.
    """
    command = os.environ.get("CNI_COMMAND", "")
    if not command:
        print(f"CNI plugin {name}\nCNI protocol versions supported: {', '.join(versions)}", file=sys.stderr)
        return 0
    if command == Command.VERSION:
        status, output = 0, version_answer(versions)
    else:
        # One byte more than is allowed tells that there is too much.
        status, output = handle(os.environ, sys.stdin.buffer.read(LARGEST + 1))
    sys.stdout.buffer.write(output)
    sys.stdout.flush()
    return status


def version_answer(versions: Sequence[str]) -> bytes:
    """What a plugin prints for VERSION (specification, section 5)."""
    return msgspec.json.encode({"cniVersion": NEWEST, "supportedVersions": list(versions)}) + b"\n"


def answer(
    name: str,
    versions: Sequence[str],
    environment: Mapping[str, str],
    data: bytes,
    work: Callable[[Call], Result | None],
) -> tuple[int, bytes]:
    """One call; the exit status and what is printed. Raises nothing."""
    try:
        call = read_call(name, versions, environment, data)
        result = work(call)
        return 0, b"" if result is None else result.to_json(call.configuration.cni_version)
    except CniError as error:
        _log.info("%s %s: %s", environment.get("CNI_COMMAND"), name, error)
        refusal = error
    except OSError as error:
        _log.warning("%s %s: %s", environment.get("CNI_COMMAND"), name, error)
        said = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        refusal = CniError(ErrorCode.GENERIC, said)
    except Exception as error:
        _log.exception("%s %s failed", environment.get("CNI_COMMAND"), name)
        refusal = CniError(ErrorCode.GENERIC, f"{type(error).__name__}: {error}")
    return 1, refusal.to_json(_spoken(data))


def read_call(name: str, versions: Sequence[str], environment: Mapping[str, str], data: bytes) -> Call:
    """A call, refused in the order in which the reference library refuses.

    Raises CniError 4 for the environment, 6 for what is no JSON object, 7 without a network's name, 1 where the
    configuration's version has not the command or is none of the plugin's.
    """
    invocation = Invocation.from_environment(environment)
    configuration = PluginConfiguration.from_json(data)
    if not configuration.name:
        raise CniError(ErrorCode.INVALID_CONFIG, "missing network name")
    command, version = invocation.command, configuration.cni_version
    if version not in versions:
        raise CniError(
            ErrorCode.INCOMPATIBLE_VERSION,
            f"incompatible CNI versions: the configuration is {version!r}, {name} supports {', '.join(versions)}",
        )
    if not at_least(version, _SINCE.get(command, version)):
        raise CniError(
            ErrorCode.INCOMPATIBLE_VERSION,
            f"config version does not allow {command.value}: it needs {_SINCE[command]}, this is {version}",
        )
    return Call(invocation, configuration)


def _spoken(data: bytes) -> str:
    """The version in which the caller wants to hear of an error, as far as it can be told."""
    try:
        version = decode_object(data).get("cniVersion")
    except CniError:
        return NEWEST
    return version if isinstance(version, str) and is_supported(version) else NEWEST
