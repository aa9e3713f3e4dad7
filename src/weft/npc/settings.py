"""What an operator tells the policy controller, checked before anything is touched."""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from weft.npc.controller import Choices
from weft.npc.source import Source

#: Option, environment variable, help: of the agent and of ``weft npc`` alike.
OPTIONS = (
    ("policy-dir", "WEFT_POLICY_DIR", "Folder of manifests (NetworkPolicy, Pod, Namespace) to enforce."),
    (
        "policy-api",
        "WEFT_POLICY_API",
        "API server to take policies from: kubernetes://, or with a kubeconfig's path.",
    ),
    ("policy-wait", "WEFT_POLICY_WAIT", "Seconds that an attach waits for its pod's labels (default 2)."),
    (
        "policy-unknown",
        "WEFT_POLICY_UNKNOWN",
        "A pod whose labels do not come: closed isolates it where its namespace has policies, open does not "
        "(default closed).",
    ),
    ("policy-cut", "WEFT_POLICY_CUT", "Whether connections that are no longer allowed end (default true)."),
    ("policy-log", "WEFT_POLICY_LOG", "Whether what is dropped is logged, 10 a second at most (default false)."),
    (
        "policy-metrics",
        "WEFT_POLICY_METRICS",
        "Where counters are served, as 127.0.0.1:6781 (default off).",
    ),
)


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """Where policies come from: a folder, an API server, a controller in a process of its own, or nowhere."""

    folder: Path | None
    api: str
    expect_npc: bool
    choices: Choices


def parse_policy_settings(values: Mapping[str, str | None]) -> PolicySettings:
    """Check the options as text, by their names. Raises ValueError for the first that cannot be used."""
    folder, api = values.get("policy-dir"), values.get("policy-api") or ""
    expected = parse_flag("expect-npc", values.get("expect-npc") or "false")
    for name, value in (("policy-dir", folder), ("policy-api", api)):
        if value and expected:
            raise ValueError(f"--{name} {value!r}: with --expect-npc it is the controller's to give")
    if folder and api:
        raise ValueError(f"--policy-dir {folder!r} and --policy-api {api!r}: give one of them")
    if api and not api.startswith("kubernetes://"):
        raise ValueError(f"--policy-api {api!r}: write it as kubernetes:// or kubernetes:///PATH/OF/KUBECONFIG")
    return PolicySettings(Path(folder) if folder else None, api, expected, parse_choices(values))


def open_source(settings: PolicySettings) -> Source | None:
    """The source that the settings name; None where they name none. Raises ValueError."""
    # Only what is used is loaded.
    if settings.folder is not None:
        from weft.npc.folder import FolderSource  # noqa: PLC0415

        return FolderSource(settings.folder)
    if settings.api:
        from weft.kubernetes import Client  # noqa: PLC0415
        from weft.npc.cluster import ClusterSource  # noqa: PLC0415

        return ClusterSource(Client.from_url(settings.api)[0])
    return None


def parse_choices(values: Mapping[str, str | None]) -> Choices:
    """Check the options as text, by their names. Raises ValueError for the first that cannot be used."""
    wait = values.get("policy-wait") or "2"
    try:
        seconds = float(wait)
        if not 0 <= seconds <= 20:
            raise ValueError
    except ValueError:
        raise ValueError(f"--policy-wait {wait!r}: give 0 to 20 seconds") from None
    unknown = values.get("policy-unknown") or "closed"
    if unknown not in ("closed", "open"):
        raise ValueError(f"--policy-unknown {unknown!r}: use closed or open")
    return Choices(
        wait=seconds,
        open_unknown=unknown == "open",
        cut=parse_flag("policy-cut", values.get("policy-cut") or "true"),
        log=parse_flag("policy-log", values.get("policy-log") or "false"),
        metrics=_address(values.get("policy-metrics") or "off"),
    )


def _address(text: str) -> tuple[str, int] | None:
    if text in ("off", "disabled"):
        return None
    host, separator, port = text.rpartition(":")
    try:
        if not separator or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError
        IPv4Address(host)
    except ValueError:
        raise ValueError(f"--policy-metrics {text!r}: write it as 127.0.0.1:6781, or off") from None
    return host, int(port)


def parse_flag(name: str, text: str) -> bool:
    """True or false, as 1 or 0 too. Raises ValueError."""
    if text.lower() not in ("true", "false", "1", "0"):
        raise ValueError(f"--{name} {text!r}: use true or false")
    return text.lower() in ("true", "1")
