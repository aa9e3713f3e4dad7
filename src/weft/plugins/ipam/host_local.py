"""``host-local``: addresses out of ranges, each reservation a file, in the reference plugin's format.

``<dataDir>/<network>/<address>`` holds the container ID and the interface, ``last_reserved_ip.<range set>`` where
the next search begins, ``lock`` is locked with flock(2) meanwhile. So plugins of both kinds share a folder.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any

from weft.cni import CniError, Dns, ErrorCode, IPConfiguration, Result, Route
from weft.cni.versions import at_least
from weft.plugins.ipam.ranges import Address, RangeSet, RangeSettings, parse_address, parse_set
from weft.plugins.plugin import PluginRequest
from weft.plugins.settings import Settings, read, read_arguments, refused

DEFAULT_FOLDER = "/var/lib/cni/networks"
_LAST = "last_reserved_ip."
_LOCK = "lock"
_LINE_END = "\r\n"


class HostLocalIpam(RangeSettings, frozen=True, kw_only=True):
    """``ipam``: ``ranges``, or one range in its own keys."""

    ranges: tuple[tuple[RangeSettings, ...], ...] = ()
    routes: tuple[dict[str, Any], ...] = ()
    data_dir: str = ""
    resolv_conf: str = ""


class _RuntimeConfiguration(Settings, frozen=True, kw_only=True):
    ip_ranges: tuple[tuple[RangeSettings, ...], ...] = ()
    ips: tuple[str, ...] = ()


class _Requested(Settings, frozen=True, kw_only=True):
    ips: tuple[str, ...] = ()


class _Arguments(Settings, frozen=True, kw_only=True):
    cni: _Requested = _Requested()


class HostLocalSettings(Settings, frozen=True, kw_only=True):
    """The configuration of the plugin that delegates."""

    ipam: HostLocalIpam | None = None
    runtime_config: _RuntimeConfiguration = _RuntimeConfiguration()
    args: _Arguments = _Arguments()


@dataclass(frozen=True, slots=True)
class Plan:
    """What a configuration asks for."""

    sets: tuple[RangeSet, ...]
    requested: tuple[Address, ...]
    routes: tuple[Route, ...]
    folder: Path
    resolv_conf: str


class HostLocal:
    """``weft.plugins.Plugin`` for ``host-local``."""

    def add(self, request: PluginRequest) -> Result:
        """Reserve one address of each range set."""
        plan = parse(request)
        dns = parse_resolv_conf(Path(plan.resolv_conf)) if plan.resolv_conf else Dns()
        call = request.invocation
        with Reservations.opened(plan.folder) as kept:
            try:
                ips = _reserve(plan, kept, call.container_id, call.ifname)
            except BaseException:
                kept.release(call.container_id, call.ifname, only=kept.made)
                raise
        return Result((), tuple(ips), plan.routes, dns)

    def delete(self, request: PluginRequest) -> None:
        """Give up all addresses of the container's interface."""
        plan, call = parse(request), request.invocation
        with Reservations.opened(plan.folder) as kept:
            kept.release(call.container_id, call.ifname)

    def check(self, request: PluginRequest) -> None:
        """The interface holds an address."""
        plan, call = parse(request), request.invocation
        with Reservations.opened(plan.folder) as kept:
            if not kept.held_by(call.container_id, call.ifname):
                raise refused(f"host-local: no address is reserved for {call.ifname} of {call.container_id}")

    def gc(self, request: PluginRequest) -> None:
        """Give up what belongs to no valid attachment."""
        plan, valid = parse(request), request.configuration.valid_attachments
        containers = {container for container, _ in valid}
        with Reservations.opened(plan.folder) as kept:
            for name, owner in kept.owners().items():
                # Files of old hold the container ID alone.
                if owner not in valid and not (owner[1] == "" and owner[0] in containers):
                    kept.remove(name)

    def status(self, request: PluginRequest) -> None:
        """Every range set has an address left."""
        plan = parse(request)
        with Reservations.opened(plan.folder) as kept:
            used = [ip_address(name) for name in kept.owners()]
        for item in plan.sets:
            if sum(item.find(address) is not None for address in used) >= item.size:
                raise CniError(ErrorCode.NOT_AVAILABLE, f"no IP addresses available in range set: {item}")


