"""``weft agent``: the node agent."""

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from weft.cli.extra_arguments import WithExtraArguments
from weft.npc.settings import OPTIONS as POLICY_OPTIONS

if TYPE_CHECKING:
    from weft.agent.settings import Settings

#: Option, environment twin (Weave's name where Weave had one), what it says.
_OPTIONS = (
    ("node-name", "HOSTNAME", "This node's name in the cluster."),
    ("range", "IPALLOC_RANGE", "The pod ranges of the whole cluster, with commas between (default 10.32.0.0/12)."),
    (
        "block-size",
        "WEFT_BLOCK_SIZE",
        "Prefix length of nodes' blocks, or RANGE=LENGTH (default 26, for IPv6 120).",
    ),
    ("exclude", "WEFT_EXCLUDE", "Addresses, CIDRs or FIRST-LAST that no pod gets, separated by commas."),
    (
        "store",
        "WEFT_STORE",
        "Where the cluster's state lives: sqlite:///PATH, etcd://HOST:PORT/PREFIX, kubernetes://.",
    ),
    ("ipalloc-init", "IPALLOC_INIT", "How first shares are found: consensus, consensus=N or seed=NAME,NAME."),
    (
        "node-address",
        "WEFT_NODE_ADDRESS",
        "This node's address on the underlay (default: of the default route); IPv6 means the IPv4 beside it.",
    ),
    ("mtu", "WEAVE_MTU", "The pods' MTU in bytes (default: what the underlay leaves)."),
    ("state-dir", "WEFT_STATE_DIR", "Folder of the journal (default /var/lib/weft)."),
    ("run-dir", "WEFT_RUN_DIR", "Folder of the sockets (default /run/weft)."),
    ("cni-conf-dir", "WEFT_CNI_CONF_DIR", "Folder of the CNI configuration (default /etc/cni/net.d)."),
    ("dhcp-socket", "WEFT_DHCP_SOCKET", "Socket of the DHCP daemon, or off (default dhcp.sock in the run-dir)."),
    ("http-address", "WEAVE_HTTP_ADDR", "Address of the status API, or off (default 127.0.0.1:6784)."),
    ("metrics-address", "WEAVE_METRICS_ADDR", "Address of /metrics alone, or off (default off)."),
    (
        "request-api",
        "WEFT_REQUEST_API",
        "API server that tells which addresses pods ask for by annotations: kubernetes://, or with a kubeconfig's "
        "path (default: the store's, if it is one); off for none.",
    ),
    ("hairpin", "HAIRPIN_MODE", "Whether a pod may reach itself through a service: true or false (default true)."),
    (
        "collect-after",
        "WEFT_COLLECT_AFTER",
        "Seconds after which what no live sandbox holds is freed, or off (default 600).",
    ),
    ("log-level", "WEFT_LOG_LEVEL", "debug, info, warning or error (default info)."),
    *POLICY_OPTIONS,
    ("expect-npc", "EXPECT_NPC", "Whether an attach waits for 'weft npc' beside this agent (default false)."),
)


@click.command("agent", cls=WithExtraArguments, context_settings={"help_option_names": ["-h", "--help"]})
def command(**options: str | None) -> None:
    """Run the node agent in the foreground: it serves the CNI launcher and keeps this node's pod network.

    It stops cleanly on SIGTERM and leaves pods connected.
    """
    # Heavy parts are loaded only when they are needed: --help and bad settings answer at once.
    settings = settings_or_exit(options, "weft agent")
    from weft.agent.process import run  # noqa: PLC0415

    sys.exit(run(settings))


def with_agent_options(command: click.Command) -> None:
    """Give a command all options of the agent."""
    for name, variable, text in _OPTIONS:
        command.params.append(click.Option([f"--{name}"], envvar=variable, show_envvar=True, help=text))


def settings_or_exit(options: Mapping[str, str | None], who: str) -> "Settings":
    """The settings that a command was given; where they are of no use, one line on standard error and status 2."""
    from weft.agent import weave_environment  # noqa: PLC0415
    from weft.agent.settings import SettingsError, parse_settings  # noqa: PLC0415

    for refusal in weave_environment.refusals(os.environ):
        click.echo(f"{who}: {refusal}", err=True)
        sys.exit(2)
    for note in weave_environment.notes(os.environ):
        click.echo(f"{who}: {note}", err=True)
    try:
        return parse_settings({name.replace("_", "-"): value for name, value in options.items()})
    except SettingsError as error:
        click.echo(f"{who}: {error}", err=True)
        sys.exit(2)


with_agent_options(command)
