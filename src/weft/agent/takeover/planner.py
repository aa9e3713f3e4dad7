"""The decision: from what is on the node and in the cluster to a plan, or to the reasons why there is none."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

import msgspec

from weft.agent.takeover.layout import DATAPATH, FURTHER, TUNNEL, UPLINK, Device, Layout, is_own_set, is_pod_pair
from weft.agent.takeover.rules import encrypts, own_rules
from weft.fabric import weave
from weft.ipam.ranges import IPAddress, IPNetwork, PodRange


@dataclass(frozen=True, slots=True)
class Situation:
    """What the cluster is like, seen from this node.

    ``owners`` has the owner of every block that has one, ``foreign`` who uses an address on other nodes, ``mtus``
    the smallest and the largest MTU in bytes that pods can have here.
    """

    node: str
    pods: PodRange
    owners: Mapping[IPNetwork, str] = field(default_factory=dict)
    foreign: Mapping[IPAddress, str] = field(default_factory=dict)
    mtus: tuple[int, int] = (weave.SMALLEST_MTU, 65535)


class Kept(msgspec.Struct, frozen=True):
    """Something of Weave's that stays, and why."""

    what: str
    why: str


class Pod(msgspec.Struct, frozen=True, rename="camel"):
    """A pod that stays connected; one without an address was about to come or to go."""

    host_interface: str
    address: IPv4Address | None


class Rules(msgspec.Struct, frozen=True):
    """What goes from one table of iptables."""

    table: str
    legacy: bool
    chains: tuple[str, ...]
    rules: tuple[str, ...]


class Plan(msgspec.Struct, frozen=True, rename="camel"):
    """What a take-over does. ``gateway``, ``bridge_address`` (the MAC) and ``mtu`` (bytes) are kept; None, empty
    and 0 where there is no bridge. ``blocks`` are CIDRs to own, that of the gateway first."""

    node: str
    gateway: IPv4Address | None
    bridge_address: str
    mtu: int
    blocks: tuple[str, ...]
    pods: tuple[Pod, ...]
    devices: tuple[str, ...]
    rules: tuple[Rules, ...]
    sets: tuple[str, ...]
    stays: tuple[Kept, ...]


class Reason(msgspec.Struct, frozen=True):
    """Why there is no plan, and what would mend that."""

    reason: str
    mend: str


class Refusal(msgspec.Struct, frozen=True):
    """No plan: every reason that there is."""

    node: str
    reasons: tuple[Reason, ...]


def plan(layout: Layout, situation: Situation) -> Plan | Refusal:
    """How this node is taken over, or all that speaks against it."""
    reasons = (
        *_against_bridge(layout, situation),
        *_against_pods(layout, situation),
        *_against_blocks(layout, situation),
        *_against_encryption(layout),
        *(
            Reason(why, "let iptables-save print it (Debian: iptables), or remove Weave's rules by hand")
            for why in layout.unreadable
        ),
    )
    if reasons:
        return Refusal(situation.node, reasons)
    bridge = layout.bridge
    gateway = layout.bridge_addresses[0].ip if layout.bridge_addresses else None
    found = [(item, own_rules(item.table)) for item in layout.tables]
    devices, stays = _devices(layout)
    stays += [Kept(what, f"in table {item.table.name}: {why}") for item, own in found for what, why in own.kept]
    stays += [Kept(path, "not read any more; delete it when there is no way back") for path in layout.files]
    return Plan(
        node=situation.node,
        gateway=gateway,
        bridge_address=bridge.address if bridge else "",
        mtu=bridge.mtu if bridge else 0,
        blocks=tuple(str(block) for block in _blocks(layout, situation.pods)),
        pods=tuple(Pod(pair.name, pair.addresses[0].ip if pair.addresses else None) for pair in layout.pairs),
        devices=devices,
        rules=tuple(
            Rules(item.table.name, item.legacy, own.chains, tuple(f"{chain} {rule}" for chain, rule in own.rules))
            for item, own in found
            if own.chains or own.rules
        ),
        sets=tuple(name for name in layout.sets if is_own_set(name)),
        stays=tuple(stays),
    )


def _used(layout: Layout) -> Iterator[tuple[IPv4Address, str]]:
    """Every address in use on this node, the gateway first, and by whom."""
    for interface in layout.bridge_addresses:
        yield interface.ip, "this node's bridge"
    for pair in layout.pairs:
        for interface in pair.addresses:
            yield interface.ip, f"the pod at {pair.name}"


def _blocks(layout: Layout, pods: PodRange) -> list[IPNetwork]:
    """The blocks of all addresses in use, in the order in which they are met."""
    return list(dict.fromkeys(pods.block_at(address) for address, _ in _used(layout)))


def _devices(layout: Layout) -> tuple[tuple[str, ...], list[Kept]]:
    """Weave's own devices in the order in which they go; a datapath with ports of others stays."""
    going = [name for name in (UPLINK, *FURTHER) if name in layout.by_name]
    tunnel = layout.by_name.get(TUNNEL)
    if tunnel is not None and tunnel.master == DATAPATH:
        going.append(TUNNEL)
    others = [device.name for device in layout.devices if device.master == DATAPATH and device.name not in going]
    if DATAPATH not in layout.by_name:
        return tuple(going), []
    if others:
        return tuple(going), [Kept(f"device {DATAPATH}", f"it has ports of others: {', '.join(others)}")]
    return (*going, DATAPATH), []


