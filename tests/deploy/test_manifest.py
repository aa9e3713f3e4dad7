"""The manifest as a user applies it: kubectl's words, and rights that are enough and no more."""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.certificates import certificate, tls_context
from tests.store.engines import kubeconfig
from weft import privileges
from weft.lab.api import ApiServer
from weft.lab.api.kinds import find
from weft.lab.api.rbac import ADMIN_TOKEN, RoleBasedAccess
from weft.lab.api.storage import Storage
from weft.store import StoreUnavailable, open_store

MANIFEST = Path(__file__).parents[2] / "deploy" / "weave-daemonset-k8s.yaml"
DOCS = Path(__file__).parents[2] / "docs" / "kubernetes.md"
SEED = """\
serviceaccount/weave-net created
clusterrole.rbac.authorization.k8s.io/weave-net created
clusterrolebinding.rbac.authorization.k8s.io/weave-net created
role.rbac.authorization.k8s.io/weave-net created
rolebinding.rbac.authorization.k8s.io/weave-net created
daemonset.apps/weave-net created
"""
#: What the lab's API server takes for the service account's token.
AGENT_TOKEN = "kube-system/weave-net"  # noqa: S105  # a name
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl here")


class Cluster:
    def __init__(self, folder: Path) -> None:
        storage = Storage()
        # kubectl sends its token over TLS only.
        self._authority = certificate(folder)
        self.server = ApiServer(
            storage=storage, authorize=RoleBasedAccess(storage), tls=tls_context(self._authority)
        )
        self.server.start()
        self._folder = folder
        nodes = find("", "v1", "nodes")
        assert nodes is not None
        storage.create(nodes, "", {"metadata": {"name": "node01"}})

    def kubeconfig(self, token: str) -> Path:
        path = self._folder / f"kubeconfig-{token.replace('/', '-')}"
        path.write_text(kubeconfig(self.server.url, token=token, authority=str(self._authority)))
        return path

    def kubectl(self, *words: str, token: str = ADMIN_TOKEN) -> str:
        command = [
            "kubectl",
            f"--kubeconfig={self.kubeconfig(token)}",
            f"--cache-dir={self._folder}/cache",
            *words,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout + done.stderr


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    made.server.stop()


@needs_kubectl
def test_apply_answers_as_the_seed_shows(cluster: Cluster) -> None:
    assert cluster.kubectl("apply", "-f", str(MANIFEST)) == SEED
    assert cluster.kubectl("apply", "-f", str(MANIFEST)) == SEED.replace("created", "unchanged")
    assert cluster.kubectl("apply", "-f", str(MANIFEST), "--dry-run=server") == SEED.replace(
        "created", "unchanged (server dry run)"
    )


@needs_kubectl
def test_the_kustomization_is_the_manifest(cluster: Cluster) -> None:
    assert sorted(cluster.kubectl("apply", "-k", str(MANIFEST.parent)).splitlines()) == sorted(SEED.splitlines())


@needs_kubectl
def test_the_rights_are_enough_for_the_store_and_needed(cluster: Cluster) -> None:
    store = open_store(f"kubernetes://{cluster.kubeconfig(AGENT_TOKEN)}")
    for work in (lambda: store.entries(""), lambda: store.create("blocks/10.32.0.0-24", b"{}")):
        with pytest.raises(StoreUnavailable, match="weave-net.*cannot (list|create).*ClusterRole and Role"):
            work()
    cluster.kubectl("apply", "-f", str(MANIFEST))
    claim = store.create("blocks/10.32.0.0-24", b'{"owner":"node01"}')
    node = store.create("nodes/node01", b"{}")
    node = store.replace("nodes/node01", b"[]", node.revision)
    claim = store.replace(claim.key, b'{"owner":"node02"}', claim.revision)
    listing = store.entries("")
    assert {entry.key for entry in listing.entries} == {claim.key, node.key}
    store.delete(claim.key, claim.revision)
    for event in store.watch("", listing.revision, lambda: False):
        assert (event.key, event.entry) == (claim.key, None)
        break
    store.close()


@needs_kubectl
def test_the_rights_are_no_more_than_that(cluster: Cluster) -> None:
    cluster.kubectl("apply", "-f", str(MANIFEST))
    for words in (
        ("get", "secrets", "-n", "kube-system"),
        ("delete", "node", "node01"),
        ("label", "node", "node01", "a=b"),
        ("get", "leases", "-n", "default"),
        ("delete", "daemonset", "weave-net", "-n", "kube-system"),
        ("create", "configmap", "x", "-n", "kube-system", "--from-literal=a=b"),
    ):
        assert "forbidden" in cluster.kubectl(*words, token=AGENT_TOKEN).lower(), words


def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(MANIFEST.read_text()))


