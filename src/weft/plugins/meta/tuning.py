"""``tuning``: sysctls of the container, and properties of an interface that other plugins made.

What the interface was like is kept in ``/run/cni/tuning/<container ID>_<interface>.json``, as the reference plugin
keeps it, and put back by DEL; sysctls stay as they are. Keys: ``sysctl``, ``mac``, ``promisc``, ``mtu``,
``allmulti``, ``txQLen``, ``dataDir``; see docs/plugins/tuning.md.
"""

import contextlib
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from weft.cni import Result
from weft.kernel import links, sysctl
from weft.kernel.links import Link
from weft.kernel.namespace import NetworkNamespace
from weft.kernel.netlink import Message, NetlinkError, RouteSocket
from weft.plugins.files import read_kept, remove_kept, write_kept
from weft.plugins.pairs import check_mac, check_mtu
from weft.plugins.plugin import PluginRequest
from weft.plugins.settings import Settings, invalid, read, read_arguments, refused
from weft.plugins.undo import Undo

_log = logging.getLogger(__name__)

DEFAULT_FOLDER = "/run/cni/tuning"
#: Where there is such a file, only sysctls that match one of its lines (regular expressions) are set.
ALLOWLIST = Path("/etc/cni/tuning/allowlist.conf")
_INTERFACE = "IFNAME"
_LONGEST_QUEUE = (1 << 31) - 1


class _Properties(Settings, frozen=True, kw_only=True):
    sysctl: dict[str, str] = msgspec.field(default_factory=dict)
    mac: str | None = None
    promisc: bool | None = None
    mtu: int | None = None
    allmulti: bool | None = None
    tx_q_len: int | None = None


class _Arguments(Settings, frozen=True, kw_only=True):
    cni: _Properties = _Properties()


class _RuntimeConfiguration(Settings, frozen=True, kw_only=True):
    mac: str = ""


class TuningSettings(_Properties, frozen=True, kw_only=True):
    """The plugin's keys."""

    data_dir: str = ""
    args: _Arguments = _Arguments()
    runtime_config: _RuntimeConfiguration = _RuntimeConfiguration()


