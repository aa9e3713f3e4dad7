"""firewalld, by D-Bus: the container's addresses as sources of a zone.

Source: https://firewalld.org/documentation/man-pages/firewalld.dbus.html
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft.cni.results import IPInterface

if TYPE_CHECKING:
    from jeepney.io.blocking import DBusConnection

_BUS_ADDRESS = "DBUS_SYSTEM_BUS_ADDRESS"
_BUS_SOCKET = Path("/var/run/dbus/system_bus_socket")
#: Path, name, interface.
_BUS = ("/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus")
_NAME = "org.fedoraproject.FirewallD1"
_ZONE = ("/org/fedoraproject/FirewallD1", _NAME, f"{_NAME}.zone")
_ALREADY_THERE = "ZONE_ALREADY_SET"
#: Seconds for the bus to let us in, and for an answer: firewalld applies whole rulesets.
_LOGIN_TIMEOUT = 2.0
_TIMEOUT = 30.0


class FirewalldError(Exception):
    """firewalld, or the bus that it is on, is not there or refuses."""


def running() -> bool:
    """Whether firewalld is on the system's bus."""
    try:
        with _bus() as bus:
            _call(bus, _BUS, "GetNameOwner", _NAME)
    except FirewalldError:
        return False
    return True


def open_for(zone: str, addresses: Sequence[IPInterface]) -> None:
    """Put addresses into a zone. Raises FirewalldError."""
    with _bus() as bus:
        for address in addresses:
            try:
                _call(bus, _ZONE, "addSource", zone, _source(address))
            except FirewalldError as error:
                if _ALREADY_THERE not in str(error):
                    raise


def close(zone: str, addresses: Sequence[IPInterface]) -> None:
    """Take addresses out of a zone; fine where they are not in it, or where there is no firewalld any more."""
    with suppress(FirewalldError), _bus() as bus:
        for address in addresses:
            with suppress(FirewalldError):
                _call(bus, _ZONE, "removeSource", zone, _source(address))


def check(zone: str, addresses: Sequence[IPInterface]) -> None:
    """Raise FirewalldError where an address is not in a zone."""
    with _bus() as bus:
        for address in addresses:
            if not _call(bus, _ZONE, "querySource", zone, _source(address)):
                raise FirewalldError(f"zone {zone} lacks the source {_source(address)}")


def _source(address: IPInterface) -> str:
    return str(ip_network(address.ip))


@contextmanager
def _bus() -> Iterator["DBusConnection"]:
    # Most hosts have no bus; they should not pay for the library.
    if not os.environ.get(_BUS_ADDRESS) and not _BUS_SOCKET.exists():
        raise FirewalldError(f"there is no D-Bus here: no {_BUS_SOCKET}")
    from jeepney.io.blocking import open_dbus_connection  # noqa: PLC0415

    try:
        bus = open_dbus_connection("SYSTEM", auth_timeout=_LOGIN_TIMEOUT)
    except (OSError, RuntimeError, ValueError) as error:
        raise FirewalldError(f"cannot connect to the system's D-Bus: {error}") from None
    try:
        yield bus
    finally:
        bus.close()


def _call(bus: "DBusConnection", place: tuple[str, str, str], method: str, *words: str) -> Any:
    """The first value of the answer."""
    from jeepney import DBusAddress, MessageType, new_method_call  # noqa: PLC0415

    path, name, interface = place
    message = new_method_call(DBusAddress(path, name, interface), method, "s" * len(words), words)
    try:
        answer = bus.send_and_get_reply(message, timeout=_TIMEOUT)
    except OSError as error:
        raise FirewalldError(f"{name} gave no answer to {method}: {error}") from None
    if answer.header.message_type is MessageType.error:
        said = next(iter(answer.body), "no reason given")
        raise FirewalldError(f"{name} refused {method} {' '.join(words)}: {said}")
    return next(iter(answer.body), None)
