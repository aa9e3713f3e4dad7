"""``weft cni list``: the networks, what each would run, and the plugins that are there."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from weft.cni import CniError, NetworkList, find_plugin
from weft.cni.execution import supported_versions
from weft.cni.versions import SUPPORTED
from weft.plugins.registry import BY_NAME, LAUNCHER, PROGRAM, own_program

Row = dict[str, Any]
_PROVIDERS = {LAUNCHER: "weft, through the agent", PROGRAM: "weft, without an agent", None: "foreign"}


def network_row(network: NetworkList, path: Sequence[str]) -> Row:
    """A network and the executables behind its plugins; those are asked for their versions."""
    plugins = []
    for plugin in network.plugins:
        row = _plugin_row(plugin["type"], network.cni_version, path)
        ipam = plugin.get("ipam")
        kind = ipam.get("type") if isinstance(ipam, Mapping) else None
        if kind and isinstance(kind, str):
            row["ipam"] = _plugin_row(kind, network.cni_version, path)
        plugins.append(row)
    return {
        "name": network.name,
        "cniVersion": network.cni_version,
        "file": str(network.path),
        "capabilities": sorted(network.capabilities),
        "plugins": plugins,
    }


def found_plugins(path: Sequence[str]) -> list[Row]:
    """The executables in the folders of CNI_PATH, the first of each name. Nothing is executed."""
    found: dict[str, Row] = {}
    for folder in path:
        try:
            names = sorted(os.listdir(folder))  # noqa: PTH208
        except OSError:
            continue
        for name in names:
            if name.startswith(".") or name in (LAUNCHER, PROGRAM) or name in found:
                continue
            try:
                executable = find_plugin(name, [folder])
            except CniError:
                continue
            summary = BY_NAME[name].summary if name in BY_NAME and own_program(executable) else ""
            found[name] = {"type": name, **_provided(executable), "summary": summary}
    return sorted(found.values(), key=lambda row: str(row["type"]))


def _plugin_row(kind: str, version: str, path: Sequence[str]) -> Row:
    row: Row = {"type": kind, "executable": "", "provider": "", "versions": [], "error": ""}
    try:
        row |= _provided(find_plugin(kind, path))
        row["versions"] = supported_versions(kind, path)
        if version not in row["versions"]:
            row["error"] = f"does not answer cniVersion {version}"
    except CniError as error:
        row["error"] = error.message
    return row


def _provided(executable: Path) -> Row:
    return {"executable": str(executable), "provider": _PROVIDERS[own_program(executable)]}


def as_text(networks: Sequence[Row], plugins: Sequence[Row], conf_dir: str, path: Sequence[str]) -> list[str]:
    """The lines that are printed."""
    lines = [f"networks in {conf_dir}" if networks else f"no network in {conf_dir}"]
    for row in networks:
        wanted = f"  capabilities {', '.join(row['capabilities'])}" if row["capabilities"] else ""
        lines.append(f"  {row['name']}  cniVersion {row['cniVersion']}  {row['file']}{wanted}")
        for plugin in row["plugins"]:
            lines.append(_plugin_line(plugin, "    ", path))
            if "ipam" in plugin:
                lines.append(_plugin_line(plugin["ipam"], "      ipam ", path))
    lines.append(f"{len(plugins) or 'no'} plugins in {':'.join(path)}")
    width = max((len(row["type"]) for row in plugins), default=0)
    lines += [f"  {row['type']:<{width}}  {row['provider']}  {row['executable']}" for row in plugins]
    return lines


def _plugin_line(row: Row, indent: str, path: Sequence[str]) -> str:
    if not row["executable"]:
        return f"{indent}{row['type']}  MISSING from {':'.join(path)}"
    problem = f"  PROBLEM: {row['error']}" if row["error"] else ""
    return f"{indent}{row['type']}  {row['executable']}  {row['provider']}  {_span(row['versions'])}{problem}"


def _span(versions: Sequence[str]) -> str:
    known = [version for version in SUPPORTED if version in versions]
    if len(known) > 1 and len(known) == len(versions):
        first, last = SUPPORTED.index(known[0]), SUPPORTED.index(known[-1])
        if last - first + 1 == len(known):
            return f"{known[0]} to {known[-1]}"
    return ", ".join(versions) or "no version"