def parse(request: PluginRequest) -> Plan:
    """Read and check a configuration. Raises CniError."""
    configuration = request.configuration
    settings = read(HostLocalSettings, configuration)
    ipam, runtime = settings.ipam, settings.runtime_config
    if ipam is None:
        raise refused("IPAM config missing 'ipam' key")
    named = read_arguments(request.invocation, "IP")
    asked = [named["IP"]] if named.get("IP") else []
    requested = tuple(_requested(text) for text in (*asked, *settings.args.cni.ips, *runtime.ips))
    alone: tuple[tuple[RangeSettings, ...], ...] = ()
    if ipam.subnet:
        alone = ((RangeSettings(**{name: getattr(ipam, name) for name in RangeSettings.__struct_fields__}),),)
    else:
        for key, value in (
            ("rangeStart", ipam.range_start),
            ("rangeEnd", ipam.range_end),
            ("gateway", ipam.gateway),
        ):
            if value:
                raise refused(f"ipam.{key} {value!r}: there is no ipam.subnet that it belongs to")
    configured = (*runtime.ip_ranges, *alone, *ipam.ranges)
    if not configured:
        raise refused("no IP ranges specified: give ipam.ranges")
    sets = []
    for number, item in enumerate(configured):
        try:
            sets.append(parse_set(item))
        except CniError as error:
            raise refused(f"invalid range set {number}: {error.message}") from None
    for number, one in enumerate(sets):
        for other in range(number + 1, len(sets)):
            if one.overlaps(sets[other]):
                raise refused(f"range set {number} ({one}) overlaps with {other} ({sets[other]})")
    check_family_count([item.version for item in sets], configuration.cni_version)
    routes = parse_routes(ipam.routes)
    folder = Path(ipam.data_dir or DEFAULT_FOLDER) / configuration.name
    return Plan(tuple(sets), requested, routes, folder, ipam.resolv_conf)


def check_family_count(versions: list[int], cni_version: str) -> None:
    """Results before 0.3.0 have room for one address of a family. Raises CniError."""
    if len(set(versions)) < len(versions) and not at_least(cni_version, "0.3.0"):
        raise refused(f"CNI version {cni_version} does not support more than 1 address per family")


def parse_routes(routes: tuple[dict[str, Any], ...]) -> tuple[Route, ...]:
    """``ipam.routes``. Raises CniError."""
    try:
        return Result.from_json({"cniVersion": "1.1.0", "routes": routes}).routes
    except CniError as error:
        raise refused(f"ipam.routes: {error.message}") from None


def parse_resolv_conf(path: Path) -> Dns:
    """The DNS settings of a resolv.conf(5). Raises CniError where it cannot be read."""
    try:
        text = path.read_text()
    except (OSError, ValueError) as error:
        raise refused(f"ipam.resolvConf {str(path)!r}: {error}") from None
    found: dict[str, list[str]] = {"nameserver": [], "domain": [], "search": [], "options": []}
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0][0] in "#;":
            continue
        if words[0] in ("nameserver", "domain"):
            found[words[0]].append(words[1])
        elif words[0] in found:
            found[words[0]] += words[1:]
    return Dns(
        tuple(found["nameserver"]),
        found["domain"][-1] if found["domain"] else "",
        tuple(found["search"]),
        tuple(found["options"]),
    )


