"""Requests to an API server, and what it or the way to it refuses."""

import logging
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import msgspec
from lightkube.config import client_adapter
from lightkube.config.kubeconfig import KubeConfig, SingleConfig
from lightkube.config.models import Cluster, User
from lightkube.core.exceptions import ConfigError

# It tells of every request.
logging.getLogger("httpx2").setLevel(logging.WARNING)

Object = dict[str, Any]

#: Seconds to connect, and for each part of an answer.
CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 15.0
#: Objects asked for at a time.
PAGE_SIZE = 500

#: Times that a throttled request is sent, and seconds at most between two.
_ATTEMPTS = 3
_LONGEST_WAIT = 5.0

#: A watch may be silent for minutes; a server that is gone is noticed by these in about 30 seconds (tcp(7)).
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
)

MERGE_PATCH = "application/merge-patch+json"
#: Metadata is all that is wanted of an object (Kubernetes API concepts: metadata-only fetches).
METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_ONLY_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


class ConfigurationError(ValueError):
    """A kubeconfig or service account cannot be used; the message names the file and what is wrong."""


#: What mends a refusal: those of the manifest are all rights that are needed (docs/kubernetes.md).
_MEND = "apply the ServiceAccount, ClusterRole and Role of the manifest"


class Unreachable(Exception):
    """No answer from the API server."""

    refused = False


