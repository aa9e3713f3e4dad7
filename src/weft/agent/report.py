"""What an agent tells of itself: Weave's words and columns as text, all of it as JSON."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import msgspec

import weft
from weft.agent.addresses import Count
from weft.fabric.plan import IPInterface, IPNetwork, Peer
from weft.fabric.weave import PORT
from weft.troubles import Trouble

#: States of a peer, in Weave's words: the kernel knows the way to it; it has no block yet, or its way is about to
#: be made; there is no sign of life of it, and what is in force stays in force.
ESTABLISHED, PENDING, FAILED = "established", "pending", "failed"


class NotServing(Exception):
    """There is no agent yet to tell of this node, or none any more; ``troubles`` say why."""

    def __init__(self, troubles: Sequence[Trouble]) -> None:
        super().__init__("; ".join(map(str, troubles)) or "the agent starts or ends")
        self.troubles = tuple(troubles)

    def to_json(self) -> bytes:
        """What there is to report, as JSON."""
        return _json({"ready": False, "version": weft.__version__, "troubles": self.troubles})


@dataclass(frozen=True, slots=True)
class PeerReport:
    """Another node, and what is with it."""

    peer: Peer
    state: str


@dataclass(frozen=True, slots=True)
class Report:
    """What the API tells.

    ``ranges`` are this node's own counts; ``owners`` says whose every block is; ``unreachable`` are owners that
    were removed, or that give no sign of life; ``problems`` tells of entries in the store that cannot be read;
    ``collected`` counts attachments that were freed without a DEL, by reason (``weft.agent.collection``);
    ``gateways`` are all addresses of the bridge, ``gateway`` and ``gateway6`` those that peers know; ``serving``
    is whether the launcher is answered.
    """

    serving: bool
    name: str
    address: str
    gateway: str
    mtu: int
    ranges: Sequence[Count]
    attachments: int
    owners: Mapping[IPNetwork, str] = field(default_factory=dict)
    peers: Sequence[PeerReport] = ()
    unreachable: frozenset[str] = frozenset()
    problems: Mapping[str, str] = field(default_factory=dict)
    gateway6: str = ""
    collected: Mapping[str, int] = field(default_factory=dict)
    gateways: Sequence[IPInterface] = ()
    troubles: Sequence[Trouble] = ()

    @property
    def ready(self) -> bool:
        """Whether this node is as it should be, or at least nobody has to see to it."""
        return self.serving and not any(trouble.unready for trouble in self.troubles)

    def to_json(self) -> bytes:
        """The report as JSON."""
        first = self.ranges[0]
        node = {"name": self.name, "address": self.address, "gateway": self.gateway, "mtu": self.mtu}
        further = {"gateways": self.gateways} if len(self.gateways) > 1 + bool(self.gateway6) else {}
        body = {
            "ready": self.ready,
            "version": weft.__version__,
            "node": node | ({"gateway6": self.gateway6} if self.gateway6 else {}) | further,
            "ipam": {
                "status": ipam_status(self),
                "range": first.pods.network,
                "blocks": first.blocks,
                "inUse": first.in_use,
                "free": first.free,
                "attachments": self.attachments,
                "collected": self.collected,
                "unreachable": sorted(self.unreachable),
                "ranges": [self._range(count) for count in self.ranges],
            },
            "peers": [
                {part.name: getattr(item.peer, part.name) for part in fields(item.peer)} | {"state": item.state}
                for item in self.peers
            ],
            "problems": self.problems,
            "troubles": self.troubles,
        }
        return _json(body)

    def shares(self, count: Count) -> dict[str, list[IPNetwork]]:
        """Whose the blocks of a range are: this node's first, then by name."""
        blocks: dict[str, list[IPNetwork]] = {self.name: list(count.blocks)}
        for block, owner in self.owners.items():
            if owner != self.name and count.pods.holds(block):
                blocks.setdefault(owner, []).append(block)
        others = sorted(owner for owner in blocks if owner != self.name)
        return {owner: blocks[owner] for owner in (self.name, *others)}

    def _range(self, count: Count) -> dict[str, Any]:
        shares = self.shares(count)
        owned = sum(map(len, shares.values())) * count.pods.block_size
        return {
            "range": count.pods.network,
            "blockSize": count.pods.block_prefix,
            "excluded": count.pods.excluded,
            "blocks": count.blocks,
            "inUse": count.in_use,
            "free": count.free,
            "spareBlocks": count.spare,
            "unowned": count.pods.network.num_addresses - owned,
            "owners": [
                {
                    "name": owner,
                    "ips": len(blocks) * count.pods.block_size,
                    "blocks": sorted(blocks, key=lambda block: int(block.network_address)),
                    "unreachable": owner in self.unreachable,
                }
                for owner, blocks in shares.items()
            ],
        }


