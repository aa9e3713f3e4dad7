"""What requests cost an attach, through the launcher: ``python -m tests.agent.requests.measure TIMES NAMESPACES``.

One node reads no annotations, the other does; both have the same API server, with that many namespaces, as store.
Medians in milliseconds of ADDs in turn, and the resident memory of both agents in MiB.
"""

import json
import statistics
import sys
import tempfile
import time
from itertools import count
from pathlib import Path

from tests.agent.requests.test_pods import PLAIN, call, make_pod
from tests.agent.test_in_a_cluster import ADDRESS, Cluster, apply_manifest, kind, new_node, serve
from tests.nodes import Node, cluster, pod
from tests.store.engines import kubeconfig
from weft.agent.requests.annotations import ADDRESSES, POOLS
from weft.lab.api.storage import Storage

#: Seconds between two attaches, so that none waits for the last one's interface to be deleted.
PAUSE = 0.12


def main(times: int, namespaces: int) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder, storage = Path(name), Storage()
        apply_manifest(storage)
        for number in range(namespaces):
            storage.create(kind("Namespace"), "", {"metadata": {"name": f"team-{number}"}})
        access = folder / "kubeconfig"
        access.write_text(kubeconfig(f"http://{ADDRESS[0]}:{ADDRESS[1]}", token="kube-system/weave-net"))  # noqa: S106
        new_node(storage, "without")
        new_node(storage, "with")
        options = ("--range", "10.244.0.0/16", "--store", f"kubernetes://{access}")
        with cluster(folder, ("without", "with"), *options) as (without, reading):
            server = serve(without.wire, storage)
            try:
                without.options = (*without.options, "--request-api", "off")
                without.start()
                reading.start()
                make_pod(Cluster([], storage, server), "passing", PLAIN)
                time.sleep(3)
                _compare(without, reading, times)
            finally:
                server.stop()


def _compare(without: Node, reading: Node, times: int) -> None:
    numbers = count()
    cases = {
        "no annotations read": (without, lambda: PLAIN),
        "told, none asks": (reading, lambda: PLAIN),
        "told, ipAddrs": (reading, lambda: {ADDRESSES: json.dumps([f"10.244.192.{20 + next(numbers) % 40}"])}),
        "told, ipv4pools": (reading, lambda: {POOLS[4]: '["10.244.192.0/26"]'}),
        "not told, the API asked": (reading, lambda: None),
    }
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(times):
        for name, (node, annotations) in cases.items():
            with pod() as sandbox:
                asked = annotations()  # type: ignore[no-untyped-call]
                time.sleep(PAUSE)
                begun = time.perf_counter()
                status, answer = call(node, "passing", sandbox, asked)
                taken[name].append((time.perf_counter() - begun) * 1000)
                assert status == 0, answer
                node.delete("passing")
    for name, found in taken.items():
        print(f"{name:25} {statistics.median(found):6.2f} ms")
    for node in (without, reading):
        print(f"{node.name:25} {_resident(node):6.1f} MiB")


def _resident(node: Node) -> float:
    assert node.agent is not None
    lines = Path(f"/proc/{node.agent.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