class Properties(Settings, frozen=True, kw_only=True, omit_defaults=True):
    """An interface's, or those of them that count: None for the others. Kept in this form, in this order."""

    mac: str | None = None
    promisc: bool | None = None
    mtu: int | None = None
    allmulti: bool | None = None
    tx_q_len: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A configuration, checked. ``sysctls`` by their path: the value."""

    sysctls: Mapping[tuple[str, ...], str]
    properties: Properties
    folder: Path


class Tuning:
    """``weft.plugins.Plugin`` for ``tuning``."""

    def add(self, request: PluginRequest) -> Result:
        """Set the sysctls, keep what the interface is like, change it; the result has the new MAC."""
        plan, result, sandbox, ifname = (
            parse(request),
            request.previous_result,
            request.sandbox,
            request.invocation.ifname,
        )
        with RouteSocket.open_in(sandbox) as pod, Undo() as undo:
            link = _find(pod, request)
            _write_sysctls(sandbox, plan.sysctls, undo)
            if plan.properties != Properties():
                before = properties_of(link, plan.properties)
                path = _kept(request, plan.folder)
                write_kept(path, json.dumps(msgspec.to_builtins(before), indent=1).encode())
                undo.on_failure(remove_kept, path)
                undo.on_failure(pod.attempt, [message for _, message in changes(link.index, before)])
                for key, message in changes(link.index, plan.properties):
                    (failed,) = pod.attempt([message])
                    if failed is not None:
                        raise refused(f"{key} of {ifname}: {failed}")
        mac = plan.properties.mac
        if mac is None:
            return result
        return replace(
            result,
            interfaces=tuple(
                replace(item, mac=mac) if item.name == ifname else item for item in result.interfaces
            ),
        )

    def delete(self, request: PluginRequest) -> None:
        """Make the interface what it was; what cannot be put back does not keep it from being deleted."""
        settings = read(TuningSettings, request.configuration)
        path = _kept(request, Path(settings.data_dir or DEFAULT_FOLDER))
        data = read_kept(path)
        if data is None:
            return
        if request.namespace is not None and not _restore(request.namespace, request.invocation.ifname, data):
            return
        remove_kept(path)

    def check(self, request: PluginRequest) -> None:
        """Sysctls and interface are as configured."""
        plan, ifname = parse(request), request.invocation.ifname
        _ = request.previous_result
        with RouteSocket.open_in(request.sandbox) as pod:
            found = properties_of(_find(pod, request), plan.properties)
        with request.sandbox.entered():
            values = _read_all(plan.sysctls)
        for path, value in values.items():
            if value.split() != plan.sysctls[path].split():
                raise refused(f"sysctl {'.'.join(path)} is {value!r}, not {plan.sysctls[path]!r}")
        present = _items(found)
        for key, wanted in _items(plan.properties).items():
            if present[key] != wanted:
                raise refused(f"{key} of {ifname} is {present[key]}, not {wanted}")

    def gc(self, request: PluginRequest) -> None:
        """Nothing: what is kept does not say of which network it is, and goes with the next boot."""

    def status(self, request: PluginRequest) -> None:
        """The configuration can be used."""
        parse(request)


def parse(request: PluginRequest) -> Plan:
    """Read and check a configuration. Raises CniError, naming key, value and mend."""
    settings = read(TuningSettings, request.configuration)
    asked = settings.args.cni
    named = read_arguments(request.invocation, "MAC")
    mac = asked.mac or settings.runtime_config.mac or named.get("MAC") or settings.mac
    mtu = _first(asked.mtu, settings.mtu) or None
    queue = _first(asked.tx_q_len, settings.tx_q_len)
    if mtu is not None:
        check_mtu("mtu", mtu)
    if queue is not None and not 0 <= queue <= _LONGEST_QUEUE:
        raise invalid("txQLen", queue, f"give 0 to {_LONGEST_QUEUE} packets")
    found = Properties(
        mac=check_mac("mac", mac) if mac else None,
        # As with the reference, false does not switch it off.
        promisc=_first(asked.promisc, settings.promisc) or None,
        mtu=mtu,
        allmulti=_first(asked.allmulti, settings.allmulti),
        tx_q_len=queue,
    )
    for key in names_given_twice(request.configuration.data, "sysctl"):
        raise refused(f"duplicated sysctl keys are not allowed: {key!r} is given twice; leave one out")
    values = {**settings.sysctl, **asked.sysctl}
    check_allowed(values, ALLOWLIST)
    sysctls = sysctl_paths(values, request.invocation.ifname)
    return Plan(sysctls, found, Path(settings.data_dir or DEFAULT_FOLDER))


def check_allowed(keys: Mapping[str, str], allowlist: Path) -> None:
    """Raise CniError for a sysctl, as it is written, that no line of the file matches; without a file all are."""
    try:
        text = allowlist.read_text()
    except FileNotFoundError:
        return
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    try:
        patterns = [re.compile(line) for line in lines]
    except re.error as error:
        raise refused(f"{allowlist}: {error.pattern!r} is not a regular expression: {error}") from None
    for key in keys:
        if not any(pattern.search(key) for pattern in patterns):
            raise refused(
                f"Sysctl {key} is not allowed. Only the following sysctls are allowed: {lines}; see {allowlist}"
            )


def sysctl_paths(values: Mapping[str, str], ifname: str) -> dict[tuple[str, ...], str]:
    """The paths below /proc/sys of sysctls. Raises CniError where one is outside of ``net``, or is meant twice.

    Dots and slashes divide a key; the first ``IFNAME`` in it stands for the interface.
    """
    found: dict[tuple[str, ...], str] = {}
    for key, value in values.items():
        divided = key.replace(".", "/").replace(_INTERFACE, "\0", 1).split("/")
        path = tuple(part.replace("\0", ifname) for part in divided if part)
        if len(path) < 2 or path[0] != "net":
            raise refused(f"invalid net sysctl key: {key!r}; only those below net can be set")
        if path in found:
            raise refused(f"sysctl {key!r} is given twice, in two spellings; leave one out")
        found[path] = value
    return found


def names_given_twice(data: bytes, key: str) -> list[str]:
    """The names that come more than once in the objects that a JSON text has under that key, however deep."""
    found: list[str] = []

    def build(pairs: list[tuple[str, Any]]) -> tuple[dict[str, Any], list[str]]:
        for name, value in pairs:
            # Every object is built before the one that holds it.
            if name.lower() == key and isinstance(value, tuple):
                found.extend(value[1])
        repeated = [name for name, times in Counter(name for name, _ in pairs).items() if times > 1]
        return dict(pairs), repeated

    with contextlib.suppress(ValueError, RecursionError):
        json.loads(data, object_pairs_hook=build)
    return found


def properties_of(link: Link, wanted: Properties) -> Properties:
    """What an interface is like, as far as ``wanted`` says something about it."""
    return Properties(
        mac=None if wanted.mac is None else link.address,
        promisc=None if wanted.promisc is None else link.promiscuity > 0,
        mtu=None if wanted.mtu is None else link.mtu,
        allmulti=None if wanted.allmulti is None else link.all_multicast,
        tx_q_len=None if wanted.tx_q_len is None else link.transmit_queue_length,
    )


def changes(index: int, wanted: Properties) -> list[tuple[str, Message]]:
    """What makes an interface like that: the key, and the message about it."""
    make: dict[str, Callable[[Any], Message]] = {
        "mac": lambda value: links.set_link(index=index, address=value),
        "promisc": lambda value: links.set_link(index=index, promiscuous=value),
        "mtu": lambda value: links.set_link(index=index, mtu=value),
        "allmulti": lambda value: links.set_link(index=index, all_multicast=value),
        "txQLen": lambda value: links.set_link(index=index, transmit_queue_length=value),
    }
    return [(key, make[key](value)) for key, value in _items(wanted).items()]


def _items(properties: Properties) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(properties)
    return found


def _first(asked: Any, configured: Any) -> Any:
    return configured if asked is None else asked


def _kept(request: PluginRequest, folder: Path) -> Path:
    return folder / f"{request.invocation.container_id}_{request.invocation.ifname}.json"


def _find(pod: RouteSocket, request: PluginRequest) -> Link:
    try:
        return links.get_link(pod, name=request.invocation.ifname)
    except NetlinkError:
        raise refused(f"failed to get {request.invocation.ifname!r}: no such interface in the container") from None


def _write_sysctls(namespace: NetworkNamespace, values: Mapping[tuple[str, ...], str], undo: Undo) -> None:
    with namespace.entered():
        before = _read_all(values)
    undo.on_failure(_write_all, namespace, before)
    _write_all(namespace, values)


def _read_all(paths: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """The values in the calling thread's namespace, less those that can only be written. Raises OSError."""
    found = {}
    for path in paths:
        with contextlib.suppress(PermissionError):
            found[path] = sysctl.read(path)
    return found


def _write_all(namespace: NetworkNamespace, values: Mapping[tuple[str, ...], str]) -> None:
    with namespace.entered():
        for path, value in values.items():
            sysctl.write(path, value)


def _restore(namespace: NetworkNamespace, ifname: str, data: bytes) -> bool:
    """Whether the interface is what it was; also where it is gone, or nobody can read what it was."""
    try:
        before = msgspec.json.decode(data, type=Properties)
    except (msgspec.DecodeError, UnicodeDecodeError):
        _log.warning("what is kept of %s cannot be read", ifname)
        return True
    with RouteSocket.open_in(namespace) as pod:
        try:
            index = links.find_index(pod, ifname)
        except NetlinkError:
            return True
        named = changes(index, before)
        outcomes = pod.attempt([message for _, message in named])
    failed = [(key, outcome) for (key, _), outcome in zip(named, outcomes, strict=True) if outcome is not None]
    for key, outcome in failed:
        _log.warning("failed to restore %s of %s: %s", key, ifname, outcome)
    return not failed