def ipam_status(report: Report) -> str:
    """Where IPAM stands, as ``weave status`` said it: by family, since any of its ranges will do."""
    versions = {count.pods.version for count in report.ranges if not count.pods.closed}
    families = [
        [count for count in report.ranges if count.pods.version == version] for version in sorted(versions)
    ]
    full = [family for family in families if not any(count.free for count in family)]
    if not report.serving:
        return "idle"
    if full and report.unreachable and any(all(_is_owned(report, count) for count in family) for family in full):
        return "all IP ranges owned by unreachable peers - use 'rmpeer' if they are dead"
    return "waiting for IP(s) to become available" if full else "ready"


def summary(report: Report) -> str:
    """The text of /status: labels right-aligned as ``weave status`` had them."""
    ranges = " ".join(str(count.pods) for count in report.ranges)
    groups = [
        [("Version", weft.__version__)],
        [
            ("Service", "router"),
            ("Protocol", "vxlan"),
            ("Name", f"{report.name}({report.address})"),
            ("Encryption", "disabled"),
            ("PeerDiscovery", "enabled"),
            ("Peers", f"{len(report.peers) + 1}"),
            ("MTU", f"{report.mtu}"),
        ],
        [
            ("Service", "ipam"),
            ("Status", ipam_status(report)),
            ("Range", ranges),
            ("DefaultSubnet", ranges),
            ("Gateway", _gateways(report)),
            ("Blocks", _joined([block for count in report.ranges for block in count.blocks])),
            ("Addresses", "; ".join(f"{count.in_use} in use, {count.free} free" for count in report.ranges)),
            *([("Collected", _counted(report.collected))] if any(report.collected.values()) else []),
            *([("Unreachable", " ".join(sorted(report.unreachable)))] if report.unreachable else []),
            *(("Problem", report.problems[key]) for key in sorted(report.problems)),
        ],
        [("Trouble", f"{trouble}") for trouble in report.troubles],
    ]
    shown = ("".join(f"{label:>15}: {value}\n" for label, value in group) for group in groups if group)
    return "".join(f"\n{group}" for group in shown)


def ipam(report: Report) -> str:
    """The text of /status/ipam, in the columns of ``weave status ipam``: this node first; then what is free."""
    return "\n".join(_ipam_of(report, count, titled=len(report.ranges) > 1) for count in report.ranges)


def peers(report: Report) -> str:
    """The text of /status/peers, in the form of ``weave status peers``: this node, and its ways to the others."""
    lines = [f"{report.name}({report.address})"]
    lines += [
        f"   -> {f'{item.peer.address}:{PORT}':<21} {f'{item.peer.name}({item.peer.gateway})':<37} {item.state}"
        for item in report.peers
    ]
    return "".join(f"{line}\n" for line in lines)


def connections(report: Report) -> str:
    """The text of /status/connections, in the columns of ``weave status connections``."""
    lines = [
        f"-> {f'{item.peer.address}:{PORT}':<21} {item.state:<11} "
        f"unencrypted vxlan {item.peer.name} mtu={report.mtu}"
        for item in report.peers
    ]
    return "".join(f"{line}\n" for line in lines)


def _ipam_of(report: Report, count: Count, *, titled: bool) -> str:
    total, size = count.pods.network.num_addresses, count.pods.block_size
    lines = [f"{count.pods}"] if titled else []
    if count.pods.excluded:
        lines.append(f"excluded: {'all of it' if count.pods.closed else _joined(count.pods.excluded)}")
    owned = 0
    for owner, blocks in report.shares(count).items():
        remark = f"({count.in_use} active)" if owner == report.name else ""
        if owner in report.unreachable:
            remark = "- unreachable!"
        owned += len(blocks) * size
        lines.append(_share(owner, len(blocks) * size, total, remark))
    spare = f"{count.spare} spare block" + ("" if count.spare == 1 else "s")
    lines.append(f"{report.name} has {count.free} free and {spare}: {_joined(count.blocks)}")
    lines.append(_share("nobody", total - owned, total, ""))
    return "".join(f"{line}\n" for line in lines)


def _json(body: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(body, enc_hook=str) + b"\n"


def _is_owned(report: Report, count: Count) -> bool:
    """Whether no block of a range is left."""
    if count.pods.closed:
        return True
    return sum(map(len, report.shares(count).values())) >= count.pods.block_count


def _counted(collected: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in collected.items() if count)


def _gateways(report: Report) -> str:
    mains = [address for address in (report.gateway, report.gateway6) if address]
    further = [str(own.ip) for own in report.gateways if str(own.ip) not in mains]
    return " ".join([*mains, *further])


def _joined(blocks: Sequence[IPNetwork]) -> str:
    return " ".join(map(str, blocks)) or "none"


def _share(name: str, count: int, total: int, remark: str) -> str:
    return f"{name:<37} {count:>8} IPs ({100 * count / total:04.1f}% of total) {remark}".rstrip()


#: What each page shows as text.
PAGES: dict[str, Callable[[Report], str]] = {
    "/status": summary,
    "/status/ipam": ipam,
    "/status/peers": peers,
    "/status/connections": connections,
}
