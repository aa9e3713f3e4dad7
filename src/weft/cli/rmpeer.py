"""``weft rmpeer``: take a node that is gone for good out of the cluster."""

from typing import TYPE_CHECKING
from urllib.parse import quote

import click

from weft.cli.place import answer_or_exit, ask_agent, on_store, with_place

if TYPE_CHECKING:
    from weft.agent.cluster import Cluster


@click.command("rmpeer", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("node")
def command(node: str, store: str | None, run_dir: str) -> None:
    """Give the addresses of NODE, which is gone for good, back to the cluster.

    A node that still runs signs in again; one that comes back later drops what others have by then. Runs on any
    other node through its agent, or with --store anywhere.
    """

    def remove(cluster: "Cluster") -> str:
        from weft.agent.reclaim import remove_peer  # noqa: PLC0415

        return remove_peer(cluster, node)

    def ask() -> str:
        if store:
            return on_store(store, remove)
        return ask_agent(run_dir, "DELETE", f"/peer/{quote(node, safe='')}")

    click.echo(answer_or_exit("weft rmpeer", ask))


with_place(command)
