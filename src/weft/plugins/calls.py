"""One call of a plugin, from what came to what is printed: the same through the agent and without it."""

import contextlib
import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager

from weft.cni import CniError, Command, ErrorCode, Invocation, PluginConfiguration
from weft.cni.versions import NEWEST, at_least
from weft.kernel.namespace import NetworkNamespace
from weft.kernel.netlink import NetlinkError
from weft.plugins.delegation import perform
from weft.plugins.plugin import Lookup, PluginRequest
from weft.plugins.registry import BY_NAME

_log = logging.getLogger(__name__)

#: The version in which the specification brought a command.
_SINCE = {Command.CHECK: "0.4.0", Command.GC: "1.1.0", Command.STATUS: "1.1.0"}


def answer(
    name: str,
    environment: Mapping[str, str],
    data: bytes,
    namespace: NetworkNamespace | None,
    lookup: Lookup,
    turn: AbstractContextManager[None] | None = None,
) -> tuple[int, bytes]:
    """Run a plugin's command; the exit status and what is printed. Raises nothing.

    ``data`` is the configuration; ``turn`` is held while the plugin works.
    """
    version = NEWEST
    try:
        configuration = PluginConfiguration.from_json(data)
        version = configuration.cni_version
        with turn or contextlib.nullcontext():
            return 0, run(name, environment, configuration, namespace, lookup)
    except CniError as error:
        _log.info("%s %s: %s", environment.get("CNI_COMMAND"), name, error)
        return 1, error.to_json(version)
    except NetlinkError as error:
        _log.warning("%s %s: %s", environment.get("CNI_COMMAND"), name, error)
        return 1, CniError(ErrorCode.GENERIC, str(error)).to_json(version)
    except OSError as error:
        _log.warning("%s %s: %s", environment.get("CNI_COMMAND"), name, error)
        said = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
        return 1, CniError(ErrorCode.GENERIC, said).to_json(version)
    except Exception as error:
        _log.exception("%s %s failed", environment.get("CNI_COMMAND"), name)
        return 1, CniError(ErrorCode.GENERIC, f"{type(error).__name__}: {error}").to_json(version)


def run(
    name: str,
    environment: Mapping[str, str],
    configuration: PluginConfiguration,
    namespace: NetworkNamespace | None,
    lookup: Lookup,
) -> bytes:
    """The output of a success. Raises CniError, and whatever else goes wrong."""
    invocation = Invocation.from_environment(environment)
    if not configuration.name:
        raise CniError(ErrorCode.INVALID_CONFIG, "missing network name")
    check_version(name, invocation.command, configuration.cni_version)
    plugin = lookup(name)
    if plugin is None:
        raise CniError(
            ErrorCode.INVALID_CONFIG, f"there is no plugin {name!r} here; there are: {', '.join(BY_NAME)}"
        )
    result = perform(plugin, PluginRequest(invocation, configuration, namespace, lookup))
    return b"" if result is None else result.to_json(configuration.cni_version)


def check_version(name: str, command: Command, version: str) -> None:
    """Raise CniError 1 where the configuration's version has not the command, or not what the plugin does."""
    entry = BY_NAME.get(name)
    if entry is not None and version not in entry.versions:
        raise CniError(
            ErrorCode.INCOMPATIBLE_VERSION,
            f"incompatible CNI versions: the configuration is {version!r}, "
            f"{name} supports {', '.join(entry.versions)}",
        )
    if not at_least(version, _SINCE.get(command, version)):
        raise CniError(
            ErrorCode.INCOMPATIBLE_VERSION,
            f"config version does not allow {command.value}: it needs {_SINCE[command]}, this is {version}",
        )
