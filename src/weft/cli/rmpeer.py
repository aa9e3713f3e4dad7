"""``weft rmpeer``: take a node that is gone for good out of the cluster."""

import sys
from pathlib import Path
from urllib.parse import quote

import click


@click.command("rmpeer", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("node")
@click.option("--store", envvar="WEFT_STORE", help="Work on this store, without an agent.")
@click.option("--run-dir", envvar="WEFT_RUN_DIR", default="/run/weft", help="Folder of the agent's sockets.")
def command(node: str, store: str | None, run_dir: str) -> None:
    """Give the addresses of NODE, which is gone for good, back to the cluster.

    A node that still runs signs in again; one that comes back later drops what others have by then. Runs on any
    other node through its agent, or with --store anywhere.
    """
    try:
        said = _on_store(store, node) if store else _through_agent(Path(run_dir) / "status.sock", node)
    except _Refused as refusal:
        click.echo(f"weft rmpeer: {refusal}", err=True)
        sys.exit(refusal.status)
    click.echo(said)


class _Refused(Exception):
    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def _through_agent(path: Path, node: str) -> str:
    from weft.agent.status import fetch  # noqa: PLC0415

    try:
        code, body = fetch(path, f"/peer/{quote(node, safe='')}", method="DELETE", timeout=60)
    except OSError as error:
        raise _Refused(
            f"no agent answers at {path}: {error.strerror or error}; run it on another node, or give --store"
        ) from None
    text = body.decode(errors="replace").strip()
    if code != 200:
        raise _Refused(text)
    return text


def _on_store(url: str, node: str) -> str:
    from weft.agent.cluster import Cluster, ClusterError  # noqa: PLC0415
    from weft.agent.reclaim import NoSuchPeer, remove_peer  # noqa: PLC0415
    from weft.store import StoreError, open_store  # noqa: PLC0415

    try:
        opened = open_store(url)
        try:
            return remove_peer(Cluster(opened), node)
        finally:
            opened.close()
    except ValueError as error:
        raise _Refused(str(error), status=2) from None
    except (StoreError, ClusterError, NoSuchPeer) as error:
        raise _Refused(str(error)) from None
