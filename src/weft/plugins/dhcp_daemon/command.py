"""``dhcp daemon``: the reference daemon's command line."""

import argparse
import contextlib
import logging
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from weft.dhcp import Timing
from weft.plugins.dhcp_daemon.daemon import (
    Daemon,
    DaemonError,
    DaemonSettings,
    passed_listener,
)
from weft.plugins.dhcp_daemon.journal import JournalError
from weft.plugins.dhcp_daemon.keys import DEFAULT_SOCKET

DEFAULT_STATE_FOLDER = "/var/lib/weft/dhcp"
#: Units of Go's durations, in seconds.
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


def main(arguments: Sequence[str], program: str = "dhcp daemon") -> int:
    """Run the daemon until SIGTERM or SIGINT; the exit status."""
    given = _parse(arguments, program)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)-7s %(message)s", force=True
    )
    socket_path = given.socketpath or DEFAULT_SOCKET
    # Daemons with sockets of their own keep journals of their own.
    journal = f"{given.statedir}/{socket_path.strip('/').replace('/', '-')}.db"
    settings = DaemonSettings(
        Path(given.hostprefix + socket_path),
        Path(given.hostprefix + journal),
        given.hostprefix,
        given.broadcast,
        Timing(given.timeout, given.resendmax, given.resendtimeout),
    )
    try:
        return _serve(settings, given.pidfile)
    except (DaemonError, JournalError, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1


def parse_duration(text: str) -> float:
    """Seconds of a duration as Go writes it, such as 1m2s or 500ms. Raises ValueError."""
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is no duration; write it as 10s or 1m2s")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if seconds <= 0:
        raise ValueError(f"{text!r} is no time at all; write it as 10s or 1m2s")
    return seconds


def _serve(settings: DaemonSettings, pid_file: str) -> int:
    if pid_file:
        if not pid_file.startswith("/"):
            raise DaemonError(f"-pidfile {pid_file!r}: give an absolute path")
        Path(pid_file).write_text(str(os.getpid()))
    try:
        daemon = Daemon(settings, passed_listener())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: daemon.stop())
        daemon.run()
    finally:
        if pid_file:
            with contextlib.suppress(FileNotFoundError):
                Path(pid_file).unlink()
    return 0


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description="Get leases from DHCP servers for the IPAM plugin dhcp, and keep them.",
        allow_abbrev=False,
    )
    usual = Timing()
    parser.add_argument("-pidfile", default="", metavar="PATH", help="where to write the daemon's process ID")
    parser.add_argument("-hostprefix", default="", metavar="PATH", help="prefix of all paths of the host")
    parser.add_argument("-socketpath", default="", metavar="PATH", help=f"default {DEFAULT_SOCKET}")
    parser.add_argument(
        "-statedir",
        default=DEFAULT_STATE_FOLDER,
        metavar="PATH",
        help=f"folder of the journal (default {DEFAULT_STATE_FOLDER})",
    )
    parser.add_argument("-broadcast", action="store_true", help="ask servers to answer by broadcast")
    for name, default, what in (
        ("timeout", usual.timeout, "time for one exchange with a server"),
        ("resendmax", usual.resend_max, "longest time between two sendings"),
        ("resendtimeout", usual.resend_timeout, "time after which asking for a lease is given up"),
    ):
        parser.add_argument(
            f"-{name}", type=_duration, default=default, metavar="DURATION", help=f"{what} (default {default:g}s)"
        )
    return parser


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _parse(arguments: Sequence[str], program: str) -> argparse.Namespace:
    """Ends the process with 2 for what is no option, and after -h with 0."""
    parser = _parser(program)
    known = {name for action in parser._actions for name in action.option_strings}
    found = []
    for argument in arguments:
        # Go takes two dashes for one, and a switch's value behind an equals sign.
        text = argument[1:] if argument.startswith("--") else argument
        text = {"-help": "-h", "-broadcast=true": "-broadcast", "-broadcast=false": ""}.get(text, text)
        if text.startswith("-") and text.partition("=")[0] not in known:
            # argparse would take -socket for -socketpath.
            parser.error(f"unknown option {argument}")
        found += [text] if text else []
    return parser.parse_args(found)
