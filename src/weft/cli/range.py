"""``weft range``: the cluster's ranges while it runs."""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import quote

import click

from weft.cli.place import answer_or_exit, ask_agent, on_store, with_place
from weft.cli.tables import print_rows

if TYPE_CHECKING:
    from weft.agent.cluster import Cluster


@click.group("range", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Show and change the pod ranges of a running cluster.

    Every node takes a change up by itself, pods keep their addresses. Runs on any node through its agent, or with
    --store anywhere. Take what you change into the agents' --range and --exclude as well, for nodes to come.
    """


@command.command("list")
@click.option("-o", "--output", type=click.Choice(["json"]), help="How to print it.")
def list_ranges(output: str | None, store: str | None, run_dir: str) -> None:
    """Show the ranges in the order in which nodes draw on them, the size of their blocks, what is excluded."""

    def of_store(cluster: "Cluster") -> str:
        agreed = cluster.ranges()
        ranges = agreed.ranges if agreed else ()
        return json.dumps([_row(str(pods), pods.block_prefix, map(str, pods.excluded)) for pods in ranges])

    def ask() -> str:
        if store:
            return on_store(store, of_store)
        ranges = json.loads(ask_agent(run_dir, "GET", "/report"))["ipam"]["ranges"]
        return json.dumps([_row(item["range"], item["blockSize"], item["excluded"]) for item in ranges])

    print_rows(json.loads(answer_or_exit("weft range", ask)), output, ("range", "blockSize", "excluded"))


def _row(name: str, size: int, excluded: Iterable[str]) -> dict[str, object]:
    return {"range": name, "blockSize": size, "excluded": list(excluded)}


def _change(verb: str, value: str, store: str | None, run_dir: str) -> None:
    def change(cluster: "Cluster") -> str:
        from weft.agent.range_changes import change_ranges  # noqa: PLC0415

        return change_ranges(cluster, verb, value)

    def ask() -> str:
        if store:
            return on_store(store, change)
        return ask_agent(run_dir, "POST", f"/ranges/{verb}/{quote(value, safe='')}")

    click.echo(answer_or_exit("weft range", ask))


@command.command("add")
@click.argument("cidr", metavar="RANGE[=LENGTH]")
def add(cidr: str, store: str | None, run_dir: str) -> None:
    """Add RANGE behind those of its family, with blocks of prefix length LENGTH.

    A second range of IPv4 is for when the first is full; the first one of IPv6 gives new pods both families.
    """
    _change("add", cidr, store, run_dir)


@command.command("remove")
@click.argument("cidr", metavar="RANGE")
def remove(cidr: str, store: str | None, run_dir: str) -> None:
    """Take RANGE out of the cluster, which no node may own a block of: exclude it first, let its pods go."""
    _change("remove", cidr, store, run_dir)


@command.command("exclude")
@click.argument("what")
def exclude(what: str, store: str | None, run_dir: str) -> None:
    """Give WHAT to no pod any more: addresses, CIDRs, FIRST-LAST, with commas between; or a whole range.

    Pods that have such an address keep it.
    """
    _change("exclude", what, store, run_dir)


@command.command("include")
@click.argument("what")
def include(what: str, store: str | None, run_dir: str) -> None:
    """Give WHAT, which was excluded, to pods again."""
    _change("include", what, store, run_dir)


for _each in (list_ranges, add, remove, exclude, include):
    with_place(_each)
