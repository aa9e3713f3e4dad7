"""What must hold on a node before an agent touches anything."""

import contextlib
import fcntl
from collections.abc import Iterator, Sequence
from pathlib import Path

from weft.agent.cni_configuration import is_configured
from weft.agent.dataplane import foreign_routes
from weft.agent.settings import Settings, SettingsError
from weft.ipam.ranges import PodRange, overlapping
from weft.kernel.namespace import NetworkNamespace
from weft.privileges import AGENT, NotPermitted, require, require_writable


def require_privileges(settings: Settings) -> None:
    """Raise NotPermitted where the kernel or a folder does not let this process be an agent: at the start, when
    nothing is touched yet, not at the first ADD."""
    require("agent", AGENT)
    try:
        with NetworkNamespace.current() as own, own.entered():
            pass
    except PermissionError as error:
        raise NotPermitted(
            f"{error.strerror}, although the agent has CAP_SYS_ADMIN: let its seccomp profile allow setns(2)"
        ) from None
    require_writable(settings.state_dir, "--state-dir")
    require_writable(settings.run_dir, "--run-dir")
    if not is_configured(settings.cni_conf_dir):
        require_writable(settings.cni_conf_dir, "--cni-conf-dir")


def overlap(ranges: Sequence[PodRange]) -> str:
    """Which of the ranges this node reaches otherwise, and how; empty where it reaches none."""
    routes = foreign_routes()
    for pods in ranges:
        clash = overlapping(pods.network, [destination for destination, _ in routes])
        if clash is not None:
            device = next(device for destination, device in routes if destination == clash)
            return (
                f"range {pods} overlaps the route {clash} of device {device}: "
                f"give a --range that this node does not reach otherwise"
            )
    return ""


@contextlib.contextmanager
def only_one(state_dir: Path) -> Iterator[None]:
    """Hold the state folder's lock. Raises SettingsError where another agent has it."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (state_dir / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(
                f"another agent runs with the state folder {state_dir}: give this one another --state-dir"
            ) from None
        yield
