"""``weft lab``: a pod network of several nodes on one machine."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from weft.agent.status import fetch_report
from weft.cli import lab_cluster, lab_policy
from weft.cli.lab_policy import lab_errors, lab_option
from weft.cli.tables import print_rows
from weft.lab import check as proof
from weft.lab import lifecycle, nodes, pods, policies, runtimes, state
from weft.lab.topology import (
    DEFAULT_NAME,
    DEFAULT_RANGE,
    DEFAULT_UNDERLAY,
    RUNTIMES,
    STORES,
    LabError,
    Settings,
    check_pod_name,
    node_namespace,
    parse_pairs,
    parse_ports,
)


def _output_option(*choices: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option("-o", "--output", type=click.Choice(choices), help="How to print it.")


@click.group("lab", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Run a pod network of several nodes on this machine, without touching its own network."""


@command.command()
@click.option("--nodes", default=2, show_default=True, help="How many nodes.")
@click.option("--pods-per-node", default=2, show_default=True, help="How many pods on each.")
@click.option(
    "--range",
    "pod_range",
    default=DEFAULT_RANGE,
    show_default=True,
    help="The pod ranges, as CIDR; several, and of IPv6, with commas between.",
)
@click.option("--ipalloc-init", default="", help="How first shares are found: consensus=N or seed=NAME,NAME.")
@click.option("--underlay", default=DEFAULT_UNDERLAY, show_default=True, help="The nodes' own network.")
@click.option("--underlay-mtu", default=1500, show_default=True, help="Its MTU in bytes.")
@click.option(
    "--store", type=click.Choice(STORES), default=STORES[0], show_default=True, help="What holds the state."
)
@click.option(
    "--runtime", type=click.Choice(RUNTIMES), default=RUNTIMES[0], show_default=True, help="What pods run in."
)
@lab_option
def up(
    nodes: int,
    pods_per_node: int,
    pod_range: str,
    ipalloc_init: str,
    underlay: str,
    underlay_mtu: int,
    store: str,
    runtime: str,
    lab: str,
) -> None:
    """Bring a lab up. One that is up with the same settings is kept, and repaired where needed."""
    from rich.console import Console  # noqa: PLC0415

    console = Console(highlight=False)
    begun = time.monotonic()
    with lab_errors("up"):
        settings = Settings(
            lab, nodes, pods_per_node, pod_range, ipalloc_init, underlay, underlay_mtu, store, runtime
        )
        if console.is_terminal:
            with console.status("lab") as live:
                made, present = lifecycle.up(settings, lambda text: live.update(f"lab {lab}: {text}"))
        else:
            made, present = lifecycle.up(settings, lambda text: click.echo(f"lab {lab}: {text}"))
    took = f"{time.monotonic() - begun:.1f} s"
    console.print(
        f"lab {lab}: {len(made.nodes)} nodes and {len(made.pods)} pods "
        + ("are up already" if present else f"are up after {took}")
    )
    option = "" if lab == DEFAULT_NAME else f" --lab {lab}"
    last = made.nodes[-1].name
    console.print("try:")
    for line in (
        "check",
        "pods -o wide",
        f"exec {last} -- ip route",
        *([f"exec {made.pods[0].name} -- ping -c 1 {made.pods[-1].ip}"] if made.pods else []),
        "down",
    ):
        verb, _, rest = line.partition(" ")
        console.print(f"  {_called_as()} lab {verb}{option} {rest}".rstrip())


@command.command()
@lab_option
def down(lab: str) -> None:
    """Remove a lab: its processes, namespaces and files, also after a kill."""
    with lab_errors("down"):
        removed = lifecycle.down(lab)
    click.echo(f"lab {lab}: removed {len(removed)} namespaces" if removed else f"lab {lab}: nothing there")


