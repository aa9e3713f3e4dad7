"""What an operator tells an agent, checked before anything is touched."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from pathlib import Path

from weft.ipam.ranges import IPAddress, IPNetwork, PodRange, parse_block_sizes, parse_ranges
from weft.ipam.shares import Init, parse_init
from weft.npc.settings import PolicySettings, parse_policy_settings

#: A node's name is what Kubernetes takes as one (RFC 1123 subdomain).
_NODE_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
#: Seconds in thirty days.
_LONGEST_COLLECT_AFTER = 30 * 24 * 3600
_DEFAULT_RANGE = "10.32.0.0/12"


class SettingsError(Exception):
    """A setting cannot be used; the message names it, its value and the mend."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of an agent. ``node_address`` and ``mtu`` (bytes) are found out where they are None.

    ``ranges`` have the usual block sizes, which the cluster's own replace, but those in ``sized``.
    Without a ``dhcp_socket`` the agent keeps no DHCP leases. ``collect_after`` is in seconds, None for never. With
    ``annotations`` pods ask for addresses by them; ``request_api`` is the API server that tells those which no
    runtime does, empty where there is none.
    """

    node_name: str
    ranges: tuple[PodRange, ...]
    sized: frozenset[IPNetwork]
    store: str
    init: Init
    node_address: IPAddress | None
    mtu: int | None
    state_dir: Path
    run_dir: Path
    cni_conf_dir: Path
    dhcp_socket: Path | None
    http_address: tuple[str, int] | None
    metrics_address: tuple[str, int] | None
    hairpin: bool
    collect_after: float | None
    log_level: str
    policy: PolicySettings
    annotations: bool
    request_api: str

    @property
    def cni_socket(self) -> Path:
        """Where the launcher finds the agent."""
        return self.run_dir / "cni.sock"

    @property
    def status_socket(self) -> Path:
        """Where the HTTP API is, for root."""
        return self.run_dir / "status.sock"

    @property
    def deletions(self) -> Path:
        """Where the launcher leaves a DEL that no agent answered."""
        return self.state_dir / "deletions"


def parse_settings(values: Mapping[str, str | None]) -> Settings:
    """Check the settings as text, by their option names; absent ones are None.

    Raises SettingsError for the first that cannot be used.
    """

    def text(name: str, default: str) -> str:
        return values.get(name) or default

    node_name = values.get("node-name") or ""
    if not node_name:
        raise SettingsError("--node-name is missing: give this node's name, or set HOSTNAME")
    if not _NODE_NAME.fullmatch(node_name) or len(node_name) > 253:
        raise SettingsError(f"--node-name {node_name!r}: use lower-case letters, digits, '-' and '.' only")
    try:
        ranges = parse_ranges(text("range", _DEFAULT_RANGE), text("block-size", ""), text("exclude", ""))
        sized = frozenset(parse_block_sizes(text("block-size", ""), [pods.network for pods in ranges]))
    except ValueError as error:
        raise SettingsError(f"--range: {error}") from None
    try:
        init = parse_init(text("ipalloc-init", "consensus"))
    except ValueError as error:
        raise SettingsError(f"--ipalloc-init: {error}") from None
    state_dir = Path(text("state-dir", "/var/lib/weft"))
    run_dir = Path(text("run-dir", "/run/weft"))
    hairpin = text("hairpin", "true").lower()
    if hairpin not in ("true", "false"):
        raise SettingsError(f"HAIRPIN_MODE {hairpin!r}: use true or false")
    store = text("store", f"sqlite://{state_dir}/store.db")
    request_api = text("request-api", store if store.startswith("kubernetes://") else "")
    if request_api and request_api != "off" and not request_api.startswith("kubernetes://"):
        raise SettingsError(
            f"--request-api {request_api!r}: write kubernetes://, kubernetes:///PATH/OF/KUBECONFIG, or off"
        )
    return Settings(
        node_name=node_name,
        ranges=ranges,
        sized=sized,
        store=store,
        init=init,
        node_address=_address(values.get("node-address")),
        mtu=_mtu(values.get("mtu")),
        state_dir=state_dir,
        run_dir=run_dir,
        cni_conf_dir=Path(text("cni-conf-dir", "/etc/cni/net.d")),
        dhcp_socket=_dhcp_socket(text("dhcp-socket", str(run_dir / "dhcp.sock"))),
        http_address=_http_address("http-address", text("http-address", "127.0.0.1:6784")),
        metrics_address=_http_address("metrics-address", text("metrics-address", "off")),
        hairpin=hairpin == "true",
        collect_after=_collect_after(text("collect-after", "600")),
        log_level=_log_level(text("log-level", "info")),
        policy=_policy(values),
        annotations=request_api != "off",
        request_api="" if request_api == "off" else request_api,
    )


def _policy(values: Mapping[str, str | None]) -> PolicySettings:
    try:
        return parse_policy_settings(values)
    except ValueError as error:
        raise SettingsError(str(error)) from None


def _address(text: str | None) -> IPAddress | None:
    if not text:
        return None
    try:
        return ip_address(text)
    except ValueError:
        raise SettingsError(f"--node-address {text!r} is not an IP address") from None


def _mtu(text: str | None) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise SettingsError(f"--mtu {text!r} is not a number of bytes")
    return int(text)


def _dhcp_socket(text: str) -> Path | None:
    if text in ("off", "disabled"):
        return None
    if not text.startswith("/"):
        raise SettingsError(f"--dhcp-socket {text!r}: give an absolute path, or off")
    return Path(text)


def _http_address(name: str, text: str) -> tuple[str, int] | None:
    if text in ("off", "disabled"):
        return None
    host, separator, port = text.rpartition(":")
    try:
        if not separator or not 0 < int(port) < 65536:
            raise ValueError
        IPv4Address(host)
    except ValueError:
        raise SettingsError(f"--{name} {text!r}: write it as 127.0.0.1:6784, or off") from None
    return host, int(port)


def _collect_after(text: str) -> float | None:
    if text == "off":
        return None
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= _LONGEST_COLLECT_AFTER):
        raise SettingsError(f"--collect-after {text!r}: give 1 to {_LONGEST_COLLECT_AFTER} seconds, or off")
    return float(text)


def _log_level(text: str) -> str:
    level = text.upper()
    if level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise SettingsError(f"--log-level {text!r}: use debug, info, warning or error")
    return level
