"""Requests to etcd's JSON gateway: several endpoints, TLS, a token, and an end to every call.

A call goes to one member and on to the next when that one cannot answer, until its time is up. A write that was
sent and not answered may have been carried out all the same; a call says so (``Answered.doubtful``), because only
its caller knows how to find out. With the metadata ``hasleader`` a member that has lost the majority refuses at
once instead of keeping the caller waiting (https://pkg.go.dev/go.etcd.io/etcd/client/v3#WithRequireLeader).
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import msgspec
import urllib3
from urllib3.exceptions import HTTPError

from weft.store import etcd_failures as failures
from weft.store.etcd_failures import EndpointFailed
from weft.store.etcd_messages import AuthenticateAnswer, ErrorAnswer, Message, decode, encode
from weft.store.etcd_pools import Pools
from weft.store.etcd_settings import Endpoint, EtcdSettings
from weft.store.protocol import StoreRefused, StoreUnavailable

#: Seconds for a connection to a member.
CONNECT_TIMEOUT = 1.0
#: Seconds between two rounds over all members: at first, and at most.
SHORTEST_PAUSE = 0.05
LONGEST_PAUSE = 0.5
#: Seconds without a word after which a stream is taken up anew: its member may hang.
STREAM_IDLE = 30.0

_AUTHENTICATE = "/v3/auth/authenticate"
_LARGEST_READ = 1 << 16

_Answer = TypeVar("_Answer")


class UnknownOutcome(StoreUnavailable):
    """No answer came in time, and what was asked for may have been done."""


@dataclass(frozen=True, slots=True)
class Answered(Generic[_Answer]):
    """An answer, who gave it, and whether the same request may have been carried out once before."""

    answer: _Answer
    endpoint: Endpoint
    doubtful: bool


@dataclass(slots=True)
class _Attempts:
    """What went wrong at which member in one call."""

    reasons: dict[Endpoint, EndpointFailed] = field(default_factory=dict)
    doubtful: bool = False

    def add(self, endpoint: Endpoint, failed: EndpointFailed) -> None:
        self.reasons[endpoint] = failed
        self.doubtful |= failed.doubtful

    def hopeless(self, endpoints: tuple[Endpoint, ...]) -> bool:
        """Whether every member failed in a way that time does not mend."""
        return all(endpoint in self.reasons and self.reasons[endpoint].lasting for endpoint in endpoints)

    def error(self) -> StoreUnavailable:
        said = "; ".join(f"etcd at {endpoint}: {failed}" for endpoint, failed in self.reasons.items())
        failures = self.reasons.values()
        if self.doubtful:
            return UnknownOutcome(said)
        if any(failed.final for failed in failures) or (failures and all(failed.lasting for failed in failures)):
            return StoreRefused(said)
        return StoreUnavailable(said or "etcd: the store is closed")


class Gateway:
    """The members of one etcd. Safe for several threads."""

    def __init__(self, settings: EtcdSettings) -> None:
        """Connects to nobody yet. Raises ValueError for certificates that cannot be used."""
        self._settings = settings
        self._pools = Pools(settings)
        self._lock = threading.Lock()
        self._current = 0
        self._token: str | None = None
        self._closed = threading.Event()

    def call(
        self,
        path: str,
        message: Message,
        kind: type[_Answer],
        *,
        refuse: Callable[[_Answer], str | None] = lambda answer: None,
        only: Endpoint | None = None,
    ) -> Answered[_Answer]:
        """Ask until a member answers, for at most the settings' timeout.

        ``refuse`` says why an answer is not to be taken from this member, or None. Raises StoreUnavailable, or
        UnknownOutcome where a request that was sent may yet have been carried out.
        """

        def ask(endpoint: Endpoint, deadline: float) -> _Answer:
            answer = self._decoded(self._authorized(endpoint, path, message, deadline), kind)
            if reason := refuse(answer):
                raise EndpointFailed(reason, lasting=True)
            return answer

        return self._first(ask, only)

    def open_stream(self, path: str, message: Message) -> tuple[urllib3.BaseHTTPResponse, Endpoint]:
        """A response whose body comes line by line. It fails where nothing comes for about STREAM_IDLE seconds.

        Raises StoreUnavailable.
        """
        # Members lose their streams together; they must not all come back in the same second.
        idle = STREAM_IDLE * random.uniform(0.7, 1.3)  # noqa: S311

        def ask(endpoint: Endpoint, deadline: float) -> urllib3.BaseHTTPResponse:
            token = self._token_from(endpoint, deadline)
            response = self._send(endpoint, path, message, token, self._share(deadline))
            if response.status != 200:
                failed = self._failure(response.status, self._body(response, deadline))
                if failed.token_refused:
                    self.forget_token()
                raise failed
            _wait_at_most(response, idle)
            return response

        answered = self._first(ask, None)
        return answered.answer, answered.endpoint

    def leave(self, endpoint: Endpoint) -> None:
        """Ask another member from now on, if this is the one that is asked first."""
        with self._lock:
            if self._settings.endpoints[self._current] == endpoint:
                self._current = (self._current + 1) % len(self._settings.endpoints)

    def forget_token(self) -> None:
        """Authenticate anew before the next request."""
        self._token = None

    def close(self) -> None:
        """End the connections; calls under way fail soon."""
        self._closed.set()
        self._pools.close()

    def _first(self, ask: Callable[[Endpoint, float], _Answer], only: Endpoint | None) -> Answered[_Answer]:
        """What the first member says that can answer. Raises StoreUnavailable."""
        attempts = _Attempts()
        deadline = time.monotonic() + self._settings.timeout
        for endpoint in self._turns(deadline, attempts, only):
            try:
                return Answered(ask(endpoint, deadline), endpoint, attempts.doubtful)
            except EndpointFailed as failed:
                attempts.add(endpoint, failed)
                if failed.final:
                    break
            self.leave(endpoint)
        raise attempts.error()

    def _turns(self, deadline: float, attempts: _Attempts, only: Endpoint | None) -> Iterator[Endpoint]:
        """Members to ask, the one that answered last first, round after round, until the time is up."""
        endpoints = (only,) if only else self._settings.endpoints
        pause = SHORTEST_PAUSE
        while not self._closed.is_set():
            first = 0 if only else self._current
            for offset in range(len(endpoints)):
                yield endpoints[(first + offset) % len(endpoints)]
                if time.monotonic() >= deadline:
                    return
            if attempts.hopeless(endpoints):
                return
            self._closed.wait(min(pause * random.uniform(0.5, 1.0), deadline - time.monotonic()))  # noqa: S311
            pause = min(2 * pause, LONGEST_PAUSE)

    def _share(self, deadline: float) -> float:
        """Seconds that one attempt may take: half of what is left where there are others to ask."""
        left = max(deadline - time.monotonic(), 0.05)
        return left if len(self._settings.endpoints) == 1 else max(left / 2, min(left, CONNECT_TIMEOUT))

    def _authorized(self, endpoint: Endpoint, path: str, message: Message, deadline: float) -> bytes:
        """An answer, with a new token where etcd has forgotten the one that we had (it does when it restarts)."""
        token = self._token_from(endpoint, deadline)
        try:
            return self._ask(endpoint, path, message, token, deadline)
        except EndpointFailed as failed:
            if token is None or not failed.token_refused:
                raise
        self._token = None
        return self._ask(endpoint, path, message, self._token_from(endpoint, deadline), deadline)

    def _token_from(self, endpoint: Endpoint, deadline: float) -> str | None:
        user = self._settings.user
        if user is None or self._token is not None:
            return self._token
        try:
            password = self._settings.password()
        except (OSError, ValueError) as error:
            raise EndpointFailed(f"password of {user!r} cannot be read: {error}", lasting=True) from None
        try:
            data = self._ask(endpoint, _AUTHENTICATE, {"name": user, "password": password}, None, deadline)
        except EndpointFailed as failed:
            if failed.not_enabled:
                return None
            raise failed.as_undone() from None
        self._token = self._decoded(data, AuthenticateAnswer).token or None
        return self._token

    def _ask(self, endpoint: Endpoint, path: str, message: Message, token: str | None, deadline: float) -> bytes:
        share = self._share(deadline)
        response = self._send(endpoint, path, message, token, share)
        data = self._body(response, time.monotonic() + share)
        if response.status != 200:
            raise self._failure(response.status, data)
        return data

    def _send(
        self, endpoint: Endpoint, path: str, message: Message, token: str | None, share: float
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Content-Type": "application/json", "Grpc-Metadata-hasleader": "true"}
        if token:
            headers["Authorization"] = token
        try:
            return self._pools.of(endpoint).urlopen(
                "POST", path, body=encode(message), headers=headers, retries=False, redirect=False,
                preload_content=False, timeout=urllib3.Timeout(connect=min(share, CONNECT_TIMEOUT), read=share),
            )  # fmt: skip
        except (HTTPError, OSError) as error:
            raise failures.of_connection(error, self._settings) from None

    def _body(self, response: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
        """All of it. A member that dribbles is as bad as one that is silent."""
        data = bytearray()
        try:
            while chunk := response.read1(_LARGEST_READ):
                data += chunk
                if time.monotonic() > deadline:
                    raise EndpointFailed("the answer does not come to an end", doubtful=True)
        except (HTTPError, OSError) as error:
            response.close()
            raise failures.of_connection(error, self._settings) from None
        except EndpointFailed:
            response.close()
            raise
        response.release_conn()
        return bytes(data)

    def _failure(self, status: int, data: bytes) -> EndpointFailed:
        try:
            said = decode(data, ErrorAnswer)
        except msgspec.MsgspecError:
            return failures.of_foreign_answer(status, data)
        return failures.of_refusal(said.code, said.message, self._settings)

    @staticmethod
    def _decoded(data: bytes, kind: type[_Answer]) -> _Answer:
        try:
            # A stream of one line, as keep-alives are, is decoded by that line.
            return decode(data.split(b"\n", 1)[0], kind)
        except msgspec.MsgspecError:
            raise failures.of_foreign_answer(200, data) from None


def _wait_at_most(response: urllib3.BaseHTTPResponse, seconds: float) -> None:
    """Let reads of a body take longer than its headers took."""
    if isinstance(response.connection, urllib3.connection.HTTPConnection) and response.connection.sock:
        response.connection.sock.settimeout(seconds)
