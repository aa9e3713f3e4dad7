"""``weft migrate``: take this node over from Weave Net."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from weft.cli.agent import settings_or_exit, with_agent_options

if TYPE_CHECKING:
    from weft.agent.takeover.planner import Plan, Refusal


@click.command("migrate", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--dry-run", is_flag=True, help="Only print what would be done; nothing is changed.")
@click.option("-o", "--output", type=click.Choice(["json"]), help="How to print it.")
def command(dry_run: bool, output: str | None, **options: str | None) -> None:
    """Take this node over from Weave Net: its bridge, its pods and their addresses stay, the rest goes.

    An agent that starts on such a node does the same by itself. Where it cannot be done, every reason is printed
    with its mend, nothing is touched, and the exit status is 1.
    """
    settings = settings_or_exit(options, "weft migrate")
    from weft.agent import migration  # noqa: PLC0415
    from weft.agent.dataplane import UnderlayError  # noqa: PLC0415
    from weft.agent.journal import JournalError  # noqa: PLC0415
    from weft.agent.records import ClusterError  # noqa: PLC0415
    from weft.agent.settings import SettingsError  # noqa: PLC0415
    from weft.agent.takeover.planner import Refusal  # noqa: PLC0415
    from weft.agent.takeover.takeover import TakeoverRefused  # noqa: PLC0415
    from weft.ipam.shares import RangeExhausted  # noqa: PLC0415
    from weft.kernel.iptables import IptablesError  # noqa: PLC0415
    from weft.privileges import NotPermitted  # noqa: PLC0415
    from weft.store import StoreError  # noqa: PLC0415

    try:
        outcome = migration.look_ahead(settings)
        _print(settings.node_name, outcome, output)
        if isinstance(outcome, Refusal):
            sys.exit(1)
        if outcome is None or dry_run:
            return
        if not migration.take_over(settings):
            click.echo("Weave's network policies stay in force until 'weft npc' and an agent run here", err=True)
    except migration.AlreadyServed as nothing:
        click.echo(f"weft migrate: {nothing}", err=True)
    except (SettingsError, UnderlayError, ValueError) as error:
        click.echo(f"weft migrate: {error}", err=True)
        sys.exit(2)
    except (
        TakeoverRefused, NotPermitted, ClusterError, StoreError, JournalError, IptablesError, RangeExhausted,
        OSError,
    ) as error:  # fmt: skip
        click.echo(f"weft migrate: {error}", err=True)
        sys.exit(1)


with_agent_options(command)


def _print(node: str, outcome: "Plan | Refusal | None", output: str | None) -> None:
    import msgspec  # noqa: PLC0415

    from weft.agent.takeover.planner import Refusal  # noqa: PLC0415

    if output == "json":
        possible = None if outcome is None else not isinstance(outcome, Refusal)
        told = {"node": node, "weaveNet": outcome is not None, "possible": possible}
        if outcome is not None:
            told |= {"reasons": outcome.reasons} if isinstance(outcome, Refusal) else {"plan": outcome}
        click.echo(msgspec.json.format(msgspec.json.encode(told, enc_hook=str), indent=2).decode())
    elif outcome is None:
        click.echo(f"node {node}: Weave Net is not here, nothing to take over")
    elif isinstance(outcome, Refusal):
        click.echo(f"node {node} cannot be taken over from Weave Net; nothing was touched")
        for item in outcome.reasons:
            click.echo(f"  - {item.reason}\n    mend: {item.mend}")
    else:
        click.echo(f"node {node} can be taken over from Weave Net")
        for title, text in _lines(outcome):
            click.echo(f"  {title:<9} {text}")


def _lines(plan: "Plan") -> Iterator[tuple[str, str]]:
    if plan.gateway is not None:
        yield "keeps", f"bridge weave, gateway {plan.gateway}, MAC {plan.bridge_address}, MTU {plan.mtu}"
    for pod in plan.pods:
        yield "keeps", f"pod at {pod.host_interface}, {pod.address or 'no address: it comes or goes'}"
    for block in plan.blocks:
        yield "claims", f"block {block}"
    for rules in plan.rules:
        form = " (legacy)" if rules.legacy else ""
        for chain in rules.chains:
            yield "removes", f"chain {chain} of table {rules.table}{form}"
        for rule in rules.rules:
            yield "removes", f"rule {rule} of table {rules.table}{form}"
    for name in plan.sets:
        yield "removes", f"ipset {name}"
    for name in plan.devices:
        yield "removes", f"device {name}"
    for kept in plan.stays:
        yield "leaves", f"{kept.what}: {kept.why}"
