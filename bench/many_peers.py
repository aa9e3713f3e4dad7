"""One node's real kernel with thousands of peers: ``unshare --net -- python -m bench.many_peers PEERS BLOCKS``.

It refuses to work in a network namespace that has other devices than ``lo``.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import cast

from weft.agent.dataplane import Dataplane, find_underlay
from weft.agent.enrolment import Enrolment
from weft.agent.live_view import LiveView
from weft.agent.membership import Membership
from weft.agent.view import View
from weft.fabric import weave
from weft.fabric.plan import Node, derived_link_address
from weft.store import Entry, Event

RANGE = IPv4Network("10.32.0.0/12")
#: How often one peer comes and goes.
CHANGES = 20


def main(peers: int, blocks: int) -> None:
    """Measure and print JSON; seconds and MiB."""
    make_underlay()
    underlay = find_underlay(None)
    node = Node("this", underlay.address, IPv4Interface("10.32.0.1/12"), 1450)
    dataplane = Dataplane(weave.devices(node), [RANGE], underlay)
    dataplane.ensure_devices()
    entries = [entry for number in range(1, peers + 1) for entry in entries_of(number, blocks)]
    before = resident()
    with tempfile.TemporaryDirectory() as folder:
        live = LiveView(Path(folder) / "view.json")
        read, view = timed(lambda: View.of(entries, len(entries)))
        live.replace(view)
        membership = Membership(None, live, dataplane, node, cast(Enrolment, None))  # type: ignore[arg-type]
        first, _ = timed(membership.converge)
        again, _ = timed(membership.converge)
        known = resident()
        kept, _ = timed(lambda: live.keep(at_once=True))
        joins, leaves = [], []
        for _ in range(CHANGES):
            joins.append(change(membership, live, entries_of(peers + 1, blocks), present=True))
            leaves.append(change(membership, live, entries_of(peers + 1, blocks), present=False))
    routes = subprocess.run(
        ["ip", "route", "show", "dev", weave.TUNNEL], capture_output=True, text=True, check=True
    ).stdout.count("\n")
    assert routes == peers * blocks, f"{routes} routes"
    print(
        json.dumps(
            {
                "peers": peers,
                "routes": routes,
                "read the listing, s": read,
                "first full sync, s": first,
                "full look without a change, s": again,
                "write the kept view, s": kept,
                "one peer joins, ms": 1000 * statistics.median(joins),
                "one peer leaves, ms": 1000 * statistics.median(leaves),
                "agent's view and plan, MiB": known - before,
                "resident, MiB": known,
            }
        )
    )


def change(membership: Membership, live: LiveView, entries: list[Entry], *, present: bool) -> float:
    """Seconds from the events of one peer to the kernel's acknowledgement."""

    def work() -> None:
        about: set[str] = set()
        for entry in entries:
            about |= live.apply(Event(entry.key, entry if present else None, 1))
        membership.converge_peers(about)

    return timed(work)[0]


def entries_of(number: int, blocks: int) -> list[Entry]:
    """A node's record and claims, as the store has them."""
    name = f"node-{number:05}"
    first = int(RANGE.network_address) + number * 64 * blocks
    record = {
        "address": str(IPv4Address(0xAC190102 + number)),
        "linkAddress": derived_link_address("vtep", name),
        "gateway": str(IPv4Address(first)),
        "instance": f"{number:032x}",
    }
    claim = json.dumps({"owner": name}).encode()
    return [
        Entry(f"nodes/{name}", json.dumps(record).encode(), number),
        *(Entry(f"blocks/{IPv4Address(first + 64 * place)}-26", claim, number) for place in range(blocks)),
    ]


def make_underlay() -> None:
    """An eth0 with a default route to nowhere."""
    shown = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout.split("\n")
    devices = {line.split()[0].partition("@")[0] for line in shown if line} - {"lo"}
    if devices or os.geteuid() != 0:
        sys.exit(
            f"bench.many_peers: runs as root below 'unshare --net' only, not beside {', '.join(sorted(devices))}"
        )
    for command in (
        "link set lo up",
        "link add eth0 type veth peer name wire",
        "link set wire up",
        "link set eth0 up",
        "address add 172.25.1.2/16 dev eth0",
        "route add default via 172.25.1.1",
    ):
        subprocess.run(["ip", *command.split()], check=True)


def timed(work: Callable[[], View | None]) -> tuple[float, View]:
    """Seconds, and the answer."""
    begun = time.perf_counter()
    answer = work()
    return time.perf_counter() - begun, cast(View, answer)


def resident() -> float:
    """This process's memory in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) / 1024


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
