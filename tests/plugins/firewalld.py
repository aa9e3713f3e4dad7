"""A real firewalld for a test: its own bus, its own folders, in a namespace of the test.

The daemon's package would start it on the machine itself when it is installed; so only Debian's python3-firewall,
which has the daemon's code, is asked for, and the zones that it cannot do without are written here.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.namespaces import path

#: Debian's Python, which has the packages.
PYTHON = "/usr/bin/python3"
_BUS = """<busconfig>
<type>system</type><listen>unix:path={folder}/bus</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow eavesdrop="true"/>
</policy></busconfig>
"""
_ZONE = '<zone target="{target}"><short>{name}</short></zone>\n'
_ZONES = {"trusted": "ACCEPT", "block": "%%REJECT%%", "drop": "DROP", "public": "default", "internal": "default"}
_DAEMON = """
import sys
from firewall import config
folder = sys.argv[1]
config.set_default_config_paths(folder)
config.set_system_config_paths(folder)
config.FIREWALLD_TEMPDIR = folder
config.COMMANDS["modprobe"] = config.COMMANDS["rmmod"] = "/bin/true"
from firewall.server import server
server.run_server()
"""
_STATE = """
import dbus, sys
name = "org.fedoraproject.FirewallD1"
daemon = dbus.bus.BusConnection(sys.argv[1]).get_object(name, "/org/fedoraproject/FirewallD1")
print(daemon.Get(name, "state", dbus_interface="org.freedesktop.DBus.Properties"))
"""


def lacking() -> str:
    """Why there can be no firewalld here; empty where there can."""
    done = subprocess.run(
        [PYTHON, "-c", "import firewall.server.server, nftables"], capture_output=True, check=False, timeout=60
    )
    return (
        "" if done.returncode == 0 else "firewalld is not installed (Debian: python3-firewall, python3-nftables)"
    )


@contextmanager
def firewalld(namespace: str, folder: Path) -> Iterator[str]:
    """The address of a bus on which firewalld answers, until the block ends."""
    (folder / "zones").mkdir(parents=True)
    for name, target in _ZONES.items():
        (folder / "zones" / f"{name}.xml").write_text(_ZONE.format(name=name, target=target))
    (folder / "firewalld.conf").write_text("DefaultZone=public\nCleanupOnExit=no\nFirewallBackend=nftables\n")
    (folder / "bus.conf").write_text(_BUS.format(folder=folder))
    address = f"unix:path={folder}/bus"
    with _running(namespace, "dbus-daemon", "--nofork", f"--config-file={folder}/bus.conf"):
        _await((folder / "bus").exists, "dbus-daemon")
        with _running(namespace, PYTHON, "-c", _DAEMON, str(folder), bus=address):
            _await(lambda: _state(address) == "RUNNING", "firewalld")
            yield address


def _state(address: str) -> str:
    done = subprocess.run([PYTHON, "-c", _STATE, address], capture_output=True, text=True, check=False, timeout=30)
    return done.stdout.strip()


@contextmanager
def _running(namespace: str, *command: str, bus: str = "") -> Iterator[None]:
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DBUS_SYSTEM_BUS_ADDRESS": bus, "LC_ALL": "C"}
    process = subprocess.Popen(
        ["nsenter", f"--net={path(namespace)}", *command], env=environment, stdout=sys.stderr
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(ready: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not ready():
        assert time.monotonic() < deadline, f"{what} does not come up"
        time.sleep(0.05)
