"""A large cluster's policies in one node's kernel: run in a network namespace of its own, prints JSON.

``python -m bench.policy_scale NODES``: 10,000 pods spread over so many nodes; this is one of them.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import policies as large
from weft.npc.table import Table
from weft.policy import rendering
from weft.policy.compiler import Compiler
from weft.policy.parsing import parse_namespace, parse_pod, parse_policy

ROUNDS = 15


def main(nodes: int) -> dict[str, float]:
    """Milliseconds, bytes and MiB by what was measured."""
    found: dict[str, float] = {}
    before = resident()
    pods = [parse_pod(pod) for pod in large.pods(nodes)]
    namespaces = [parse_namespace(namespace) for namespace in large.namespaces()]
    policies = [parse_policy(policy) for policy in large.policies()]
    compiler, table = Compiler("node-0"), Table()
    begun = time.perf_counter()
    for namespace in namespaces:
        compiler.put_namespace(namespace)
    for pod in pods:
        compiler.put_pod(pod)
    for policy in policies:
        compiler.put_policy(policy)
    model = compiler.model()
    found["compile"] = since(begun)
    begun = time.perf_counter()
    table.sync(model)
    found["load"] = since(begun)
    found["load bytes"] = table.bytes_sent
    found["policies here"] = len({name for name in model.chains if name.startswith(("in/", "out/"))})
    found["pods here"] = len({address for each in model.maps.values() for address in each.elements})
    numbers = iter(range(large.PODS, 2 * large.PODS))

    def add_pod() -> None:
        compiler.put_pod(parse_pod(large.pod(next(numbers), "node-0")))

    def change_label() -> None:
        pod = pods[next(numbers) * nodes % large.PODS]
        compiler.put_pod(replace(pod, labels={**pod.labels, "app": "api"}))

    def add_policy() -> None:
        # One that selects pods of this node: their namespace has pod 0.
        policy = large.policy(large.NAMESPACES * (1 + next(numbers) % 4))
        policy["metadata"]["name"] = f"new-{next(numbers)}"
        compiler.put_policy(parse_policy(policy))

    events: dict[str, Callable[[], None]] = {
        "pod added": add_pod,
        "label changed": change_label,
        "policy added": add_policy,
    }
    for name, event in events.items():
        times, sizes = [], []
        for _ in range(ROUNDS):
            size, begun = table.bytes_sent, time.perf_counter()
            event()
            table.sync(compiler.model())
            times.append(since(begun))
            sizes.append(table.bytes_sent - size)
        found[name] = statistics.median(times)
        found[f"{name}, slowest"] = max(times)
        found[f"{name} bytes"] = statistics.median(sizes)
    found["memory"] = resident()
    found["memory before"] = before
    return found


def since(begun: float) -> float:
    """Milliseconds."""
    return (time.perf_counter() - begun) * 1000


def resident() -> float:
    """MiB of this process."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def write_rulesets(count: int, folder: str, pairs: Any) -> None:
    """Two files: our rulesets for so many policies and two pods more, and an iptables layout of the same."""
    source, target = pairs
    compiler = Compiler("node-0")
    for number in range(count):
        compiler.put_pod(parse_pod(large.pod(number, "node-0")))
    lines = ["*filter", ":FORWARD ACCEPT", ":INPUT ACCEPT", ":OUTPUT ACCEPT"]
    rules = ["-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"]
    for number in range(count):
        compiler.put_policy(parse_policy(large.policy(number)))
    for name, address in (("source", source), ("target", target)):
        compiler.put_pod(
            parse_pod(
                {
                    "metadata": {"name": name, "namespace": "flow", "uid": name, "labels": {"end": name}},
                    "spec": {"nodeName": "node-0"},
                    "status": {"podIP": address},
                }
            )
        )
    if count:
        selector = {"podSelector": {"matchLabels": {"end": "source"}}}
        compiler.put_policy(
            parse_policy(
                {
                    "apiVersion": "networking.k8s.io/v1",
                    "kind": "NetworkPolicy",
                    "metadata": {"name": "flow", "namespace": "flow"},
                    "spec": {"podSelector": {"matchLabels": {"end": "target"}}, "ingress": [{"from": [selector]}]},
                }
            )
        )
        # A chain for each policy, and a rule for each of its pods that leads there: as kube-router does.
        for number in range(count):
            lines.append(f":POLICY-{number} -")
            pod = large.pod(number, "")["status"]["podIP"]
            rules.append(f"-A FORWARD -d {pod}/32 -j POLICY-{number}")
            rules.append(f"-A POLICY-{number} -s {pod}/24 -p tcp -m tcp --dport 8080 -j RETURN")
            rules.append(f"-A POLICY-{number} -j DROP")
        rules.append(f"-A FORWARD -s {source}/32 -d {target}/32 -j ACCEPT")
        rules.append(f"-A FORWARD -d {target}/32 -j DROP")
    Path(folder, "ours").write_text(json.dumps(rendering.whole(compiler.model())))
    Path(folder, "iptables").write_text("\n".join([*lines, *rules, "COMMIT", ""]))


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]))))
