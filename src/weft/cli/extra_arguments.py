"""EXTRA_ARGS: further options in the environment, as Weave Net's containers take them."""

import os
import shlex

import click

VARIABLE = "EXTRA_ARGS"


class WithExtraArguments(click.Command):
    """A command that reads EXTRA_ARGS before its own arguments, which win."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            extra = shlex.split(os.environ.get(VARIABLE, ""))
        except ValueError as error:
            raise click.UsageError(f"{VARIABLE} {os.environ[VARIABLE]!r}: {error}", ctx) from None
        return super().parse_args(ctx, [*extra, *args])
