"""What an etcd URL says, checked before anything is sent. Pure, but for the files of the credentials.

etcd://HOST[:PORT],…/PREFIX?OPTION=VALUE&…    plain; ``etcds`` with TLS

ca=FILE  cert=FILE  key=FILE      TLS: whom to trust, and who we are
user=NAME  password-file=FILE     or WEFT_ETCD_USER and WEFT_ETCD_PASSWORD in the environment
timeout=SECONDS                   the bound of every call (5)
presence=SECONDS                  how long a node without a sign of life counts as alive (60)
cluster=NAME                      refused where the prefix belongs to a cluster of another name
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl

DEFAULT_PORT = 2379
DEFAULT_PREFIX = "/weft"
DEFAULT_TIMEOUT = 5.0
DEFAULT_PRESENCE = 60
USER_VARIABLE = "WEFT_ETCD_USER"
PASSWORD_VARIABLE = "WEFT_ETCD_PASSWORD"  # noqa: S105  # a name, not a password

_FORM = "etcd://HOST:PORT,HOST:PORT/PREFIX"
_OPTIONS = ("ca", "cert", "key", "user", "password-file", "timeout", "presence", "cluster")
_TLS_OPTIONS = ("ca", "cert", "key")
_PREFIX = re.compile(r"(/[A-Za-z0-9._-]+)+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A member of etcd: host (an IPv6 address without brackets) and port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class EtcdSettings:
    """How etcd is reached. ``prefix`` begins and does not end with a slash; ``timeout`` and ``presence`` are in
    seconds."""

    endpoints: tuple[Endpoint, ...]
    prefix: str = DEFAULT_PREFIX
    tls: bool = False
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    user: str | None = None
    password_file: str | None = None
    timeout: float = DEFAULT_TIMEOUT
    presence: int = DEFAULT_PRESENCE
    cluster: str | None = None
    #: From the environment. Never shown.
    environment_password: str | None = field(default=None, repr=False)

    def password(self) -> str:
        """The password, read anew so that it can be changed while an agent runs. Raises OSError, ValueError."""
        if self.password_file is None:
            return self.environment_password or ""
        return Path(self.password_file).read_text().rstrip("\r\n")

    @property
    def tls_files(self) -> list[str]:
        """The files that TLS is made from."""
        return [path for path in (self.ca, self.cert, self.key) if path]

    @property
    def ancestors(self) -> list[str]:
        """The prefixes within which this one lies: of /a/b/c, /a and /a/b."""
        parts = self.prefix.split("/")[1:-1]
        return ["/" + "/".join(parts[: count + 1]) for count in range(len(parts))]


def parse_etcd_url(url: str, environment: Mapping[str, str]) -> EtcdSettings:
    """Check an etcd URL. Raises ValueError, which names the bad part and the mend and never shows a password."""
    kind, _, rest = url.partition("://")
    location, _, query = rest.partition("?")
    authority, slash, path = location.partition("/")
    if "@" in authority:
        raise ValueError(
            f"store {kind}://…: no user or password in a URL, which others can read in the list of processes: "
            f"give user= and password-file=, or {USER_VARIABLE} and {PASSWORD_VARIABLE} in the environment"
        )
    tls = kind == "etcds"
    options = _options(query)
    if not tls and (foreign := next((name for name in _TLS_OPTIONS if name in options), None)):
        raise ValueError(f"store {url!r}: {foreign}= needs TLS: write etcds://")
    if ("cert" in options) != ("key" in options):
        raise ValueError(f"store {url!r}: a client certificate needs both cert= and key=")
    user = options.get("user") or environment.get(USER_VARIABLE) or None
    password = environment.get(PASSWORD_VARIABLE) or None
    if user and not password and "password-file" not in options:
        raise ValueError(f"store {url!r}: user {user!r} needs password-file=FILE, or {PASSWORD_VARIABLE}")
    if "password-file" in options and not user:
        raise ValueError(f"store {url!r}: password-file= needs user=NAME, or {USER_VARIABLE}")
    settings = EtcdSettings(
        endpoints=_endpoints(url, authority),
        prefix=_prefix(url, slash + path),
        tls=tls,
        ca=options.get("ca"),
        cert=options.get("cert"),
        key=options.get("key"),
        user=user,
        password_file=options.get("password-file"),
        timeout=_timeout(options.get("timeout")),
        presence=_presence(options.get("presence")),
        cluster=_cluster(options.get("cluster")),
        environment_password=password,
    )
    for name in ("ca", "cert", "key", "password-file"):
        _readable(name, options.get(name))
    return settings


def _options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        raise ValueError("store: write what follows '?' as NAME=VALUE&NAME=VALUE") from None
    for name, value in pairs:
        if name not in _OPTIONS:
            raise ValueError(f"store: option {name!r} is not known; there are {', '.join(_OPTIONS)}")
        if not value or name in options:
            raise ValueError(f"store: option {name}= must be given once, with a value")
        options[name] = value
    return options


def _endpoints(url: str, authority: str) -> tuple[Endpoint, ...]:
    found = []
    for text in authority.split(","):
        host, port = text, str(DEFAULT_PORT)
        if ":" in text.rpartition("]")[2]:
            host, _, port = text.rpartition(":")
        if not _HOST.fullmatch(host) or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError(f"store {url!r}: endpoint {text!r} is not HOST:PORT; write it as {_FORM}")
        found.append(Endpoint(host.strip("[]"), int(port)))
    if len(set(found)) != len(found):
        raise ValueError(f"store {url!r} names an endpoint twice")
    return tuple(found)


def _prefix(url: str, path: str) -> str:
    prefix = path.rstrip("/") or DEFAULT_PREFIX
    if not _PREFIX.fullmatch(prefix):
        raise ValueError(f"store {url!r}: prefix {path!r}: use letters, digits, '.', '_' and '-' between slashes")
    return prefix


def _timeout(text: str | None) -> float:
    try:
        seconds = float(text) if text else DEFAULT_TIMEOUT
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 60:
        raise ValueError(f"store: timeout={text}: give 0.1 to 60 seconds")
    return seconds


def _presence(text: str | None) -> int:
    seconds = int(text) if text and text.isascii() and text.isdigit() else 0 if text else DEFAULT_PRESENCE
    # etcd makes leases no shorter than one and a half elections.
    if not 3 <= seconds <= 86400:
        raise ValueError(f"store: presence={text}: give 3 to 86400 whole seconds")
    return seconds


def _cluster(name: str | None) -> str | None:
    if name is not None and not _NAME.fullmatch(name):
        raise ValueError(f"store: cluster={name}: use letters, digits, '.', '_' and '-'")
    return name


def _readable(name: str, path: str | None) -> None:
    if path is None:
        return
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise ValueError(f"store: {name}={path}: {error.strerror}: give a file that this agent can read") from None
