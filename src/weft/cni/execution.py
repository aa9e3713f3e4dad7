"""Plugins as executables: found in CNI_PATH, given the call, bounded in time (specification, section 2)."""

import errno
import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from weft.cni.configuration import PluginConfiguration
from weft.cni.environment import Command, Invocation
from weft.cni.errors import CniError, ErrorCode
from weft.cni.results import Result
from weft.cni.versions import NEWEST, OLDEST

#: Seconds that a plugin may take where the caller does not say; the kubelet gives up after two minutes.
TIMEOUT = 60.0
#: How often, and after how many seconds, an executable that somebody is writing is tried again.
_BUSY_TRIES, _BUSY_PAUSE = 5, 1.0


def find_plugin(kind: str, path: Sequence[str]) -> Path:
    """The executable of a plugin type. Raises CniError 5, naming the folders, where there is none."""
    if not kind or "/" in kind or kind in (".", ".."):
        raise CniError(ErrorCode.INVALID_CONFIG, f"plugin type {kind!r} is not an executable's name")
    for folder in path:
        candidate = Path(folder) / kind
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate
    raise CniError(ErrorCode.IO_FAILURE, f"plugin {kind!r} is not in CNI_PATH ({':'.join(path) or 'empty'})")


def execute(
    invocation: Invocation, kind: str, configuration: Mapping[str, Any], timeout: float = TIMEOUT
) -> bytes:
    """Run one plugin; what it printed. Raises CniError: the plugin's own, or one that says how it failed."""
    plugin = find_plugin(kind, invocation.path)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CNI_")}
    try:
        done = _run(plugin, msgspec.json.encode(configuration), inherited | invocation.to_environment(), timeout)
    except subprocess.TimeoutExpired:
        raise CniError(ErrorCode.TRY_AGAIN_LATER, f"{plugin} gave no answer in {timeout:g} s") from None
    except OSError as error:
        raise CniError(ErrorCode.IO_FAILURE, f"{plugin}: {error.strerror}") from None
    if done.returncode == 0:
        return done.stdout
    try:
        raise CniError.from_json(done.stdout)
    except ValueError:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()[-500:]
        raise CniError(
            ErrorCode.GENERIC, f"{plugin} failed with status {done.returncode}: {said or 'no output'}"
        ) from None


def _run(
    plugin: Path, data: bytes, environment: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[bytes]:
    tries = 0
    while True:
        try:
            return subprocess.run(
                [plugin], input=data, capture_output=True, env=environment, timeout=timeout, check=False
            )
        except OSError as error:
            if error.errno != errno.ETXTBSY or tries == _BUSY_TRIES:
                raise
        tries += 1
        time.sleep(_BUSY_PAUSE)


def delegate(
    command: Command, kind: str, configuration: PluginConfiguration, invocation: Invocation
) -> Result | None:
    """Call another plugin in the name of one that was called, with the same configuration and parameters.

    The result of an ADD, None of any other command (specification, section 4). Raises CniError.
    """
    call = Invocation(
        command, invocation.container_id, invocation.netns, invocation.ifname, invocation.args, invocation.path
    )
    output = execute(call, kind, configuration.raw)
    return Result.from_json(output, configuration.cni_version) if command is Command.ADD else None


def supported_versions(kind: str, path: Sequence[str], timeout: float = 5.0) -> list[str]:
    """What a plugin answers to VERSION. Raises CniError."""
    # Plugins from before VERSION insist on values for all variables, then do not know the command.
    invocation = Invocation(Command.VERSION, "dummy", "dummy", "dummy", path=tuple(path))
    try:
        output = execute(invocation, kind, {"cniVersion": NEWEST}, timeout)
    except CniError as error:
        if error.message == "unknown CNI_COMMAND: VERSION":
            return [OLDEST]
        raise
    try:
        body = json.loads(output)
        if body["cniVersion"] == "0.2.0" and not body.get("supportedVersions"):
            return ["0.1.0", "0.2.0"]
        return [str(version) for version in body["supportedVersions"]]
    except (ValueError, KeyError, TypeError):
        raise CniError(ErrorCode.UNDECODABLE, f"plugin {kind!r} does not tell its versions") from None
