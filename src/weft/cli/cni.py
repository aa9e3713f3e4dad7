"""``weft cni``: networks as a container runtime sees them."""

import click

from weft.cli.install import command as install


@click.group("cni", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Use CNI networks by hand."""


command.add_command(install)
