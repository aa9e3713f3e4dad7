"""The lab on which policies are tried."""

import re
from collections.abc import Iterator, Sequence
from ipaddress import ip_network
from typing import Any
from uuid import uuid4

import pytest
import yaml

from tests.lab.policy.cases import Step
from tests.policy.clusters import policy
from weft.lab import lifecycle, network, nodes, pods, policies, policy_check, state
from weft.lab.state import LabState
from weft.lab.topology import Settings, node_namespace, pod_namespace

PORTS = policy_check.PORTS


class Cluster:
    """Namespaces x, y and z with pods a, b and c each, on two nodes: every case finds neighbours and others."""

    def __init__(self, lab: LabState) -> None:
        self.lab = lab

    def namespace(self, name: str) -> str:
        """The network namespace of a node or of a pod."""
        if any(node.name == name for node in self.lab.nodes):
            return node_namespace(self.lab.settings.name, name)
        return pod_namespace(self.lab.settings.name, self.lab.pod(name).node, name)

    def on_node(self, number: int, *command: str) -> str:
        """What a command prints on a node."""
        return network.run(*nodes.enter(self.lab, self.lab.nodes[number].name), *command)

    def address(self, pod: str) -> str:
        return self.lab.pod(f"{pod[0]}-{pod[1]}").ip

    def put(self, step: Step, manifests: Sequence[dict[str, Any]] = ()) -> None:
        """Exactly the step's policies and labels, or policies as manifests."""
        for pod in self.lab.pods:
            name = pod.name.replace("-", "")
            pod.labels = {"pod": name[1], **step.labels.get(name, {})}
        self.lab.namespaces = {name: dict(step.labels.get(name, {})) for name in "xyz"}
        wanted = [*manifests, *(self.manifest(name, text) for name, text in step.policies.items())]
        # What stays is there at any moment: an agent may start just now.
        kept = {policies.policy_path(self.lab, manifest) for manifest in wanted}
        for path in self.lab.policies.glob("networkpolicy.*"):
            if path not in kept:
                path.unlink()
        policies.apply(self.lab, wanted)

    def manifest(self, name: str, text: str) -> dict[str, Any]:
        namespace, spec = text.split(" ", 1)
        filled = re.sub(r"\{([xyz][abc])/(\d+)\}", lambda found: self.block(found[1], found[2]), spec)
        return policy(namespace, name, **yaml.safe_load(filled))

    def block(self, pod: str, prefix: str) -> str:
        return str(ip_network(f"{self.address(pod)}/{prefix}", strict=False))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    name = f"weft-t{uuid4().hex[:6]}"
    try:
        lab, _ = lifecycle.up(Settings(name, 2, 0, "10.32.0.0/12,fd00:10:32::/56", "", "172.25.1.0/24", 1500))
        ports = {f"serve-{port}-{protocol}": f"{protocol}/{port}" for protocol, port in PORTS}
        # x/a has x/b on its own node and x/c on the other; of every namespace some are here and some there.
        nodes = [lab.nodes[place in (2, 3, 7)].name for place in range(9)]
        names = [(namespace, each) for namespace in "xyz" for each in "abc"]
        lab.pods = [
            pods.new_pod(f"{namespace}-{each}", node, {"pod": each}, namespace, ports)
            for (namespace, each), node in zip(names, nodes, strict=True)
        ]
        lab.write()
        pods.make(lab, lab.pods)
        yield Cluster(lab)
    finally:
        lifecycle.down(name)
        assert not state.ROOT.joinpath(name).exists()