class ApiError(Exception):
    """The API server refuses. ``code`` is the HTTP status, ``reason`` Kubernetes' word for it.

    As text it has the server's ``message``, which names verb and resource where rights are missing, and the mend.
    """

    def __init__(self, code: int, reason: str, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        #: Seconds that the server asks to wait.
        self.retry_after = retry_after

    @classmethod
    def of(cls, code: int, body: bytes, retry_after: str = "") -> "ApiError":
        """The error that a Status object tells, or whatever else came."""
        try:
            status = msgspec.json.decode(body, type=Object)
            reason, message = str(status.get("reason") or ""), str(status.get("message") or "")
        except msgspec.MsgspecError:
            reason, message = "", body[:200].decode(errors="replace").strip()
        wait = float(retry_after) if retry_after.isdigit() else 0.0
        return cls(code, reason, message or f"HTTP status {code}", wait)

    def __str__(self) -> str:
        if self.refused:
            return f"API server refuses ({self.code}): {self.message}; {_MEND}"
        return f"API server: {self.message}"

    @property
    def refused(self) -> bool:
        """Whether this client may not do that: time alone does not mend it."""
        return self.code in (401, 403)

    @property
    def expired(self) -> bool:
        """Whether a version is forgotten: list anew."""
        return self.code == 410

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed later."""
        return self.code == 429 or self.code >= 500


@dataclass(frozen=True, slots=True)
class Page:
    """A list: the objects, and the version of the whole collection at which they are so."""

    items: tuple[Object, ...]
    version: int


class Client:
    """Safe for several threads. Every request may raise ``Unreachable`` and ``ApiError``."""

    def __init__(self, config: SingleConfig, socket_path: str | None = None) -> None:
        self.server = config.cluster.server
        try:
            user = config.user
            transport = httpx2.HTTPTransport(
                verify=client_adapter.verify_cluster(config.cluster, user, config.abs_file),  # type: ignore[arg-type]
                socket_options=None if socket_path else _KEEPALIVE,
                limits=httpx2.Limits(max_connections=20, keepalive_expiry=60.0),
                uds=socket_path,
            )
            auth = client_adapter.user_auth(user)
        except (OSError, ConfigError) as error:
            raise ConfigurationError(f"cannot speak to {self.server}: {error}") from None
        self._http = httpx2.Client(
            base_url=self.server,
            auth=auth,
            transport=transport,
            timeout=httpx2.Timeout(READ_TIMEOUT, connect=CONNECT_TIMEOUT),
            headers={"User-Agent": "weft"},
        )

    @classmethod
    def from_url(cls, url: str, *known: str) -> tuple["Client", dict[str, str]]:
        """A client for ``kubernetes://`` (in a pod) or ``kubernetes:///PATH/OF/KUBECONFIG``, and its options.

        ``known`` are the options beside ``context``. Raises ConfigurationError.
        """
        path, _, query = url.partition("://")[2].partition("?")
        options = dict(part.partition("=")[::2] for part in query.split("&") if part)
        if unknown := sorted(set(options) - {"context", *known}):
            listed = " and ".join(("context", *known))
            raise ConfigurationError(f"{url}: unknown option {unknown[0]!r}; there is {listed}")
        if path and not path.startswith("/"):
            raise ConfigurationError(f"{url}: write an absolute path of a kubeconfig, or nothing in a pod")
        try:
            return cls.open(path, options.get("context", "")), options
        except ConfigurationError as error:
            raise ConfigurationError(f"{url}: {error}") from None

    @classmethod
    def open(cls, kubeconfig: str = "", context: str = "") -> "Client":
        """A client for a kubeconfig file, or for the pod's service account. Raises ConfigurationError."""
        try:
            loaded = KubeConfig.from_file(kubeconfig) if kubeconfig else KubeConfig.from_service_account()
            config = loaded.get(context or None)
        except (ConfigError, OSError, KeyError, TypeError, ValueError) as error:
            place = kubeconfig or "the pod's service account"
            raise ConfigurationError(f"{place} cannot be used: {error}") from None
        if config is None:
            raise ConfigurationError(f"{kubeconfig}: no current context; name one with ?context=NAME")
        return cls(config)

    @classmethod
    def over_socket(cls, path: str) -> "Client":
        """A client for a server that listens on a Unix socket."""
        config = KubeConfig.from_one(cluster=Cluster(server="http://localhost"), user=User()).get()
        assert config is not None  # noqa: S101  # from_one names its context
        return cls(config, path)

    def get(self, path: str, *, accept: str = "application/json", timeout: float | None = None) -> Object:
        """An object. With a ``timeout``, seconds to connect and for each part of the answer, it is asked once."""
        return self._object("GET", path, headers={"Accept": accept}, timeout=timeout)

    def create(self, path: str, body: Object) -> Object:
        """Write an object that must not exist: ApiError with reason AlreadyExists where it does."""
        return self._object("POST", path, body=body)

    def replace(self, path: str, body: Object) -> Object:
        """Write an object anew; where it names a resourceVersion, that must be the present one."""
        return self._object("PUT", path, body=body)

    def patch(self, path: str, body: Object, *, kind: str = MERGE_PATCH) -> Object:
        """Change parts of an object."""
        return self._object("PATCH", path, body=body, headers={"Content-Type": kind})

    def delete(self, path: str, preconditions: Object | None = None, *, grace: int | None = None) -> None:
        """Delete an object; a pod with ``grace`` seconds to end, those that it names itself by default."""
        options = {"preconditions": preconditions, "gracePeriodSeconds": grace}
        given = {key: value for key, value in options.items() if value is not None}
        body = {"kind": "DeleteOptions", "apiVersion": "v1", **given} if given else None
        self._object("DELETE", path, body=body)

    def list(
        self, path: str, params: Mapping[str, str] | None = None, *, accept: str = "application/json"
    ) -> Page:
        """A collection, asked for in parts, all of one version."""
        while True:
            items: list[Object] = []
            version = 0
            try:
                for page in self.pages(path, params, accept=accept):
                    items += page.items
                    version = page.version
            except ApiError as error:
                # Its parts took longer than the server keeps a version: begin again.
                if not error.expired:
                    raise
            else:
                return Page(tuple(items), version)

    def pages(
        self, path: str, params: Mapping[str, str] | None = None, *, accept: str = "application/json"
    ) -> Iterator[Page]:
        """A collection in parts, all of one version; ``expired`` is raised where that is forgotten meanwhile."""
        wanted = {"limit": str(PAGE_SIZE), **(params or {})}
        while True:
            page = self._object("GET", path, params=wanted, headers={"Accept": accept})
            metadata = page["metadata"]
            yield Page(tuple(page.get("items") or ()), int(metadata["resourceVersion"]))
            if not metadata.get("continue"):
                return
            wanted = {key: value for key, value in wanted.items() if key != "resourceVersion"}
            wanted["continue"] = metadata["continue"]

    @contextmanager
    def stream(self, path: str, params: Mapping[str, str], accept: str) -> Iterator[httpx2.Response]:
        """An answer that does not end, to be read in the block. Errors while reading are ``Unreachable`` too."""
        timeout = httpx2.Timeout(None, connect=CONNECT_TIMEOUT)
        with (
            _translated(self.server),
            self._http.stream(
                "GET", path, params=dict(params), headers={"Accept": accept}, timeout=timeout
            ) as answer,
        ):
            if answer.status_code >= 400:
                raise ApiError.of(answer.status_code, answer.read(), answer.headers.get("Retry-After", ""))
            yield answer

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def _object(
        self,
        method: str,
        path: str,
        *,
        body: Object | None = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Object:
        content = None if body is None else msgspec.json.encode(body)
        wanted = {"Content-Type": "application/json", **(headers or {})}
        attempts = _ATTEMPTS if timeout is None else 1
        limits = httpx2.USE_CLIENT_DEFAULT if timeout is None else httpx2.Timeout(timeout)
        for attempt in range(attempts):
            last = attempt == attempts - 1
            try:
                with _translated(self.server):
                    answer = self._http.request(
                        method, path, content=content, params=dict(params or {}), headers=wanted, timeout=limits
                    )
            except Unreachable as error:
                # A connection kept from before the server's restart: what changes nothing can be asked again.
                if (
                    last
                    or method != "GET"
                    or isinstance(error.__cause__, httpx2.ConnectError | httpx2.TimeoutException)
                ):
                    raise
                continue
            if answer.status_code < 400:
                break
            refusal = ApiError.of(answer.status_code, answer.content, answer.headers.get("Retry-After", ""))
            if last or answer.status_code != 429:
                raise refusal
            time.sleep(min(refusal.retry_after or 1.0, _LONGEST_WAIT))
        try:
            return msgspec.json.decode(answer.content, type=Object)
        except msgspec.MsgspecError as error:
            raise Unreachable(f"API server {self.server}: the answer is no object: {error}") from None


@contextmanager
def _translated(server: str) -> Iterator[None]:
    """HTTP's errors as ours."""
    try:
        yield
    except (httpx2.HTTPError, httpx2.StreamError, OSError, ConfigError) as error:
        raise Unreachable(f"API server {server}: {str(error) or type(error).__name__}") from error


def service_account_namespace(default: str = "kube-system") -> str:
    """The namespace that this pod runs in."""
    try:
        return Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace").read_text().strip() or default
    except OSError:
        return default
