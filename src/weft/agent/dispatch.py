"""From a launcher's request to a plugin and back to what the runtime reads."""

import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from weft.agent.wire import Request
from weft.cni import CniError, Command, ErrorCode, Invocation, PluginConfiguration
from weft.kernel.namespace import NetworkNamespace
from weft.kernel.netlink import NetlinkError
from weft.plugins import Plugin, PluginRequest

_log = logging.getLogger(__name__)

Key = tuple[str, str]


class Turns:
    """Requests for the same container and interface take turns; all others run side by side."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turns: dict[Key, tuple[threading.Lock, int]] = {}

    @contextmanager
    def turn(self, key: Key) -> Iterator[None]:
        """Wait for the key's turn and hold it."""
        with self._lock:
            lock, waiting = self._turns.get(key, (threading.Lock(), 0))
            self._turns[key] = (lock, waiting + 1)
        try:
            with lock:
                yield
        finally:
            with self._lock:
                lock, waiting = self._turns.pop(key)
                if waiting > 1:
                    self._turns[key] = (lock, waiting - 1)


class Dispatcher:
    """Finds the plugin, runs the verb, and turns results and errors into the specification's JSON."""

    def __init__(self, plugins: Mapping[str, Plugin]) -> None:
        self._plugins = plugins
        self._turns = Turns()

    def __call__(self, request: Request) -> tuple[int, bytes]:
        """The exit status and output of one request."""
        version = "1.1.0"
        try:
            configuration = PluginConfiguration.from_json(request.configuration)
            version = configuration.cni_version
            return 0, self.run(request, configuration)
        except CniError as error:
            _log.info("%s %s: %s", request.environment.get("CNI_COMMAND"), request.plugin, error)
            return 1, error.to_json(version)
        except NetlinkError as error:
            _log.warning("%s %s: %s", request.environment.get("CNI_COMMAND"), request.plugin, error)
            return 1, CniError(ErrorCode.GENERIC, str(error)).to_json(version)
        except Exception as error:
            _log.exception("%s %s failed", request.environment.get("CNI_COMMAND"), request.plugin)
            return 1, CniError(ErrorCode.GENERIC, f"{type(error).__name__}: {error}").to_json(version)

    def run(self, request: Request, configuration: PluginConfiguration) -> bytes:
        """Run one request; the output of a success. Raises CniError."""
        invocation = Invocation.from_environment(request.environment)
        plugin = self._plugins.get(request.plugin)
        if plugin is None:
            raise CniError(
                ErrorCode.INVALID_CONFIG,
                f"this agent has no plugin {request.plugin!r}; it has: {', '.join(sorted(self._plugins))}",
            )
        call = PluginRequest(invocation, configuration, _namespace(request))
        with self._turns.turn((invocation.container_id, invocation.ifname)):
            match invocation.command:
                case Command.ADD:
                    return plugin.add(call).to_json(configuration.cni_version)
                case Command.DEL:
                    plugin.delete(call)
                case Command.CHECK:
                    plugin.check(call)
                case Command.GC:
                    plugin.gc(call)
                case Command.STATUS:
                    plugin.status(call)
        return b""


def _namespace(request: Request) -> NetworkNamespace | None:
    if request.namespace is None:
        return None
    try:
        # The server closes the descriptor that came with the request.
        return NetworkNamespace.from_fd(os.dup(request.namespace))
    except ValueError:
        raise CniError(
            ErrorCode.INVALID_ENVIRONMENT,
            f"CNI_NETNS {request.environment.get('CNI_NETNS')!r} is not a network namespace",
        ) from None