@command.command()
@click.argument("pod")
@click.option("--node", required=True, help="The node to run it on.")
@click.option("--label", multiple=True, help="KEY=VALUE; may be given several times.")
@click.option("--annotations", multiple=True, help="KEY=VALUE; may be given several times, as for kubectl run.")
@click.option("--namespace", "-n", default="default", show_default=True, help="The Kubernetes namespace.")
@click.option("--port", multiple=True, help="NAME=tcp/80, a port by name; may be given several times.")
@lab_option
def run(
    pod: str,
    node: str,
    label: Sequence[str],
    annotations: Sequence[str],
    namespace: str,
    port: Sequence[str],
    lab: str,
) -> None:
    """Run one more pod."""
    with lab_errors("run"), state.locked(lab):
        check_pod_name(pod)
        check_pod_name(namespace, "namespace")
        labels, ports = parse_pairs("--label", label), parse_ports(port)
        annotated = parse_pairs("--annotations", annotations)
        present = state.required(lab)
        present.node(node)
        if any(pod in (other.name, other.node) for other in present.pods) or pod in present.settings.node_names():
            raise LabError(f"the name {pod!r} is taken")
        new = pods.new_pod(pod, node, labels, namespace, ports, annotated)
        present.pods.append(new)
        present.write()
        try:
            pods.make(present, [new])
        except LabError:
            pods.remove(present, new)
            raise
    click.echo(f"pod/{pod} created: {new.ip} on {node}")


@command.command()
@click.argument("pod")
@lab_option
def rm(pod: str, lab: str) -> None:
    """Remove a pod."""
    with lab_errors("rm"), state.locked(lab):
        present = state.required(lab)
        pods.remove(present, present.pod(pod))
    click.echo(f"pod/{pod} deleted")


@command.command("pods")
@_output_option("wide", "json")
@lab_option
def list_pods(output: str | None, lab: str) -> None:
    """List the pods."""
    with lab_errors("pods"):
        present = state.required(lab)
        running = runtimes.of(present).running(present)
        labels = policies.labels(present)
    rows = [
        {
            "name": pod.name,
            "status": "Running" if pod.ip and pod.name in running else "Failed",
            "ip": pod.ip,
            **({"ip6": pod.ip6} if pod.ip6 else {}),
            "node": pod.node,
            "labels": labels.get(pod.uid, pod.labels),
            "containerID": pod.container_id,
            "namespace": pod.netns,
            "podNamespace": pod.namespace,
        }
        for pod in sorted(present.pods, key=lambda pod: pod.name)
    ]
    second = ("ip6",) if any("ip6" in row for row in rows) else ()
    print_rows(rows, output, ("name", "status", "ip", "node"), (*second, "labels", "namespace"))


@command.command("nodes")
@_output_option("wide", "json")
@lab_option
def list_nodes(output: str | None, lab: str) -> None:
    """List the nodes."""
    with lab_errors("nodes"):
        present = state.required(lab)
    rows = [
        {
            "name": node.name,
            "status": nodes.status(present, node),
            "internal-ip": node.address,
            **_agent_says(present, node.name),
            "namespace": node_namespace(lab, node.name),
        }
        for node in present.nodes
    ]
    print_rows(rows, output, ("name", "status", "internal-ip", "gateway"), ("blocks", "pods", "namespace"))


