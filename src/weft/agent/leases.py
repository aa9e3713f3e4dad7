"""The DHCP daemon that is part of the agent, and the plugin that asks it."""

from weft.agent.settings import Settings, SettingsError
from weft.plugins import Plugin
from weft.plugins.dhcp_daemon.daemon import Daemon, DaemonError, DaemonSettings
from weft.plugins.dhcp_daemon.journal import JournalError
from weft.plugins.ipam.dhcp import Dhcp

#: Seconds that an ADD waits for a DHCP server: less than the launcher waits for the agent.
WAIT = 25.0
#: ADDs that may wait for one at the same time. The other workers are for everybody else.
AT_ONCE = 8


def open_daemon(settings: Settings) -> Daemon | None:
    """The daemon, not running yet; None where the operator wants none. Raises SettingsError."""
    if settings.dhcp_socket is None:
        return None
    try:
        return Daemon(DaemonSettings(settings.dhcp_socket, settings.state_dir / "dhcp.db"))
    except (DaemonError, JournalError) as error:
        raise SettingsError(f"--dhcp-socket {settings.dhcp_socket}: {error}") from None


def plugins(settings: Settings) -> dict[str, Plugin]:
    """The plugin in place of the registry's, which would look for the reference's daemon."""
    if settings.dhcp_socket is None:
        return {}
    return {"dhcp": Dhcp(str(settings.dhcp_socket), WAIT, AT_ONCE)}