def _against_bridge(layout: Layout, situation: Situation) -> Iterator[Reason]:
    bridge, pods = layout.bridge, situation.pods
    if bridge is None:
        if layout.pairs:
            names = ", ".join(pair.name for pair in layout.pairs)
            yield Reason(f"there are pods ({names}) and no bridge {weave.BRIDGE}", "delete those pods")
        return
    if bridge.kind != "bridge":
        yield Reason(
            f"device {weave.BRIDGE} is a {bridge.kind or 'device'}, not a bridge", "rename or remove that device"
        )
        return
    if len(layout.bridge_addresses) != 1:
        listed = ", ".join(map(str, layout.bridge_addresses)) or "none"
        yield Reason(
            f"bridge {weave.BRIDGE} must have one IPv4 address, the pods' gateway; it has {listed}",
            f"leave one: ip address delete ADDRESS dev {weave.BRIDGE}"
            if layout.bridge_addresses
            else "let Weave Net start once more ('weave expose'), or drain the node and remove the bridge",
        )
    for interface in layout.bridge_addresses:
        if interface.network != pods.network:
            yield Reason(
                f"bridge {weave.BRIDGE} has {interface}, which is not of the range {pods}",
                f"give the range that Weave had: IPALLOC_RANGE={interface.network}",
            )
    smallest, largest = situation.mtus
    if not smallest <= bridge.mtu <= largest:
        yield Reason(
            f"pods have MTU {bridge.mtu}; the way to other nodes carries {smallest} to {largest}",
            f"give Weave Net WEAVE_MTU={largest} and let the pods be made anew, or drain the node",
        )
    yield from _against_ports(layout, bridge)


def _against_ports(layout: Layout, bridge: Device) -> Iterator[Reason]:
    for device in layout.devices:
        known = is_pod_pair(device.name) or device.name in (UPLINK, *FURTHER)
        if device.master == bridge.name and not known:
            yield Reason(
                f"device {device.name} is a port of bridge {bridge.name} and no pod of Kubernetes: who uses "
                "which address behind it is not known",
                f"take it off: ip link set {device.name} nomaster",
            )


def _against_pods(layout: Layout, situation: Situation) -> Iterator[Reason]:
    pods = situation.pods
    for pair in layout.pairs:
        if len(pair.addresses) > 1:
            listed = ", ".join(map(str, pair.addresses))
            yield Reason(f"the pod at {pair.name} has several addresses: {listed}", "delete that pod")
        for interface in pair.addresses:
            if interface.network != pods.network:
                yield Reason(
                    f"the pod at {pair.name} has {interface}, which is not of the range {pods}",
                    f"give the range that Weave had (IPALLOC_RANGE), or delete that pod if {pods} is it",
                )
    for address, count in Counter(address for address, _ in _used(layout)).items():
        if count > 1:
            holders = " and ".join(holder for held, holder in _used(layout) if held == address)
            yield Reason(f"address {address} is used twice: by {holders}", "delete those of them that are pods")
    for address, holder in _used(layout):
        if address in pods.network and not pods.usable(address):
            yield Reason(
                f"address {address} of {holder} is one that no pod may have: it is excluded, or an end of {pods}",
                "leave it out of --exclude, or delete that pod",
            )


def _against_blocks(layout: Layout, situation: Situation) -> Iterator[Reason]:
    pods, node = situation.pods, situation.node
    used: dict[IPNetwork, list[str]] = {}
    for address, holder in _used(layout):
        if address in pods.network:
            used.setdefault(pods.block_at(address), []).append(f"{address} ({holder})")
    others: dict[IPNetwork, list[str]] = {}
    for foreign, holder in situation.foreign.items():
        if foreign in pods.network:
            others.setdefault(pods.block_at(foreign), []).append(f"{foreign} ({holder})")
    for block, here in used.items():
        owner = situation.owners.get(block, node)
        if owner != node:
            yield Reason(
                f"block {block} belongs to node {owner}, and this node uses {_listed(here)} of it",
                "delete those pods here, or drain this node and remove its bridge",
            )
        if block in others:
            yield Reason(
                f"block {block} has addresses of two nodes: "
                f"{_listed(here)} here, {_listed(others[block])} elsewhere",
                "delete the pods of one of the two nodes in it; where no node was taken over yet, smaller blocks "
                "may part them: WEFT_BLOCK_SIZE=29",
            )


def _against_encryption(layout: Layout) -> Iterator[Reason]:
    if any(encrypts(item.table) for item in layout.tables):
        yield Reason(
            "Weave Net encrypts the traffic between nodes here (chains WEAVE-IPSEC-…), and Weft would not",
            "take WEAVE_PASSWORD out of Weave's DaemonSet and let its pods restart, if plain traffic will do",
        )


def _listed(things: list[str]) -> str:
    shown = ", ".join(things[:5])
    return f"{shown} and {len(things) - 5} more" if len(things) > 5 else shown
