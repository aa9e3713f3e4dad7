"""``flannel``: makes a configuration for this node's flannel subnet, and has another plugin carry it out.

flanneld writes ``/run/flannel/subnet.env``; what is delegated is kept in ``/var/lib/cni/flannel/<container ID>``,
where the reference plugin keeps it, too, so either can delete what the other made. Keys: ``subnetFile``,
``dataDir``, ``delegate``, ``ipam``, ``runtimeConfig``; see docs/plugins/flannel.md.
Source of the behaviour: https://github.com/flannel-io/cni-plugin
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any

import msgspec

from weft.cni import CniError, Command, ErrorCode, Result, Route
from weft.cni.versions import NEWEST
from weft.plugins.delegation import delegate, leaves_nothing
from weft.plugins.files import kept_in, read_kept, remove_kept, write_kept
from weft.plugins.ipam.host_local import parse_routes
from weft.plugins.plugin import PluginRequest
from weft.plugins.settings import Settings, invalid, read, refused

_log = logging.getLogger(__name__)

DEFAULT_SUBNET_FILE = "/run/flannel/subnet.env"
DEFAULT_FOLDER = "/var/lib/cni/flannel"
_LARGEST_MTU = (1 << 32) - 1


class FlannelSettings(Settings, frozen=True, kw_only=True):
    """The plugin's keys. ``delegate`` and ``ipam`` are handed on, whatever they hold."""

    subnet_file: str = DEFAULT_SUBNET_FILE
    data_dir: str = DEFAULT_FOLDER
    delegate: dict[str, Any] | None = None
    ipam: dict[str, Any] | None = None
    runtime_config: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class NodeSubnets:
    """What flanneld tells of this node: the whole network's ranges, this node's shares, MTU in bytes.

    ``masquerades``: flanneld does it, so the delegate need not.
    """

    networks: tuple[IPv4Network | IPv6Network, ...]
    shares: tuple[IPv4Network | IPv6Network, ...]
    mtu: int
    masquerades: bool


class Flannel:
    """``weft.plugins.Plugin`` for ``flannel``."""

    def add(self, request: PluginRequest) -> Result:
        """Keep the delegate's configuration, then have it carried out."""
        settings = parse(request)
        delegated = compose(request, settings, read_subnets(Path(settings.subnet_file)))
        path = _kept(request, settings)
        before = read_kept(path)
        write_kept(path, msgspec.json.encode(delegated, order="sorted"))
        try:
            result = delegate(Command.ADD, delegated["type"], request, delegated)
        except BaseException:
            _take_back(request, path, before, delegated)
            raise
        if result is None:
            raise refused(f"the delegate {delegated['type']!r} returned no result")
        return result

    def delete(self, request: PluginRequest) -> None:
        """Have the delegate delete what it made; forget its configuration then."""
        settings = parse(request)
        path = _kept(request, settings)
        data = read_kept(path)
        if data is None:
            return
        delegated = _decoded(data)
        if delegated is None:
            _log.warning("%s is no configuration; using what it would be now", path)
            try:
                delegated = compose(request, settings, read_subnets(Path(settings.subnet_file)))
            except CniError:
                return
        delegate(Command.DEL, delegated["type"], request, delegated)
        remove_kept(path)

    def check(self, request: PluginRequest) -> None:
        """The delegate finds what it made."""
        path = _kept(request, parse(request))
        data = read_kept(path)
        delegated = None if data is None else _decoded(data)
        if delegated is None:
            raise refused(f"{path}: no configuration is kept of what was delegated")
        previous = request.configuration.raw.get("prevResult")
        delegate(Command.CHECK, delegated["type"], request, {**delegated, "prevResult": previous})

    def gc(self, request: PluginRequest) -> None:
        """Have the delegate free what belongs to no valid attachment; forget the configurations of those."""
        settings = parse(request)
        delegated = compose(request, settings, read_subnets(Path(settings.subnet_file)))
        key = "cni.dev/valid-attachments"
        delegate(Command.GC, delegated["type"], request, {**delegated, key: request.configuration.raw.get(key)})
        containers = {container for container, _ in request.configuration.valid_attachments}
        for path in kept_in(Path(settings.data_dir)):
            other = _decoded(path.read_bytes()) or {}
            if path.name not in containers and other.get("name") == request.configuration.name:
                remove_kept(path)

    def status(self, request: PluginRequest) -> None:
        """flanneld has written its file, and the delegate is ready."""
        settings = parse(request)
        try:
            subnets = read_subnets(Path(settings.subnet_file))
        except CniError as error:
            raise CniError(ErrorCode.NOT_AVAILABLE, error.message) from None
        delegated = compose(request, settings, subnets)
        delegate(Command.STATUS, delegated["type"], request, delegated)


def parse(request: PluginRequest) -> FlannelSettings:
    """Read a configuration. Raises CniError. What ``delegate`` and ``ipam`` hold, ``compose`` looks at."""
    settings = read(FlannelSettings, request.configuration)
    for key, value in (("subnetFile", settings.subnet_file), ("dataDir", settings.data_dir)):
        if not value:
            raise invalid(key, value, "give a path, or leave it out")
    return settings


