"""``bandwidth``: limits what goes into a container and what comes out of it, on the host's end of its pair.

What goes in waits in a token bucket on the host's end; what comes out is sent through an IFB device that has one.
With subnets, only what goes to or comes from them is limited, or all but that. Keys: ``ingressRate``,
``ingressBurst``, ``egressRate``, ``egressBurst``, ``shapedSubnets``, ``unshapedSubnets``; see
docs/plugins/bandwidth.md.
"""

import errno
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network, ip_network

from weft.cni import Interface, Result
from weft.kernel import kinds, links, traffic_control
from weft.kernel.links import Link
from weft.kernel.netlink import Message, NetlinkError, RouteSocket
from weft.kernel.traffic_control import Class, TokenBucket
from weft.plugins.devices import not_created
from weft.plugins.names import hashed
from weft.plugins.plugin import PluginRequest
from weft.plugins.settings import Settings, invalid, read, refused
from weft.plugins.undo import Undo

#: Microseconds that a packet may wait.
_LATENCY = 25_000
_LARGEST = (1 << 64) - 1
#: Bits; the kernel counts a burst in 32 bits of bytes.
_TOO_LARGE_BURST = 8 * ((1 << 32) - 1)
_DEVICE_PREFIX = "bwp"
_DEVICE_NAME_LENGTH = 15
#: What the kernel takes for an alias.
_LONGEST_ALIAS = 255

#: The classes of what is limited and of what is not, and how fast the latter may be, in bytes per second.
SHAPED = 48
UNSHAPED = 1
_UNSHAPED_RATE = 100_000_000_000
#: Packets that may wait in each.
_CLASS_QUEUE = 1000


class Rates(Settings, frozen=True, kw_only=True):
    """Bits per second, bits, and the subnets of the other side that count or do not count."""

    ingress_rate: int | None = None
    ingress_burst: int | None = None
    egress_rate: int | None = None
    egress_burst: int | None = None
    shaped_subnets: tuple[str, ...] | None = None
    unshaped_subnets: tuple[str, ...] | None = None


class _RuntimeConfiguration(Settings, frozen=True, kw_only=True):
    bandwidth: Rates | None = None


class BandwidthSettings(Rates, frozen=True, kw_only=True):
    """The plugin's keys; where none of the rates' is there, the runtime's count."""

    runtime_config: _RuntimeConfiguration = _RuntimeConfiguration()


@dataclass(frozen=True, slots=True)
class Plan:
    """What a configuration asks for. ``ingress`` and ``egress`` as the container sees it, None for no limit.

    ``exclude``: the subnets are those that are not limited.
    """

    ingress: TokenBucket | None
    egress: TokenBucket | None
    subnets: tuple[IPv4Network | IPv6Network, ...] = ()
    exclude: bool = False

    @property
    def default_class(self) -> int:
        """Where packets of no subnet go."""
        return SHAPED if self.exclude else UNSHAPED

    def classes(self, bucket: TokenBucket) -> tuple[Class, Class]:
        """The two classes of a direction."""
        return (
            Class(SHAPED, bucket.rate, 2 * bucket.rate, bucket.buffer),
            Class(UNSHAPED, _UNSHAPED_RATE, _UNSHAPED_RATE, 0),
        )


