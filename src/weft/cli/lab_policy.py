"""``weft lab apply``, ``delete``, ``get``, ``label``: policies, namespaces and labels of a lab."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from weft.cli.tables import print_rows
from weft.lab import policies, state
from weft.lab.topology import DEFAULT_NAME, LabError, parse_pairs


@contextmanager
def lab_errors(verb: str) -> Iterator[None]:
    try:
        yield
    except LabError as error:
        click.echo(f"weft lab {verb}: {error}", err=True)
        sys.exit(2 if error.usage else 1)


def lab_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--lab", default=DEFAULT_NAME, show_default=True, help="Name of the lab.")(function)


def _files_option(function: Callable[..., Any]) -> Callable[..., Any]:
    kind = click.Path(path_type=Path, allow_dash=True)
    told = "A file of manifests; - is standard input."
    return click.option("-f", "--filename", "files", multiple=True, required=True, type=kind, help=told)(function)


def _read(files: Sequence[Path]) -> list[policies.Manifest]:
    return [
        item
        for path in files
        for item in policies.read_manifests(Path("/dev/stdin") if str(path) == "-" else path)
    ]


@contextmanager
def _changing(lab: str) -> Iterator[state.LabState]:
    """The lab, held against other commands that change it; not one with an API server.

    That puts changes in order by itself, and who carries them out waits for the lab.
    """
    present = state.required(lab)
    if present.has_api:
        yield present
        return
    with state.locked(lab):
        yield state.required(lab)


@click.command("apply")
@_files_option
@lab_option
def apply(files: Sequence[Path], lab: str) -> None:
    """Put NetworkPolicies and Namespaces in force; return when every node enforces them."""
    with lab_errors("apply"), _changing(lab) as present:
        for line in policies.apply(present, _read(files)):
            click.echo(line)


@click.command("delete")
@_files_option
@lab_option
def delete(files: Sequence[Path], lab: str) -> None:
    """Take NetworkPolicies back, and Namespaces' labels; return when no node enforces them."""
    with lab_errors("delete"), _changing(lab) as present:
        for line in policies.delete(present, _read(files)):
            click.echo(line)


@click.command("get")
@click.argument(
    "kind", type=click.Choice(["networkpolicy", "networkpolicies", "netpol", "namespace", "namespaces", "ns"])
)
@click.option("-o", "--output", type=click.Choice(["json"]), help="How to print it.")
@lab_option
def get(kind: str, output: str | None, lab: str) -> None:
    """List the lab's policies or namespaces."""
    with lab_errors("get"):
        present = state.required(lab)
    if kind.startswith("net"):
        found = policies.applied(present)
        rows = [
            {
                "namespace": item["metadata"].get("namespace") or "default",
                "name": item["metadata"]["name"],
                "pod-selector": json.dumps(item["spec"].get("podSelector") or {}),
            }
            for item in found
        ]
    else:
        found = list(policies.namespace_manifests(present))
        rows = [{"name": item["metadata"]["name"], "labels": item["metadata"]["labels"]} for item in found]
    if output == "json":
        click.echo(json.dumps({"apiVersion": "v1", "kind": "List", "items": found}, indent=2))
    else:
        print_rows(rows, None, tuple(rows[0])) if rows else click.echo("No resources found")


@click.command("label")
@click.argument("kind", type=click.Choice(["pod", "namespace"]))
@click.argument("name")
@click.argument("changes", metavar="KEY=VALUE|KEY-...", nargs=-1, required=True)
@lab_option
def label(kind: str, name: str, changes: Sequence[str], lab: str) -> None:
    """Set labels of a pod or namespace, or take them away with KEY-."""
    with lab_errors("label"), state.locked(lab):
        present = state.required(lab)
        wanted: dict[str, str | None] = {change[:-1]: None for change in changes if change.endswith("-")}
        wanted |= parse_pairs("label", [change for change in changes if not change.endswith("-")])
        policies.label(present, kind, name, wanted)
    click.echo(f"{kind}/{name} labeled")


def check_policies(present: state.LabState, output: str | None) -> bool:
    """``weft lab check --policy``: print the truth table; whether it is as the definition says."""
    from weft.lab import policy_check  # noqa: PLC0415

    try:
        probes = policy_check.prove(present)
    except (OSError, ValueError) as error:
        raise LabError(f"a pod does not answer: {error}; 'weft lab up' repairs it") from None
    bad = [probe for probe in probes if not probe.good]
    if output == "json":
        click.echo(json.dumps({"good": not bad, "probes": [asdict(probe) for probe in probes]}))
        return not bad
    _print_table(present, probes)
    for probe in bad:
        said = "allowed, but nothing came back" if probe.expected else "denied, but it answered"
        click.echo(f"✗ {probe.source} → {probe.target} IPv{probe.version} {probe.protocol}/{probe.port}: {said}")
    click.echo(f"{len(probes) - len(bad)} of {len(probes)} ways are as the policies say")
    return not bad


def _print_table(lab: state.LabState, probes: Sequence[Any]) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    versions = {probe.version for probe in probes}
    ports = list(dict.fromkeys((probe.protocol, probe.port) for probe in probes))
    ways: dict[tuple[str, str], list[str]] = {}
    for probe in probes:
        mark = ("✓" if probe.reached else "-") if probe.good else "✗"
        ways.setdefault((probe.source, probe.target), []).append(mark)
    table = Table(
        title="from (row) to (column) on " + " ".join(f"{protocol}/{port}" for protocol, port in ports)
        + (", by IPv4 then IPv6" if len(versions) > 1 else "")
        + "; ✓ answers, - is denied, ✗ is not as the policies say",
        title_justify="left",
    )  # fmt: skip
    names = [pod.name for pod in lab.pods if pod.ip]
    table.add_column("", no_wrap=True)
    for name in names:
        table.add_column(name, justify="center", no_wrap=True)
    for name in names:
        cells = ["".join(ways.get((name, target), ["·"])) for target in names]
        colours = {"✓": "green", "✗": "red"}
        shown = [
            "".join(f"[{colours[mark]}]{mark}[/]" if mark in colours else mark for mark in cell) for cell in cells
        ]
        table.add_row(name, *shown)
    Console(highlight=False, soft_wrap=True).print(table)


COMMANDS = (apply, delete, get, label)
