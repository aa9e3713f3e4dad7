"""``weft dhcp``: the daemon behind the IPAM plugin ``dhcp``, on a host without an agent."""

import sys

import click


@click.group("dhcp", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Leases for pods whose addresses come from a DHCP server."""


@command.command("daemon", context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def daemon(arguments: tuple[str, ...]) -> None:
    """Get leases and keep them, in the foreground; -h shows the options.

    The options are those of the reference's dhcp daemon. An agent has this daemon built in.
    """
    from weft.plugins.dhcp_daemon.command import main  # noqa: PLC0415

    sys.exit(main(arguments, "weft dhcp daemon"))
