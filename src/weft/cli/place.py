"""What commands have in common that work through this node's agent or, where a store is given, without one."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from weft.agent.cluster import Cluster


class Refused(Exception):
    """What cannot be done, and the exit status: 2 where the words were wrong."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def with_place(command: click.Command) -> None:
    """Give a command the options that say where it works."""
    command.params += [
        click.Option(["--store"], envvar="WEFT_STORE", help="Work on this store, without an agent."),
        click.Option(
            ["--run-dir"], envvar="WEFT_RUN_DIR", default="/run/weft", help="Folder of the agent's sockets."
        ),
    ]


def answer_or_exit(who: str, ask: Callable[[], str]) -> str:
    """What came of it; where nothing did, the reason is printed as ``who``, and the command ends."""
    try:
        return ask()
    except Refused as refusal:
        click.echo(f"{who}: {refusal}", err=True)
        sys.exit(refusal.status)


def ask_agent(run_dir: str, method: str, page: str, timeout: float = 60) -> str:
    """What this node's agent answers. Raises Refused."""
    from weft.agent.status import fetch  # noqa: PLC0415

    path = Path(run_dir) / "status.sock"
    try:
        code, body = fetch(path, page, method=method, timeout=timeout)
    except OSError as error:
        raise Refused(
            f"no agent answers at {path}: {error.strerror or error}; run it on another node, or give --store"
        ) from None
    if code == 503:
        raise Refused(f"no agent answers at {path} yet: 'weft status' says why")
    text = body.decode(errors="replace").strip()
    if code != 200:
        raise Refused(text)
    return text


def on_store(url: str, act: "Callable[[Cluster], str]") -> str:
    """What comes of it on the store itself. Raises Refused."""
    from weft.agent.cluster import Cluster  # noqa: PLC0415
    from weft.agent.reclaim import NoSuchPeer  # noqa: PLC0415
    from weft.agent.records import ClusterError  # noqa: PLC0415
    from weft.store import StoreError, open_store  # noqa: PLC0415

    try:
        opened = open_store(url)
    except ValueError as error:
        raise Refused(str(error), status=2) from None
    except StoreError as error:
        raise Refused(str(error)) from None
    try:
        return act(Cluster(opened))
    except ValueError as error:
        raise Refused(str(error), status=2) from None
    except (StoreError, ClusterError, NoSuchPeer) as error:
        raise Refused(str(error)) from None
    finally:
        opened.close()