class Bandwidth:
    """``weft.plugins.Plugin`` for ``bandwidth``."""

    def add(self, request: PluginRequest) -> Result:
        """Give the host's end its queue and the IFB device its own; the result has that device, too."""
        plan, result = parse(request), request.previous_result
        if plan.ingress is None and plan.egress is None:
            return result
        with RouteSocket() as host, Undo() as undo:
            port = find_host_interface(host, request, result)
            if plan.ingress is not None:
                queue, *classes = limit(port.index, plan, plan.ingress, incoming=True)
                host.execute([queue])
                undo.on_failure(host.attempt, [traffic_control.delete_queue(port.index)])
                host.execute(classes)
            if plan.egress is not None:
                device = _limit_egress(host, request, port, plan, plan.egress, undo)
                result = replace(result, interfaces=(*result.interfaces, Interface(device.name, device.address)))
        return result

    def delete(self, request: PluginRequest) -> None:
        """Delete the IFB device; the other queue goes with the host's end."""
        name = device_name(request.configuration.name, request.invocation.container_id)
        with RouteSocket() as host:
            _delete(host, name)

    def check(self, request: PluginRequest) -> None:
        """Both queues are there, with the limits of the configuration."""
        plan, result = parse(request), request.previous_result
        if plan.ingress is None and plan.egress is None:
            return
        with RouteSocket() as host:
            port = find_host_interface(host, request, result)
            if plan.ingress is not None:
                _verify(host, port, plan, plan.ingress)
            if plan.egress is not None:
                name = device_name(request.configuration.name, request.invocation.container_id)
                if not any(item.kind == "ingress" for item in traffic_control.dump_queues(host, port.index)):
                    raise refused(f"{port.name} does not send what comes in through {name} any more")
                try:
                    device = links.get_link(host, name=name)
                except NetlinkError:
                    raise refused(f"the IFB device {name} is gone") from None
                _verify(host, device, plan, plan.egress)

    def gc(self, request: PluginRequest) -> None:
        """Delete the IFB devices of this network's attachments that are not valid."""
        network = request.configuration.name
        valid = {device_name(network, container) for container, _ in request.configuration.valid_attachments}
        with RouteSocket() as host:
            for device in links.dump_links(host, "ifb"):
                if device.alias == device_alias(network) and device.name not in valid:
                    _delete(host, device.name)

    def status(self, request: PluginRequest) -> None:
        """The configuration can be used."""
        parse(request)


def parse(request: PluginRequest) -> Plan:
    """Read and check a configuration. Raises CniError, naming key, value and mend."""
    settings = read(BandwidthSettings, request.configuration)
    rates: Rates = settings
    where = ""
    if all(getattr(settings, name) is None for name in Rates.__struct_fields__):
        rates, where = settings.runtime_config.bandwidth or Rates(), "runtimeConfig.bandwidth."
    ingress = _bucket(f"{where}ingress", rates.ingress_rate or 0, rates.ingress_burst or 0)
    egress = _bucket(f"{where}egress", rates.egress_rate or 0, rates.egress_burst or 0)
    shaped, unshaped = rates.shaped_subnets or (), rates.unshaped_subnets or ()
    if shaped and unshaped:
        raise refused(f"{where}shapedSubnets and unshapedSubnets cannot be both specified; leave one out")
    key = f"{where}{'shapedSubnets' if shaped else 'unshapedSubnets'}"
    subnets = tuple(_subnet(key, text) for text in (*shaped, *unshaped))
    return Plan(ingress, egress, subnets, exclude=bool(unshaped))


