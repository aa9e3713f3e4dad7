"""Tables as kubectl prints them."""

import json
from collections.abc import Sequence
from typing import Any

import click


def print_rows(
    rows: Sequence[dict[str, Any]], output: str | None, columns: Sequence[str], wide_columns: Sequence[str] = ()
) -> None:
    """A table as kubectl prints one, or all there is as JSON."""
    if output == "json":
        click.echo(json.dumps(rows, indent=2))
        return
    shown = [*columns, *(wide_columns if output == "wide" else ())]
    cells = [[name.upper() for name in shown], *([_cell(row.get(name)) for name in shown] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(shown))]
    for line in cells:
        click.echo("   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: object) -> str:
    if isinstance(value, dict):
        return ",".join(f"{key}={each}" for key, each in value.items()) or "<none>"
    if isinstance(value, list):
        return ",".join(map(str, value)) or "<none>"
    return "<none>" if value in (None, "") else str(value)
