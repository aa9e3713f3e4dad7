"""``weft policy``: what this node's policy controller enforces, and why a connection is allowed or not."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from weft.cli.tables import print_rows
from weft.npc.client import SOCKET, Refused, ask


def _common(function: Callable[..., Any]) -> Callable[..., Any]:
    function = click.option("-o", "--output", type=click.Choice(["json"]), help="How to print it.")(function)
    return click.option(
        "--run-dir", envvar="WEFT_RUN_DIR", default="/run/weft", help="Folder of the controller's socket."
    )(function)


def _ask(verb: str, run_dir: str, **question: Any) -> Any:
    path = Path(run_dir) / SOCKET
    try:
        return ask(path, verb, **question)
    except Refused as error:
        click.echo(f"weft policy {click.get_current_context().info_name}: {error}", err=True)
    except OSError as error:
        reason = error.strerror or error
        click.echo(f"weft policy: no policy controller answers at {path}: {reason}", err=True)
    sys.exit(1)


@click.group("policy", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Show which policies are in force on this node, and why connections are allowed or not."""


@command.command("list")
@_common
def list_policies(output: str | None, run_dir: str) -> None:
    """List the policies: what each isolates, how many pods it selects, connections it allowed here."""
    rows = [
        {
            "namespace": item["namespace"],
            "name": item["name"],
            "isolates": item["isolates"],
            "pods": item["pods"],
            "here": item["podsHere"],
            "allowed": item["allowed"],
            "condition": f"Invalid: {item['problems'][0]}" if item["problems"] else "Enforced",
            "problems": item["problems"],
        }
        for item in _ask("policies", run_dir)
    ]
    print_rows(rows, output, ("namespace", "name", "isolates", "pods", "here", "allowed", "condition"))


@command.command()
@click.argument("pod")
@_common
def show(pod: str, output: str | None, run_dir: str) -> None:
    """Show the policies that isolate a POD, given as NAMESPACE/NAME, name or address."""
    found = _ask("pod", run_dir, pod=pod)
    if output == "json":
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(f"{found['pod']} ({', '.join(found['addresses']) or 'no address'}) on {found['node'] or 'no node'}")
    if not found["known"]:
        click.echo("its labels are not known: it is isolated where its namespace has policies")
    for direction in ("ingress", "egress"):
        click.echo(f"{direction}: {', '.join(found[direction]) or 'not isolated'}")


@command.command()
@click.argument("source")
@click.argument("destination")
@click.option("--port", default="tcp/80", show_default=True, help="tcp/80, udp/53, sctp/5000 or icmp.")
@click.option("--live", is_flag=True, help="With the kernel's counters.")
@_common
def why(source: str, destination: str, port: str, live: bool, output: str | None, run_dir: str) -> None:
    """Say why SOURCE may or may not connect to DESTINATION; exit 1 where it may not.

    Either is a pod as NAMESPACE/NAME, name or address, or any other address.
    """
    found = _ask("why", run_dir, source=source, destination=destination, port=port, live=live)
    if output == "json":
        click.echo(json.dumps(found, indent=2))
    else:
        for line in explained(found):
            click.echo(line)
    sys.exit(0 if found["allowed"] else 1)


def explained(found: dict[str, Any]) -> list[str]:
    """An explanation in words."""
    ends = [f"{end['name']} ({end['address']})" if end["name"] != end["address"] else end["address"]
            for end in (found["source"], found["destination"])]  # fmt: skip
    port = f"{found['protocol']}/{found['port']}" if found["port"] else found["protocol"]
    lines = [f"{'allowed' if found['allowed'] else 'denied'}: {ends[0]} to {ends[1]}, {port}"]
    if found["toItself"]:
        return [*lines, "  a pod always reaches itself"]
    for side in found["sides"]:
        where = side["direction"].lower() + (f" of {side['pod']}" if side["pod"] else "")
        if side["pod"] is None:
            lines.append(f"  {where}: not a pod, nothing isolates it")
            continue
        where += "" if side["here"] else f", enforced on {side['node'] or 'no known node'}"
        if not side["isolatedBy"]:
            lines.append(f"  {where}: no policy isolates it")
        elif side["allowedBy"]:
            rules = ", ".join(
                f"{item['policy']} ({side['direction'].lower()}[{item['rule']}])" for item in side["allowedBy"]
            )
            lines.append(f"  {where}: allowed by {rules}")
        else:
            lines.append(f"  {where}: isolated by {', '.join(side['isolatedBy'])}; no rule of these allows it")
        for name, count in side.get("connections", {}).items():
            lines.append(f"    {name} allowed {count} connections so far")
    return lines
