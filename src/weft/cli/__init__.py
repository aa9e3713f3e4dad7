"""The ``weft`` command: words and tables over the public faces of the other packages."""

import importlib

import click

import weft

#: Group or command name -> module that defines a click command called ``command``.
#: Imported on first use, so that ``weft agent`` does not pay for what only the lab needs.
_COMMANDS = {
    "agent": "weft.cli.agent",
    "cni": "weft.cli.cni",
    "dhcp": "weft.cli.dhcp",
    "lab": "weft.cli.lab",
    "migrate": "weft.cli.migrate",
    "npc": "weft.cli.npc",
    "policy": "weft.cli.policy",
    "range": "weft.cli.range",
    "rmpeer": "weft.cli.rmpeer",
    "status": "weft.cli.status",
    "weave": "weft.cli.weave",
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(_COMMANDS[cmd_name]).command
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(weft.__version__, prog_name="weft")
def main() -> None:
    """A pod network for Kubernetes and every CNI runtime."""