@dataclass(slots=True)
class Reservations:
    """A network's folder, locked. ``made`` are the addresses reserved since it was opened."""

    folder: Path
    made: list[str] = field(default_factory=list)

    @classmethod
    @contextlib.contextmanager
    def opened(cls, folder: Path) -> Iterator["Reservations"]:
        """Hold the folder's lock. Raises OSError."""
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield cls(folder)
        finally:
            os.close(lock)

    def owners(self) -> dict[str, tuple[str, str]]:
        """The (container ID, interface) of every reserved address; the interface is empty in files of old.

        Removes what belongs to nobody.
        """
        found = {}
        prefix = f"{self.folder}/"
        for name in os.listdir(self.folder):  # noqa: PTH208
            if name == _LOCK or name.startswith(_LAST) or not _is_address(name):
                continue
            try:
                descriptor = os.open(prefix + name, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                text = os.read(descriptor, 4096).decode(errors="replace").strip()
            except OSError:
                continue
            finally:
                os.close(descriptor)
            if not text:
                # Its maker was killed before it wrote whose it is: nobody is about to, while the folder is locked.
                self.remove(name)
                continue
            container, _, ifname = text.partition(_LINE_END)
            found[name] = (container, ifname)
        return found

    def held_by(self, container_id: str, ifname: str) -> list[str]:
        """The addresses of an interface; where there are none, those that a file of old gives the container."""
        owners = self.owners()
        exact = [name for name, owner in owners.items() if owner == (container_id, ifname)]
        return exact or [name for name, owner in owners.items() if owner == (container_id, "")]

    def reserve(self, address: Address, container_id: str, ifname: str, number: int) -> bool:
        """Take an address for an interface, in the range set ``number``; False where it is taken."""
        path = f"{self.folder}/{address}"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_EXCL | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            return False
        self.made.append(str(address))
        try:
            os.write(descriptor, f"{container_id}{_LINE_END}{ifname}".encode())
        finally:
            os.close(descriptor)
        descriptor = os.open(
            f"{self.folder}/{_LAST}{number}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600
        )
        try:
            os.write(descriptor, str(address).encode())
        finally:
            os.close(descriptor)
        return True

    def last(self, number: int) -> Address | None:
        """The address that the range set ``number`` gave out last."""
        try:
            return ip_address((self.folder / f"{_LAST}{number}").read_text())
        except (OSError, ValueError):
            return None

    def release(self, container_id: str, ifname: str, *, only: list[str] | None = None) -> None:
        """Give up the addresses of an interface, or ``only`` some of them."""
        for name in self.held_by(container_id, ifname) if only is None else only:
            self.remove(name)

    def remove(self, name: str) -> None:
        """Give up an address."""
        with contextlib.suppress(FileNotFoundError):
            (self.folder / name).unlink()


def _reserve(plan: Plan, kept: Reservations, container_id: str, ifname: str) -> Iterator[IPConfiguration]:
    held = [ip_address(name) for name in kept.held_by(container_id, ifname)]
    left = list(plan.requested)
    found = []
    for number, item in enumerate(plan.sets):
        wanted = next((address for address in left if item.find(address)), None)
        try:
            if wanted is not None:
                left.remove(wanted)
                address = _reserve_requested(item, wanted, kept, container_id, ifname, number)
            else:
                address = _reserve_next(item, held, kept, container_id, ifname, number)
        except CniError as error:
            raise refused(f"failed to allocate for range {number}: {error.message}") from None
        found.append(address)
    if left:
        raise refused(
            f"failed to allocate all requested IPs: {', '.join(map(str, left))} not in "
            + " or ".join(map(str, plan.sets))
        )
    return iter(found)


def _reserve_requested(
    item: RangeSet, wanted: Address, kept: Reservations, container_id: str, ifname: str, number: int
) -> IPConfiguration:
    owner = item.find(wanted)
    if owner is None or wanted == owner.gateway:
        raise refused(f"requested ip {wanted} is subnet's gateway")
    if not kept.reserve(wanted, container_id, ifname, number):
        raise refused(f"requested IP address {wanted} is not available in range set {item}")
    return IPConfiguration(owner.interface(wanted), owner.gateway)


def _reserve_next(
    item: RangeSet, held: list[Address], kept: Reservations, container_id: str, ifname: str, number: int
) -> IPConfiguration:
    for address in held:
        if item.find(address):
            raise refused(f"{address} has been allocated to {container_id}, duplicate allocation is not allowed")
    for address, owner in item.candidates(kept.last(number)):
        if kept.reserve(address, container_id, ifname, number):
            return IPConfiguration(owner.interface(address), owner.gateway)
    raise refused(f"no IP addresses available in range set: {item}")


def _requested(text: str) -> Address:
    """An address, or one with a prefix that does not count."""
    try:
        return parse_address(str(ip_interface(text).ip), "requested IP")
    except ValueError:
        raise refused(f"requested IP {text!r} is not an IP address") from None


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
