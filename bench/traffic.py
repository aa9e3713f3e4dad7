"""Throughput and latency through Weft, through the same topology set up by hand, and on the bare underlay.

The three take turns, so that a noisy machine is noisy for all of them.
"""

import json
import os
import re
import signal
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.lab import BenchLab, netns, run
from weft.lab.network import processes_in

TURNS = 8
SECONDS = 2
PINGS = 300


MASQUERADE = """table ip twin {
    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr 10.77.0.0/16 ip daddr != 10.77.0.0/16 oifname != "weave" masquerade
    }
}
"""


@dataclass(frozen=True)
class Path:
    """From one namespace to an address in another."""

    name: str
    source: str
    target: str
    address: str


class Twin:
    """Two nodes and three pods made with ``ip`` alone: bridge, proxy ARP, routed VXLAN, as mode weave has them."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.names = [f"{prefix}-{name}" for name in ("wire", "a", "b", "a1", "a2", "b1")]

    def __enter__(self) -> "Twin":
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _make(self) -> None:
        for name in self.names:
            run("ip", "netns", "add", name)
        wire = self.prefix + "-wire"
        self._ip("wire", "link add br0 type bridge", "link set br0 up")
        for node, number in (("a", 1), ("b", 2)):
            run(
                "ip",
                "-n",
                wire,
                *f"link add dev {node} type veth peer name eth0 netns {self.prefix}-{node}".split(),
            )
            self._ip("wire", f"link set dev {node} master br0 up")
            other = 3 - number
            self._ip(
                node,
                "link set lo up",
                f"address add 172.29.9.{number}/24 dev eth0",
                "link set eth0 up",
                f"link add weave address 02:00:00:00:01:0{number} mtu 1450 type bridge",
                "link set weave up",
                f"address add 10.77.{number}.0/16 dev weave",
                f"link add vxlan-1 address 02:00:00:00:02:0{number} mtu 1450 type vxlan id 1 dstport 6784 "
                f"local 172.29.9.{number} dev eth0 nolearning",
                "link set vxlan-1 up",
                f"route add 10.77.{other}.0/24 via 10.77.{other}.0 dev vxlan-1 onlink src 10.77.{number}.0",
                f"neighbour add 10.77.{other}.0 lladdr 02:00:00:00:02:0{other} dev vxlan-1 nud permanent",
            )
            inside = (*netns(f"{self.prefix}-{node}"),)
            run(*inside, *f"bridge fdb add 02:00:00:00:02:0{other} dev vxlan-1 dst 172.29.9.{other}".split())
            # What leaves the range is masqueraded in a node of Weft: connection tracking is part of the topology.
            run(*inside, "nft", "-f", "-", stdin=MASQUERADE)
            for key in ("ip_forward=1", "conf.weave.proxy_arp=1", "neigh.weave.proxy_delay=0"):
                run(*inside, "sysctl", "-qw", f"net.ipv4.{key}")
        for pod, node, address in (("a1", "a", "10.77.1.1"), ("a2", "a", "10.77.1.2"), ("b1", "b", "10.77.2.1")):
            self._ip(
                node,
                f"link add dev {pod} mtu 1450 numtxqueues 1 numrxqueues 1 type veth "
                f"peer name eth0 mtu 1450 numtxqueues 1 numrxqueues 1 netns {self.prefix}-{pod}",
                f"link set dev {pod} master weave up",
            )
            self._ip(
                pod,
                "link set lo up",
                "link set eth0 up",
                f"address add {address}/16 dev eth0",
                f"route add default via 10.77.{2 if node == 'b' else 1}.0",
            )

    def __exit__(self, *error: object) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "delete", name], check=False)

    def paths(self) -> dict[str, Path]:
        return {
            "other node": Path("twin", f"{self.prefix}-a1", f"{self.prefix}-b1", "10.77.2.1"),
            "same node": Path("twin", f"{self.prefix}-a1", f"{self.prefix}-a2", "10.77.1.2"),
        }

    def _ip(self, name: str, *commands: str) -> None:
        run("ip", "-n", f"{self.prefix}-{name}", "-batch", "-", stdin="\n".join(commands) + "\n")


def weft_paths(lab: BenchLab) -> dict[str, Path]:
    pods = lab.pods()
    one, two = [pod for pod in pods if pod["node"] == "controlplane"][:2]
    far = next(pod for pod in pods if pod["node"] != "controlplane")
    # The lab's own processes listen to every echo request; what is measured is the network alone.
    for pid in processes_in([pod["namespace"] for pod in pods]):
        os.kill(pid, signal.SIGKILL)
    namespace = {pod["name"]: pod["namespace"] for pod in (one, two, far)}
    return {
        "other node": Path("weft", namespace[one["name"]], namespace[far["name"]], far["ip"]),
        "same node": Path("weft", namespace[one["name"]], namespace[two["name"]], two["ip"]),
    }


def bare_path(lab: BenchLab) -> Path:
    target = lab.namespace("node01")
    shown = run(*netns(target), "ip", "-json", "-4", "address", "show", "dev", "eth0")
    address = json.loads(shown)[0]["addr_info"][0]["local"]
    return Path("underlay", lab.namespace("controlplane"), target, address)


def throughput(path: Path) -> float:
    """TCP, one stream, Gbit/s as received."""
    server = subprocess.Popen(netns(path.target, "iperf3", "--server", "--one-off"), stdout=subprocess.DEVNULL)
    try:
        time.sleep(0.3)
        client = netns(path.source, "iperf3", "--json", "--time", str(SECONDS), "--client", path.address)
        return float(json.loads(run(*client))["end"]["sum_received"]["bits_per_second"]) / 1e9
    finally:
        server.terminate()
        server.wait()


def latency(path: Path) -> float:
    """Mean round trip of small pings, microseconds."""
    said = run(*netns(path.source, "ping", "-q", "-c", str(PINGS), "-i", "0.002", path.address))
    found = re.search(r"= [\d.]+/([\d.]+)/", said)
    if found is None:
        raise RuntimeError(said)
    return float(found[1]) * 1000


def measure(lab: BenchLab, rounds: int) -> list[dict[str, Any]]:
    """Rows: throughput and latency to another node and on the same node, as medians of several turns."""
    with Twin(lab.namespace("twin")) as twin:
        ours, theirs, bare = weft_paths(lab), twin.paths(), bare_path(lab)
        rows = []
        for where, paths in {
            "other node": [ours["other node"], theirs["other node"], bare],
            "same node": [ours["same node"], theirs["same node"]],
        }.items():
            for what, unit, take in (("TCP", "Gbit/s", throughput), ("round trip", "µs", latency)):
                values = _turns(paths, take)
                for peer in paths[1:]:
                    rows.append(
                        {
                            "what": f"{what}, {where}",
                            "unit": unit,
                            "weft": values["weft"],
                            "peer": values[peer.name],
                            "peer is": "set up by hand" if peer.name == "twin" else "bare underlay",
                            "aim": "≥ 0.98" if (peer.name, what) == ("twin", "TCP") else "",
                        }
                    )
    return rows


def _turns(paths: Sequence[Path], take: Any) -> dict[str, float]:
    values: dict[str, list[float]] = {path.name: [] for path in paths}
    for turn in range(TURNS):
        # Nobody is always first: the machine is slower after a pause.
        for path in paths if turn % 2 else list(reversed(paths)):
            values[path.name].append(take(path))
    return {name: statistics.median(taken) for name, taken in values.items()}