def _kept(request: PluginRequest, settings: FlannelSettings) -> Path:
    """Where the configuration of a container's delegate is."""
    return Path(settings.data_dir) / request.invocation.container_id


def compose(request: PluginRequest, settings: FlannelSettings, subnets: NodeSubnets) -> dict[str, Any]:
    """The configuration for the delegate. Raises CniError where ``delegate`` or ``ipam.routes`` cannot be used."""
    given = settings.delegate or {}
    kind = given.get("type", "bridge")
    if not isinstance(kind, str):
        raise invalid("delegate.type", kind, "give the name of a plugin, such as bridge")
    for key in ("name", "ipam"):
        if key in given:
            raise invalid(f"delegate.{key}", given[key], "flannel sets it; leave it out")
    found: dict[str, Any] = {"ipMasq": not subnets.masquerades, "mtu": subnets.mtu}
    if kind == "bridge":
        found["isGateway"] = True
    found |= {**given, "type": kind, "name": request.configuration.name}
    if settings.runtime_config is not None:
        found["runtimeConfig"] = settings.runtime_config
    if version := request.configuration.raw.get("cniVersion"):
        found["cniVersion"] = version
    ipam = {"type": "host-local", **(settings.ipam or {})}
    routes = (*parse_routes(_routes(ipam)), *(Route(str(network)) for network in subnets.networks))
    ipam["ranges"] = [[{"subnet": str(share)}] for share in subnets.shares]
    ipam["routes"] = Result(routes=routes).to_dict(NEWEST).get("routes", [])
    return found | {"ipam": ipam}


def _routes(ipam: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    routes = ipam.get("routes") or []
    if not isinstance(routes, list):
        raise invalid("ipam.routes", routes, 'give a list such as [{"dst": "10.0.0.0/8"}]')
    return tuple(routes)


def read_subnets(path: Path) -> NodeSubnets:
    """What flanneld wrote. Raises CniError, naming the file, the line and its value."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else str(error)
        raise _unusable(path, f"{said}") from None
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, separator, value = line.partition("=")
        if key.startswith("FLANNEL_") and not separator:
            raise _unusable(path, f"{line!r} is not KEY=VALUE")
        found[key] = value
    try:
        networks = [item for key in ("NETWORK", "IPV6_NETWORK") for item in _networks(found, f"FLANNEL_{key}")]
        shares = [item for key in ("SUBNET", "IPV6_SUBNET") for item in _shares(found, f"FLANNEL_{key}")]
        mtu = _number(found, "FLANNEL_MTU")
    except ValueError as error:
        raise _unusable(path, str(error)) from None
    missing = [] if networks else ["FLANNEL_NETWORK", "FLANNEL_IPV6_NETWORK"]
    missing += [] if shares else ["FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET"]
    missing += [key for key in ("FLANNEL_MTU", "FLANNEL_IPMASQ") if key not in found]
    if missing:
        raise _unusable(path, f"lacks {', '.join(missing)}")
    return NodeSubnets(tuple(networks), tuple(shares), mtu, found["FLANNEL_IPMASQ"] == "true")


def _unusable(path: Path, said: str) -> CniError:
    return refused(
        f"failed to load flannel 'subnet.env' file {path}: {said}. Check the flannel pod log for this node."
    )


def _networks(found: Mapping[str, str], key: str) -> Iterator[IPv4Network | IPv6Network]:
    """A list with commas, each network once."""
    if key in found:
        yield from dict.fromkeys(_network(key, text) for text in found[key].split(","))


def _shares(found: Mapping[str, str], key: str) -> Iterator[IPv4Network | IPv6Network]:
    """flanneld writes the node's share as the gateway's address in it."""
    if key in found:
        yield _network(key, found[key])


def _network(key: str, text: str) -> IPv4Network | IPv6Network:
    try:
        if not text.partition("/")[2].isdigit():
            raise ValueError
        return ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{key}={text} is not a network such as 10.244.0.0/16") from None


def _number(found: Mapping[str, str], key: str) -> int:
    text = found.get(key, "0")
    if not (text.isascii() and text.isdigit() and int(text) <= _LARGEST_MTU):
        raise ValueError(f"{key}={text} is not a number of bytes")
    return int(text)


def _decoded(data: bytes) -> dict[str, Any] | None:
    """A kept configuration; None for what is none."""
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("type"), str) else None


def _take_back(request: PluginRequest, path: Path, before: bytes | None, delegated: Mapping[str, Any]) -> None:
    """After an ADD that failed: what was kept before; where there was nothing, no trace of the delegate.

    An interface that was attached earlier is not deleted because a second ADD was refused.
    """
    if before is not None:
        write_kept(path, before)
        return
    try:
        if not leaves_nothing(delegated["type"], request):
            delegate(Command.DEL, delegated["type"], request, delegated)
    except Exception:
        # Its configuration stays, for the DEL that the runtime will send.
        _log.exception("cannot take back what the delegate %s began", delegated["type"])
        return
    remove_kept(path)
