"""From a launcher's request to a plugin and back to what the runtime reads."""

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from weft.agent.wire import Request
from weft.cni import CniError, ErrorCode, serving
from weft.kernel.namespace import NetworkNamespace
from weft.plugins import Plugin, calls, registry

Key = tuple[str, str]


class Turns:
    """Requests for the same container and interface take turns; all others run side by side."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turns: dict[Key, tuple[threading.Lock, int]] = {}

    @contextmanager
    def turn(self, key: Key) -> Iterator[None]:
        """Wait for the key's turn and hold it."""
        with self._line(key) as lock, lock:
            yield

    @contextmanager
    def attempt(self, key: Key) -> Iterator[bool]:
        """Hold the key's turn if nobody has it; whether it is held."""
        with self._line(key) as lock:
            mine = lock.acquire(blocking=False)
            try:
                yield mine
            finally:
                if mine:
                    lock.release()

    @contextmanager
    def _line(self, key: Key) -> Iterator[threading.Lock]:
        with self._lock:
            lock, waiting = self._turns.get(key, (threading.Lock(), 0))
            self._turns[key] = (lock, waiting + 1)
        try:
            yield lock
        finally:
            with self._lock:
                lock, waiting = self._turns.pop(key)
                if waiting > 1:
                    self._turns[key] = (lock, waiting - 1)


class Dispatcher:
    """Runs requests by the plugins of the registry and those that only the agent has."""

    def __init__(self, own: Mapping[str, Plugin]) -> None:
        """``own`` are the agent's, by name. ``turns`` are held by ``__call__`` only."""
        self._own = own
        self.turns = Turns()

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
                    self.turns.turn(key),
                )
        except CniError as error:
            return 1, error.to_json()

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
