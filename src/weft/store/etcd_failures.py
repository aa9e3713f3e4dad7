"""What went wrong at a member of etcd, in words that name the mend. Pure."""

import ssl

from urllib3.exceptions import (
    ConnectTimeoutError,
    NameResolutionError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
)

from weft.store.etcd_settings import PASSWORD_VARIABLE, EtcdSettings

# gRPC's codes (https://grpc.io/docs/guides/status-codes/).
_INVALID_ARGUMENT = 3
_PERMISSION_DENIED = 7
_RESOURCE_EXHAUSTED = 8
_UNAUTHENTICATED = 16
#: Codes with which nothing was done; after UNAVAILABLE, for one, nobody knows.
_UNDONE = (_INVALID_ARGUMENT, _PERMISSION_DENIED, _RESOURCE_EXHAUSTED)
_LASTING = (_INVALID_ARGUMENT,)

#: A part of etcd's words (etcdserver/api/v3rpc/rpctypes/error.go), ours, and whether all members say the same.
_REFUSALS = (
    ("authentication is not enabled", "{said}", True),
    ("user name is empty", f"it wants a user: give user= and password-file=, or {PASSWORD_VARIABLE}", True),
    (
        "authentication failed",
        "the user {user!r} or its password is not right: correct user= and what password-file= names",
        True,
    ),
    (
        "permission denied",
        "permission denied: give user {user!r} a role for the prefix "
        "(etcdctl role grant-permission ROLE --prefix=true readwrite {prefix})",
        True,
    ),
    (
        "database space exceeded",
        "its database is full, so it takes no writes: compact and defragment it, raise --quota-backend-bytes, "
        "then 'etcdctl alarm disarm'",
        True,
    ),
    ("lease not found", "{said}: it has run out meanwhile", True),
    ("no leader", "it has no leader: it is cut off from most members, or they are electing one", False),
)

_NO_GATEWAY = 404


class EndpointFailed(Exception):
    """One member did not do what it was asked.

    ``doubtful``: it may have done it. ``lasting``: time alone does not mend it. ``final``: every other member
    would say the same. ``token_refused``, ``not_enabled``: of authentication, see ``Gateway``.
    """

    def __init__(
        self,
        reason: str,
        *,
        doubtful: bool = False,
        lasting: bool = False,
        final: bool = False,
        token_refused: bool = False,
        not_enabled: bool = False,
    ) -> None:
        super().__init__(reason)
        self.doubtful = doubtful
        self.lasting = lasting
        self.final = final
        self.token_refused = token_refused
        self.not_enabled = not_enabled

    def as_undone(self) -> "EndpointFailed":
        """The same, of a request that changes nothing whether it was carried out or not."""
        return EndpointFailed(str(self), lasting=self.lasting, final=self.final)


def of_connection(error: Exception, settings: EtcdSettings) -> EndpointFailed:
    """From an exception of urllib3 or of the socket below it."""
    if isinstance(error, NameResolutionError):
        return EndpointFailed("the host name cannot be resolved: check the endpoints in --store")
    if isinstance(error, NewConnectionError):
        reason = error.__cause__ or error.__context__
        said = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(error)
        return EndpointFailed(f"{said}: check that etcd listens there, or give other endpoints in --store")
    if isinstance(error, ConnectTimeoutError):
        return EndpointFailed("no connection in time: check the endpoint and the network between")
    if isinstance(error, ReadTimeoutError):
        return EndpointFailed("no answer in time", doubtful=True)
    cause = _tls_error(error)
    if cause is not None:
        return _of_tls(cause, settings)
    said = str(error.args[-1]) if error.args else str(error)
    hint = "" if settings.tls else "; with TLS it is etcds:// in --store"
    return EndpointFailed(f"the connection broke ({said}){hint}", doubtful=True)


def of_foreign_answer(status: int, data: bytes) -> EndpointFailed:
    """From an answer that is not etcd's JSON."""
    start = data[:80].decode(errors="replace").strip()
    if b"HTTP request to an HTTPS server" in data:
        return EndpointFailed("it speaks TLS: write etcds:// in --store", lasting=True)
    if b"CommonName of client" in data:
        return EndpointFailed(
            "with users and client certificates together, etcd's gateway takes only certificates without a Common "
            "Name: give cert= one such as of subject /O=weft",
            final=True,
        )
    if status == _NO_GATEWAY:
        return EndpointFailed(
            "it has no JSON gateway at /v3: Weft needs etcd 3.4 or later with --enable-grpc-gateway=true",
            lasting=True,
        )
    return EndpointFailed(
        f"this is not etcd (HTTP status {status}: {start!r})",
        lasting=True,
        doubtful=status == 200 or status >= 500,
    )


def of_refusal(code: int, message: str, settings: EtcdSettings) -> EndpointFailed:
    """From etcd's own error."""
    said = message.removeprefix("etcdserver: ")
    if code == _UNAUTHENTICATED or "auth store is old" in said or "auth revision" in said:
        return EndpointFailed(said, token_refused=True)
    if code == _PERMISSION_DENIED:
        said = "permission denied" if settings.user else "user name is empty"
    for part, mend, final in _REFUSALS:
        if part in said:
            reason = mend.format(said=said, user=settings.user, prefix=settings.prefix)
            return EndpointFailed(reason, final=final, not_enabled="not enabled" in said)
    return EndpointFailed(said or f"gRPC status {code}", doubtful=code not in _UNDONE, lasting=code in _LASTING)


def _tls_error(error: BaseException) -> ssl.SSLError | None:
    """The TLS error below an exception of urllib3, which keeps it as an argument or as its context."""
    if isinstance(error, ssl.SSLError):
        return error
    inner = [each for each in error.args if isinstance(each, Exception)]
    if isinstance(error, SSLError) and not inner:
        return ssl.SSLError(str(error))
    return next((found for each in inner if (found := _tls_error(each))), None)


def _of_tls(error: ssl.SSLError, settings: EtcdSettings) -> EndpointFailed:
    said = getattr(error, "verify_message", "") or error.reason or str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        mend = (
            "give the name or address for which it is in --store"
            if "mismatch" in said
            else f"give ca=FILE of the CA that signed it (now {settings.ca or 'the CAs of this machine'})"
        )
        return EndpointFailed(f"its certificate is refused ({said}): {mend}", lasting=True)
    if "WRONG_VERSION_NUMBER" in said or "RECORD_LAYER" in said:
        return EndpointFailed(f"it does not speak TLS ({said}): write etcd:// in --store", lasting=True)
    if "ALERT" in said and ("CERTIFICATE" in said or "UNKNOWN_CA" in said):
        ours = settings.cert or "none is given"
        return EndpointFailed(
            f"it refuses this client's certificate ({said}): give cert=FILE and key=FILE that its CA signed "
            f"(now {ours})",
            lasting=True,
        )
    # A member that ends looks the same as one that does not know TLS and hangs up.
    return EndpointFailed(
        f"the TLS connection broke ({said}); without TLS it is etcd:// in --store", doubtful=True
    )