def _bucket(key: str, rate: int, burst: int) -> TokenBucket | None:
    for name, value in ((f"{key}Rate", rate), (f"{key}Burst", burst)):
        if not 0 <= value <= _LARGEST:
            raise invalid(name, value, "give a number of bits from 0 to 2^64-1")
    if rate and not burst:
        raise refused(f"{key}Rate {rate}: if rate is set, burst must also be set; give {key}Burst, in bits")
    if burst and not rate:
        raise refused(
            f"{key}Burst {burst}: if burst is set, rate must also be set; give {key}Rate, in bits per second"
        )
    if burst >= _TOO_LARGE_BURST:
        raise invalid(
            f"{key}Burst", burst, f"burst cannot be more than 4 GB; give less than {_TOO_LARGE_BURST} bits"
        )
    if not rate:
        return None
    if rate < 8:
        raise invalid(f"{key}Rate", rate, "give at least 8 bits per second, or 0 for no limit")
    bucket = TokenBucket(rate // 8, burst // 8, _LATENCY)
    if not bucket.buffer:
        raise invalid(
            f"{key}Burst", burst, f"too small for a rate of {rate}; give what is sent in a millisecond, or more"
        )
    return bucket


def _subnet(key: str, text: str) -> IPv4Network | IPv6Network:
    try:
        if "/" not in text:
            raise ValueError
        return ip_network(text, strict=False)
    except ValueError:
        raise invalid(key, text, "give subnets such as 10.0.0.0/8") from None


def device_name(network: str, container_id: str) -> str:
    """The IFB device of one container in one network."""
    return hashed(_DEVICE_NAME_LENGTH, _DEVICE_PREFIX, network + container_id)


def device_alias(network: str) -> str:
    """What marks the IFB devices of a network, for GC."""
    return f"bandwidth of network {network}"[:_LONGEST_ALIAS]


def find_host_interface(host: RouteSocket, request: PluginRequest, result: Result) -> Link:
    """The host's end of the container's pair, which must be in the result. Raises CniError."""
    ifname = request.invocation.ifname
    try:
        with RouteSocket.open_in(request.sandbox) as pod:
            link = links.get_link(pod, name=ifname)
    except NetlinkError:
        raise refused(f"interface {ifname} not found in {request.invocation.netns}") from None
    if link.kind != "veth" or not link.peer_index:
        raise refused(f"container interface {ifname} has no veth peer: it is of type {link.kind or 'none'}")
    try:
        port = links.get_link(host, index=link.peer_index)
    except NetlinkError:
        raise refused(f"veth peer with index {link.peer_index} of {ifname} is not in host ns") from None
    if not any(item.name == port.name and not item.sandbox for item in result.interfaces):
        raise refused(f"prevResult has no interface {port.name}, the host's end of {ifname}")
    return port


def limit(index: int, plan: Plan, bucket: TokenBucket, *, incoming: bool) -> list[Message]:
    """What limits what a device sends; ``incoming`` to the container, so that the other side is the source."""
    if not plan.subnets:
        return [traffic_control.add_token_bucket(index, bucket)]
    number = UNSHAPED if plan.exclude else SHAPED
    return [
        traffic_control.add_hierarchy(index, plan.default_class),
        *(traffic_control.add_class(index, item) for item in plan.classes(bucket)),
        *(traffic_control.add_class_queue(index, item.number, _CLASS_QUEUE) for item in plan.classes(bucket)),
        *(traffic_control.classify(index, subnet, number, source=incoming) for subnet in plan.subnets),
    ]


def _limit_egress(
    host: RouteSocket, request: PluginRequest, port: Link, plan: Plan, bucket: TokenBucket, undo: Undo
) -> Link:
    """Make the IFB device with its queue, then send through it what the container sends; the device."""
    network = request.configuration.name
    name = device_name(network, request.invocation.container_id)
    (failed,) = host.attempt([kinds.create_ifb(name, mtu=port.mtu)])
    if failed is not None and failed.errno == errno.EEXIST:
        raise refused(
            f"the IFB device {name} is there: another interface of this container in this network has it"
        )
    if failed is not None:
        raise not_created("ifb", name, failed)
    undo.on_failure(_delete, host, name)
    device = links.get_link(host, name=name)
    host.execute(
        [
            links.set_link(index=device.index, alias=device_alias(network)),
            *limit(device.index, plan, bucket, incoming=False),
        ]
    )
    host.execute([traffic_control.add_ingress(port.index)])
    undo.on_failure(host.attempt, [traffic_control.delete_ingress(port.index)])
    host.execute([traffic_control.redirect_ingress(port.index, device.index)])
    return device


def _verify(host: RouteSocket, device: Link, plan: Plan, bucket: TokenBucket) -> None:
    queues = traffic_control.dump_queues(host, device.index)
    kind = "htb" if plan.subnets else "tbf"
    queue = next((item for item in queues if item.kind == kind), None)
    if queue is None:
        raise refused(f"{device.name} has no {kind} queue any more")
    pairs: Sequence[tuple[str, int, int]]
    if plan.subnets:
        present = {item.number: item for item in traffic_control.dump_classes(host, device.index)}
        for wanted in plan.classes(bucket):
            if present.get(wanted.number) != wanted:
                raise refused(
                    f"{device.name}: class {wanted.number} is {present.get(wanted.number)}, not {wanted}"
                )
        pairs = (("default class", queue.default_class, plan.default_class),)
    else:
        pairs = (
            ("rate", queue.rate, bucket.rate),
            ("limit", queue.limit, bucket.limit),
            ("buffer", queue.buffer, bucket.buffer),
        )
    for what, found, expected in pairs:
        if found != expected:
            raise refused(f"{device.name}: {what} is {found}, not {expected}")


def _delete(host: RouteSocket, name: str) -> None:
    (failed,) = host.attempt([links.delete_link(name=name)])
    if failed is not None and failed.errno != errno.ENODEV:
        raise failed
