"""From a launcher's request to a plugin and back to what the runtime reads."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from weft.agent.deletions import Deletions
from weft.agent.turns import Key, Turns
from weft.agent.wire import Request
from weft.cni import CniError, ErrorCode, serving
from weft.kernel.namespace import NetworkNamespace
from weft.plugins import Plugin, calls, registry


class Dispatcher:
    """Runs requests by the plugins of the registry and those that only the agent has."""

    def __init__(self, own: Mapping[str, Plugin], deletions: Path) -> None:
        """``own`` are the agent's, by name; ``deletions`` is where the launcher leaves DELs. ``turns`` are held by
        ``__call__`` only."""
        self._own = own
        self.turns = Turns()
        self.deletions = Deletions(deletions, self.run, self.turns)

    def find(self, name: str) -> Plugin | None:
        """``weft.plugins.Lookup`` of this agent."""
        return self._own.get(name) or registry.find(name)

    def __call__(self, request: Request) -> tuple[int, bytes]:
        """The exit status and output of one request."""
        environment = request.environment
        key = (environment.get("CNI_CONTAINERID", ""), environment.get("CNI_IFNAME", ""))
        try:
            with contextlib.closing(_Sandbox(request)) as sandbox:
                return calls.answer(
                    request.plugin,
                    environment,
                    request.configuration,
                    sandbox.namespace,
                    self.find,
                    self._turn(key, adding=environment.get("CNI_COMMAND") == "ADD"),
                )
        except CniError as error:
            return 1, error.to_json()

    @contextmanager
    def _turn(self, key: Key, *, adding: bool) -> Iterator[None]:
        with self.turns.turn(key):
            if adding:
                self.deletions.settle(key)
            yield

    def run(self, request: Request) -> None:
        """Run one request without an answer; its turn is the caller's to take. Raises CniError."""
        name, environment = request.plugin, request.environment
        call = serving.read_call(name, calls.versions_of(name), environment, request.configuration)
        with contextlib.closing(_Sandbox(request)) as sandbox:
            calls.run(name, environment, call, sandbox.namespace, self.find)


class _Sandbox:
    """The namespace of a request. Raises CniError 4 where the descriptor is none."""

    def __init__(self, request: Request) -> None:
        self.namespace: NetworkNamespace | None = None
        if request.namespace is None:
            return
        try:
            # The server closes the descriptor that came with the request.
            self.namespace = NetworkNamespace.from_fd(os.dup(request.namespace))
        except ValueError:
            raise CniError(
                ErrorCode.INVALID_ENVIRONMENT,
                f"CNI_NETNS {request.environment.get('CNI_NETNS')!r} is not a network namespace",
            ) from None

    def close(self) -> None:
        if self.namespace is not None:
            self.namespace.close()
