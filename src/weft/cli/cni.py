"""``weft cni``: networks as a container runtime sees them; what cnitool does, and more."""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from weft.cli.cni_list import as_text, found_plugins, network_row
from weft.cli.install import command as install
from weft.cli.install import uninstall_command as uninstall
from weft.cni import (
    Attachment,
    CniError,
    ErrorCode,
    NetworkList,
    Runtime,
    find_network,
    load_directory,
)
from weft.kernel.namespace import NetworkNamespace

_NAMESPACES = Path("/run/netns")


def _options(*options: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


_where = _options(
    click.option("--conf-dir", envvar="NETCONFPATH", default="/etc/cni/net.d", show_default=True,
                 help="Folder of the networks' configurations."),
    click.option("--bin-dir", "bin_dirs", multiple=True,
                 help="Folder of plugins (default: CNI_PATH, or /opt/cni/bin)."),
    click.option("-o", "--output", type=click.Choice(["json"]), help="How to print it."),
)  # fmt: skip
_which = _options(
    click.argument("network"),
    click.argument("netns"),
    click.option("--ifname", envvar="CNI_IFNAME", default="eth0", show_default=True, help="The interface."),
    click.option("--container-id", help="Its ID (default: derived from NETNS, as cnitool does)."),
    click.option("--args", envvar="CNI_ARGS", default="", help="CNI_ARGS, as KEY=VALUE;KEY=VALUE."),
    click.option("--cap-args", envvar="CAP_ARGS", default="", help="Capability arguments, as a JSON object."),
    click.option("--cache-dir", default="/var/lib/cni", show_default=True, help="Folder of what ADD answered."),
    click.option("--timeout", default=60.0, show_default=True, help="Seconds for each plugin."),
)  # fmt: skip
_network_only = _options(
    click.argument("network"),
    click.argument("netns", required=False),  # cnitool wants one; it means nothing here
    click.option("--timeout", default=60.0, show_default=True, help="Seconds for each plugin."),
)


@click.group("cni", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Attach containers to CNI networks by hand, and see which networks there are.

    NETNS is the path of a network namespace, or a name that 'ip netns' shows.
    """


command.add_command(install)
command.add_command(uninstall)


@command.command()
@_which
@_where
def add(**options: Any) -> None:
    """Attach a container to a network; prints the result."""
    with _errors("add", options["output"]):
        runtime, network, attachment = _prepare(options)
        result = runtime.add(network, attachment)
        click.echo(json.dumps(result.to_dict(network.cni_version), indent=2))


@command.command("del")
@_which
@_where
def delete(**options: Any) -> None:
    """Detach a container; what is not attached is no error."""
    with _errors("del", options["output"]):
        runtime, network, attachment = _prepare(options)
        runtime.delete(network, attachment)


@command.command()
@_which
@_where
def check(**options: Any) -> None:
    """Check that a container is attached as 'add' left it."""
    with _errors("check", options["output"]):
        runtime, network, attachment = _prepare(options)
        runtime.check(network, attachment)


@command.command()
@_network_only
@_where
def status(
    network: str, conf_dir: str, bin_dirs: tuple[str, ...], output: str | None, timeout: float, **_: Any
) -> None:
    """Ask a network's plugins whether they could attach a container now."""
    with _errors("status", output):
        Runtime(_path(bin_dirs), timeout=timeout).status(find_network(Path(conf_dir), network))


@command.command()
@_network_only
@click.option("--cache-dir", default="/var/lib/cni", show_default=True, help="Folder of what ADD answered.")
@click.option("--keep", multiple=True, metavar="ID/IFNAME", help="An attachment that is valid besides.")
@click.option(
    "--all", "everything", is_flag=True, help="No attachment is valid but those to keep, as with cnitool."
)
@_where
def gc(**options: Any) -> None:
    """Free what a network's plugins hold for containers that are gone.

    Valid are the attachments in the cache whose network namespace is still there; all others are deleted.
    """
    with _errors("gc", options["output"]):
        runtime = Runtime(_path(options["bin_dirs"]), Path(options["cache_dir"]), options["timeout"])
        network = find_network(Path(options["conf_dir"]), options["network"])
        valid = {_attachment_named(text) for text in options["keep"]}
        if not options["everything"]:
            valid |= {
                (item.container_id, item.ifname) for item in runtime.attachments(network) if _is_there(item.netns)
            }
        runtime.gc(network, valid)


@command.command("list")
@_where
def list_networks(conf_dir: str, bin_dirs: tuple[str, ...], output: str | None) -> None:
    """List the networks in the order in which a runtime finds them, what they would run, and all plugins."""
    with _errors("list", output):
        networks, errors = load_directory(Path(conf_dir))
    path = _path(bin_dirs)
    rows, plugins = [network_row(network, path) for network in networks], found_plugins(path)
    if output == "json":
        listed = {"networks": rows, "plugins": plugins, "errors": [str(error) for error in errors]}
        click.echo(json.dumps(listed, indent=2))
    else:
        for line in as_text(rows, plugins, conf_dir, path):
            click.echo(line)
        for error in errors:
            click.echo(f"weft cni list: {error}", err=True)
    sys.exit(1 if errors else 0)


@contextmanager
def _errors(verb: str, output: str | None) -> Iterator[None]:
    try:
        yield
    except CniError as error:
        if output == "json":
            click.echo(error.to_json().decode())
        else:
            click.echo(f"weft cni {verb}: {error} (code {int(error.code)})", err=True)
        sys.exit(1)


def _prepare(options: dict[str, Any]) -> tuple[Runtime, NetworkList, Attachment]:
    network = find_network(Path(options["conf_dir"]), options["network"])
    netns = options["netns"]
    if "/" not in netns:
        netns = str(_NAMESPACES / netns)
    try:
        capability_args = json.loads(options["cap_args"] or "{}")
        if not isinstance(capability_args, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise CniError(ErrorCode.INVALID_ENVIRONMENT, f"--cap-args {options['cap_args']!r}: {error}") from None
    container_id = options["container_id"] or container_id_of(netns)
    attachment = Attachment(container_id, netns, options["ifname"], options["args"], capability_args)
    return Runtime(_path(options["bin_dirs"]), Path(options["cache_dir"]), options["timeout"]), network, attachment


def container_id_of(netns: str) -> str:
    """The ID that cnitool derives from a namespace's path, so that it and ``weft cni`` mean the same container."""
    return "cnitool-" + hashlib.sha512(netns.encode()).digest()[:10].hex()


def _path(bin_dirs: tuple[str, ...]) -> list[str]:
    return list(bin_dirs) or [part for part in os.environ.get("CNI_PATH", "/opt/cni/bin").split(":") if part]


def _attachment_named(text: str) -> tuple[str, str]:
    container_id, separator, ifname = text.rpartition("/")
    if not separator or not container_id or not ifname:
        raise CniError(ErrorCode.INVALID_ENVIRONMENT, f"--keep {text!r}: write CONTAINER-ID/INTERFACE")
    return container_id, ifname


def _is_there(netns: str) -> bool:
    """Whether the namespace exists. One that the cache does not name is taken to."""
    if not netns:
        return True
    try:
        NetworkNamespace.open(netns).close()
    except (OSError, ValueError):
        return False
    return True
