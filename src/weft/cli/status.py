"""``weft status``: what this node's agent says of itself."""

import json
import sys
from pathlib import Path

import click


@click.command("status", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("topic", required=False, type=click.Choice(["connections", "ipam", "peers"]))
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print it.")
@click.option("--run-dir", envvar="WEFT_RUN_DIR", default="/run/weft", help="Folder of the agent's sockets.")
def command(topic: str | None, output: str, run_dir: str) -> None:
    """Show the state of this node's agent, who owns which addresses (ipam), its peers, or the ways to them."""
    from weft.agent.status import fetch  # noqa: PLC0415

    page = "/report" if output == "json" else "/status" + (f"/{topic}" if topic else "")
    path = Path(run_dir) / "status.sock"
    try:
        code, body = fetch(path, page)
    except OSError as error:
        click.echo(f"weft status: no agent answers at {path}: {error.strerror or error}", err=True)
        sys.exit(1)
    if output == "json" and topic and code == 200:
        body = json.dumps(json.loads(body)["ipam" if topic == "ipam" else "peers"]).encode() + b"\n"
    click.echo(body.decode(errors="replace"), nl=False)
    if code != 200:
        click.echo("weft status: the agent is not ready", err=True)
        sys.exit(1)
