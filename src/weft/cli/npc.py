"""``weft npc``: the policy controller as a process of its own."""

import logging
import sys
from pathlib import Path

import click

from weft.cli.extra_arguments import WithExtraArguments
from weft.npc.settings import OPTIONS as POLICY_OPTIONS

_OPTIONS = (
    ("node-name", "HOSTNAME", "This node's name: pods that carry it are its own."),
    *POLICY_OPTIONS,
    ("state-dir", "WEFT_STATE_DIR", "Folder of what must outlive it (default /var/lib/weft)."),
    ("run-dir", "WEFT_RUN_DIR", "Folder of its socket (default /run/weft)."),
    ("log-level", "WEFT_LOG_LEVEL", "debug, info, warning or error (default info)."),
)


@click.command("npc", cls=WithExtraArguments, context_settings={"help_option_names": ["-h", "--help"]})
def command(**options: str | None) -> None:
    """Enforce NetworkPolicy on this node, in the foreground, for an agent that was told to --expect-npc.

    It stops on SIGTERM and leaves policies in force.
    """
    from weft.npc.settings import open_source, parse_policy_settings  # noqa: PLC0415

    values = {name.replace("_", "-"): value for name, value in options.items()}
    level = (values["log-level"] or "info").upper()
    try:
        settings = parse_policy_settings(values)
        if not values["node-name"]:
            raise ValueError("--node-name is missing: give this node's name, or set HOSTNAME")
        source = open_source(settings)
        if source is None:
            raise ValueError("give --policy-api, where the API server is, or --policy-dir, a folder of manifests")
        if level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise ValueError(f"--log-level {level.lower()!r}: use debug, info, warning or error")
    except ValueError as error:
        click.echo(f"weft npc: {error}", err=True)
        sys.exit(2)
    from weft.npc.daemon import run  # noqa: PLC0415

    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    state_dir, run_dir = values["state-dir"] or "/var/lib/weft", values["run-dir"] or "/run/weft"
    sys.exit(run(values["node-name"], source, Path(state_dir), Path(run_dir), settings.choices))


for _name, _variable, _help in reversed(_OPTIONS):
    command = click.option(f"--{_name}", envvar=_variable, show_envvar=True, help=_help)(command)
