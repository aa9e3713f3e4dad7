"""``weft lab kubectl``, ``kubeconfig``, ``load``: a lab's API server."""

import os
import shutil
import sys
from pathlib import Path

import click

from weft.cli.lab_policy import lab_errors, lab_option
from weft.lab import state
from weft.lab.cluster import images
from weft.lab.network import NAMESPACES
from weft.lab.topology import LabError, underlay_namespace


@click.command("kubectl", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@lab_option
@click.argument("words", metavar="KUBECTL-ARGUMENTS...", nargs=-1, type=click.UNPROCESSED)
def kubectl(words: tuple[str, ...], lab: str) -> None:
    """Run this machine's kubectl against the lab's API server; its exit status is passed on.

    --lab is given before kubectl's own words.
    """
    with lab_errors("kubectl"):
        present = _with_api(lab)
        program = shutil.which("kubectl")
        if program is None:
            raise LabError("kubectl is not installed here: see https://kubernetes.io/docs/tasks/tools/")
    cache = present.folder / "kubectl"
    wire = NAMESPACES / underlay_namespace(lab)
    environment = {**os.environ, "KUBECONFIG": str(present.kubeconfig), "KUBECACHEDIR": str(cache)}
    sys.stdout.flush()
    os.execvpe("nsenter", ["nsenter", f"--net={wire}", "--", program, *words], environment)  # noqa: S606


@click.command("kubeconfig")
@lab_option
def kubeconfig(lab: str) -> None:
    """Print the path of the kubeconfig. Its server is reached from the lab's nodes and underlay only."""
    with lab_errors("kubeconfig"):
        click.echo(_with_api(lab).kubeconfig)


@click.command("load")
@click.argument("archive", type=click.Path(path_type=Path, dir_okay=False))
@lab_option
def load(archive: Path, lab: str) -> None:
    """Give the lab's nodes a container image: an OCI archive, such as 'make image' writes."""
    with lab_errors("load"), state.locked(lab):
        present = _with_api(lab)
        name = images.load(archive, present.kubeconfig.parent)
    click.echo(f"image {name} loaded")


def _with_api(lab: str) -> state.LabState:
    present = state.required(lab)
    if not present.has_api:
        raise LabError("the lab has no API server: 'weft lab up --store kubernetes' starts one that has")
    return present


COMMANDS = (kubectl, kubeconfig, load)