def test_the_pods_shape() -> None:
    """Weave Net's names, none of its privileges."""
    daemonset = documents()[-1]
    pod = daemonset["spec"]["template"]["spec"]
    assert {item["metadata"]["name"] for item in documents()} == {"weave-net"}
    assert [one["name"] for one in pod["containers"]] == ["weave", "weave-npc"]
    assert [one["name"] for one in pod["initContainers"]] == ["weave-init"]
    assert pod["hostNetwork"]
    assert not pod.get("hostPID")
    for one in (*pod["containers"], *pod["initContainers"]):
        context = one["securityContext"]
        assert context["readOnlyRootFilesystem"]
        assert "privileged" not in context
        assert context["capabilities"]["drop"] == ["ALL"]
        assert one["image"] == pod["containers"][0]["image"]
    assert {one["effect"] for one in pod["tolerations"]} == {"NoSchedule", "NoExecute"}
    mounted = [mount for one in pod["containers"] for mount in one["volumeMounts"]]
    assert not [mount for mount in mounted if mount.get("mountPropagation")]
    assert {
        mount["name"] for one in (*pod["containers"], *pod["initContainers"]) for mount in one["volumeMounts"]
    } == {volume["name"] for volume in pod["volumes"]}


def test_a_server_that_adds_defaults_changes_no_reference() -> None:
    """Who applies on the server what kubectl applied here before meets a conflict where the server completed a
    reference, since that is owned whole (``fieldRef.apiVersion``)."""
    daemonset = next(item for item in yaml.safe_load_all(MANIFEST.read_text()) if item["kind"] == "DaemonSet")
    variables = [
        variable["valueFrom"]["fieldRef"]
        for container in daemonset["spec"]["template"]["spec"]["containers"]
        for variable in container["env"]
        if "valueFrom" in variable
    ]
    assert len(variables) == 3
    assert all(set(reference) == {"apiVersion", "fieldPath"} for reference in variables)


@pytest.mark.parametrize(
    ("container", "table"),
    [("weave-init", privileges.INSTALL), ("weave", privileges.AGENT), ("weave-npc", privileges.POLICY)],
)
def test_a_container_has_the_capabilities_that_its_program_asks_for_and_no_more(
    container: str, table: Sequence[privileges.Capability]
) -> None:
    (daemonset,) = [item for item in yaml.safe_load_all(MANIFEST.read_text()) if item["kind"] == "DaemonSet"]
    pod = daemonset["spec"]["template"]["spec"]
    found = {
        one["name"]: one["securityContext"]["capabilities"] for one in (*pod["initContainers"], *pod["containers"])
    }
    assert found[container] == {"drop": ["ALL"], "add": [each.name for each in table]}
    # What each is for is told where it is given, and in the docs.
    told = MANIFEST.read_text()
    row = next(line for line in DOCS.read_text().splitlines() if line.startswith(f"| `{container}` |"))
    for each in table:
        assert each.name in row
        if each.needed:
            assert f"- {each.name} # {each.why}" in told
