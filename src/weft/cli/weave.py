"""``weave``: the words that Weave Net's users type, for those of Weft.

The image has it as ``/home/weave/weave``, where Weave Net's had its script:
``kubectl exec -n kube-system ds/weave-net -c weave -- /home/weave/weave --local status``.
"""

import click

import weft
from weft.cli import rmpeer, status

#: Weave's words for which there is nothing, and what to do in their place.
_ELSEWHERE = {
    "attach": "a runtime attaches pods through CNI; by hand: 'weft cni add'",
    "connect": "nodes learn of each other from the store",
    "detach": "a runtime detaches pods through CNI; by hand: 'weft cni del'",
    "dns-add": "Weft has no DNS",
    "dns-lookup": "Weft has no DNS",
    "dns-remove": "Weft has no DNS",
    "expose": "every node has an address on the bridge",
    "forget": "nodes learn of each other from the store; 'rmpeer' takes one out that is gone for good",
    "hide": "the node's address on the bridge is its pods' gateway",
    "launch": "the agent is 'weft agent'",
    "prime": "there is nothing to wait for: blocks are claimed from the store",
    "ps": "'kubectl get pods -A -o wide' shows the pods' addresses",
    "reset": "delete the DaemonSet; then /var/lib/weft on the node may go",
    "setup": "the launcher and its links are installed by 'weft cni install'",
    "stop": "delete the DaemonSet's pod",
}


class _Words(click.Group):
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _ELSEWHERE:
            ctx.fail(f"there is no '{cmd_name}': {_ELSEWHERE[cmd_name]}")
        return super().get_command(ctx, cmd_name)


@click.group("weave", cls=_Words, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--local", is_flag=True, help="Without effect: the command is always about this node.")
def command(local: bool) -> None:
    """Weave Net's command, as far as there is something to say."""


command.add_command(status.command)
command.add_command(rmpeer.command)


@command.command("report")
def _report() -> None:
    """Show all that 'status' knows, as JSON."""
    status.command.main(["--output", "json"])


@command.command("version")
def _version() -> None:
    """Show the version."""
    click.echo(f"weft {weft.__version__}")