@command.command("exec", context_settings={"ignore_unknown_options": True})
@click.argument("target", metavar="NODE|POD")
@click.argument("words", metavar="-- COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
@lab_option
def execute(target: str, words: tuple[str, ...], lab: str) -> None:
    """Run a command on a node or in a pod; its exit status is passed on."""
    with lab_errors("exec"):
        present = state.required(lab)
        if any(node.name == target for node in present.nodes):
            enter = [*nodes.enter(present, target), "env", f"--chdir={Path.cwd()}"]
        elif any(pod.name == target for pod in present.pods):
            enter = runtimes.of(present).enter(present, present.pod(target))
        else:
            known = [*(node.name for node in present.nodes), *(pod.name for pod in present.pods)]
            raise LabError(f"no node or pod {target!r}; there are: {', '.join(known)}")
    # The command finds `weft` and the folder that it was called from.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"}
    sys.stdout.flush()
    os.execvpe(enter[0], [*enter, *words], environment)  # noqa: S606


@command.command()
@click.argument("node")
@click.option("-f", "--follow", is_flag=True, help="Go on as more is written.")
@click.option("-c", "--container", default="", help="What this container of the node's DaemonSet says.")
@lab_option
def logs(node: str, follow: bool, container: str, lab: str) -> None:
    """Show what a node's agent says; of "etcd" or "api", what that process of the lab says."""
    with lab_errors("logs"):
        present = state.required(lab)
        own = node in present.services
        path = present.service_log(node) if own else present.agent_log(present.node(node).name)
        if container:
            path = present.container_log(present.node(node).name, container)
    sys.exit(subprocess.run(["tail", "-n", "+1", *(["-f"] if follow else []), path], check=False).returncode)


@command.command()
@click.option("--policy", is_flag=True, help="Try every pair and port, and hold it against the policies.")
@_output_option("json")
@lab_option
def check(policy: bool, output: str | None, lab: str) -> None:
    """Prove that every pod reaches every pod without NAT; exit 1 naming each pair that does not.

    With --policy: that the policies are obeyed, no more and no less.
    """
    with lab_errors("check"):
        present = state.required(lab)
        proof.require_pods(present)
        if policy:
            sys.exit(0 if lab_policy.check_policies(present, output) else 1)
        found = proof.prove(present)
    if output == "json":
        rules = [{"rule": rule, "holds": held} for rule, held in found.rules]
        click.echo(
            json.dumps({"good": found.good, "rules": rules, "pairs": [asdict(pair) for pair in found.pairs]})
        )
    else:
        _print_proof(present, found)
    sys.exit(0 if found.good else 1)


def _called_as() -> str:
    """The word by which the caller can call us again: from where it stands, if ``weft`` is not on its PATH."""
    if shutil.which("weft"):
        return "weft"
    program = Path(sys.executable).parent / "weft"
    return os.path.relpath(program) if Path.cwd() in program.parents else str(program)


def _print_proof(lab: state.LabState, found: proof.Proof) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    console = Console(highlight=False)
    table = Table(title="from (row) to (column), TCP and ICMP", title_justify="left")
    table.add_column("", no_wrap=True)
    rows = {pod.name: f"{pod.name} on {pod.node}" for pod in lab.pods}
    frame = 3 * len(rows) + 4
    if max(map(len, rows.values())) + sum(map(len, rows)) + frame <= console.width:
        verdicts = {(pair.source, pair.target): not pair.problems for pair in found.pairs}
        marks = {True: "[green]✓[/]", False: "[red]✗[/]", None: "·"}
        for name in rows:
            table.add_column(name, justify="center", no_wrap=True)
        for name, label in rows.items():
            table.add_row(label, *(marks[verdicts.get((name, target))] for target in rows))
    else:
        counts = proof.summary(found.pairs, {pod.name: pod.node for pod in lab.pods})
        for node in lab.nodes:
            table.add_column(node.name, justify="right")
        for source in lab.nodes:
            cells = ["{} of {}".format(*counts.get((source.name, target.name), (0, 0))) for target in lab.nodes]
            table.add_row(source.name, *cells)
    console.print(table)
    for pair in found.broken:
        console.print(f"[red]✗[/] {pair.source} → {pair.target}: {'; '.join(pair.problems)}", soft_wrap=True)
    for name in found.without_address:
        console.print(f"[red]✗[/] {name} has no address")
    well = len(found.pairs) - len(found.broken)
    console.print(f"{well} of {len(found.pairs)} pairs connect, each seen with the sender's own address")
    for rule, held in found.rules:
        mark = {True: "[green]✓[/]", False: "[red]✗[/]", None: "·"}[held]
        console.print(f"{mark} {rule}" + (" (no such pair here)" if held is None else ""))


def _agent_says(lab: state.LabState, node: str) -> dict[str, Any]:
    try:
        report = fetch_report(lab.status_socket(node))
    except (OSError, ValueError):
        return {"gateway": "", "blocks": [], "pods": ""}
    return {
        "gateway": report["node"]["gateway"],
        "blocks": report["ipam"]["blocks"],
        "pods": report["ipam"]["attachments"],
    }


for _each in (*lab_policy.COMMANDS, *lab_cluster.COMMANDS):
    command.add_command(_each)
