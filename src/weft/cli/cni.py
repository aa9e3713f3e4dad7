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

from weft.cli.install import command as install
from weft.cni import (
    Attachment,
    CniError,
    ErrorCode,
    NetworkList,
    Runtime,
    find_network,
    find_plugin,
    load_directory,
)

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


@click.group("cni", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Attach containers to CNI networks by hand, and see which networks there are.

    NETNS is the path of a network namespace, or a name that 'ip netns' shows.
    """


command.add_command(install)


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
@click.argument("network")
@click.option("--timeout", default=60.0, show_default=True, help="Seconds for each plugin.")
@_where
def status(network: str, conf_dir: str, bin_dirs: tuple[str, ...], output: str | None, timeout: float) -> None:
    """Ask a network's plugins whether they could attach a container now."""
    with _errors("status", output):
        Runtime(_path(bin_dirs), timeout=timeout).status(find_network(Path(conf_dir), network))


@command.command("list")
@_where
def list_networks(conf_dir: str, bin_dirs: tuple[str, ...], output: str | None) -> None:
    """List the networks, in the order in which a runtime finds them, and what they would run."""
    with _errors("list", output):
        networks, errors = load_directory(Path(conf_dir))
    rows = [_row(network, _path(bin_dirs)) for network in networks]
    if output == "json":
        click.echo(json.dumps({"networks": rows, "errors": [str(error) for error in errors]}, indent=2))
    else:
        for row in rows:
            click.echo(f"{row['name']}  cniVersion {row['cniVersion']}  {row['file']}")
            for plugin in row["plugins"]:
                click.echo(
                    f"  {plugin['type']:<14} {plugin['executable'] or 'MISSING from ' + ':'.join(_path(bin_dirs))}"
                )
        if not rows:
            click.echo(f"no network in {conf_dir}")
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


def _row(network: NetworkList, path: list[str]) -> dict[str, Any]:
    plugins = []
    for plugin in network.plugins:
        try:
            executable = str(find_plugin(plugin["type"], path))
        except CniError:
            executable = ""
        plugins.append({"type": plugin["type"], "executable": executable})
    return {
        "name": network.name,
        "cniVersion": network.cni_version,
        "file": str(network.path),
        "plugins": plugins,
    }
