"""Addresses of pods on nodes that are still Weave's are asked of the API, with the manifest's rights."""

from pathlib import Path

from tests.agent.test_in_a_cluster import Cluster, kind, made, new_node
from tests.namespaces import inside
from weft.agent.takeover.foreign import open_foreign

__all__ = ["made"]


def test_pods_of_other_nodes_count_while_one_node_is_not_known(made: Cluster, tmp_path: Path) -> None:
    new_node(made.storage, "weaves")
    for node, address in (("weaves", "10.244.0.70"), ("controlplane", "10.244.0.9")):
        made.storage.create(
            kind("Pod"),
            "default",
            {
                "metadata": {"name": f"on-{node}", "namespace": "default"},
                "spec": {"nodeName": node, "containers": [{"name": "a", "image": "a"}]},
                "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
            },
        )
    foreign = open_foreign(f"kubernetes://{tmp_path / 'kubeconfig'}", "controlplane")
    found = inside(made.nodes[0].namespace, lambda: foreign.in_use(["controlplane", "node01"]))
    assert {str(address): who for address, who in found.items()} == {
        "10.244.0.70": "pod default/on-weaves on node weaves"
    }
    known = inside(made.nodes[0].namespace, lambda: foreign.in_use(["controlplane", "node01", "weaves"]))
    assert known == {}
    foreign.close()
