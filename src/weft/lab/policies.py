"""The lab's pods, namespaces and policies, where every node's policy controller takes them from.

That is a folder of manifests, or the lab's API server where it has one.
"""

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec

from weft.lab.cluster import objects
from weft.lab.cluster.manifests import pod_manifest as pod_object
from weft.lab.state import LabState, PodState
from weft.lab.topology import LabError
from weft.npc.client import Refused, ask
from weft.npc.cluster import reached
from weft.npc.folder import REVISION, documents
from weft.policy.parsing import ParseError, parse_namespace, parse_policy

Manifest = dict[str, Any]
#: The state that a change leads to: the folder's own name for it, or what was written to the API server.
Revision = str | Mapping[str, int]

#: Seconds for every node to enforce what was published.
TIMEOUT = 15.0
#: Collections of the API that policy controllers follow.
_WATCHED = ("pods", "namespaces", "networkpolicies")
_OBJECTS = "pods-and-namespaces.json"
_PREFIX = "networkpolicy."


def publish(lab: LabState) -> Revision:
    """Tell the nodes of the lab's pods and namespaces; the revision that says so."""
    if lab.has_api:
        return objects.publish(lab)
    _write(lab.policies / _OBJECTS, [*map(pod_manifest, lab.pods), *namespace_manifests(lab)])
    return _new_revision(lab)


def apply(lab: LabState, manifests: Sequence[Manifest]) -> list[str]:
    """Put policies and namespaces in force on every node; what became of each, in kubectl's words.

    Raises LabError for the first that the API would refuse; nothing changes then.
    """
    lines: list[str] = []
    for manifest in manifests:
        if not lab.has_api or manifest.get("kind") in ("NetworkPolicy", "Namespace"):
            check(manifest)
    if lab.has_api:
        lines, versions = objects.apply(lab, manifests)
        objects.await_daemonsets(lab, manifests)
        await_revision(lab, versions)
        return lines
    for manifest in manifests:
        metadata = manifest["metadata"]
        if manifest["kind"] == "Namespace":
            known = metadata["name"] in lab.namespaces
            lab.namespaces[metadata["name"]] = dict(metadata.get("labels") or {})
            lines.append(f"namespace/{metadata['name']} {'configured' if known else 'created'}")
            continue
        path = policy_path(lab, manifest)
        known = path.exists()
        _write(path, manifest)
        lines.append(f"networkpolicy/{metadata['name']} {'configured' if known else 'created'}")
    lab.write()
    await_revision(lab, publish(lab))
    return lines


def delete(lab: LabState, manifests: Sequence[Manifest]) -> list[str]:
    """Take policies and namespaces' labels back. Raises LabError for the first that is not there."""
    if lab.has_api:
        lines, versions = objects.delete(lab, manifests)
        await_revision(lab, versions)
        return lines
    for manifest in manifests:
        check(manifest)
        name = manifest["metadata"]["name"]
        there = name in lab.namespaces if manifest["kind"] == "Namespace" else policy_path(lab, manifest).exists()
        if not there:
            raise LabError(f"{manifest['kind'].lower()} {name!r} is not there")
    lines = []
    for manifest in manifests:
        name = manifest["metadata"]["name"]
        if manifest["kind"] == "Namespace":
            del lab.namespaces[name]
        else:
            policy_path(lab, manifest).unlink()
        lines.append(f"{manifest['kind'].lower()}/{name} deleted")
    lab.write()
    await_revision(lab, publish(lab))
    return lines


def applied(lab: LabState) -> list[Manifest]:
    """The policies of the lab."""
    if lab.has_api:
        return objects.listed(lab, "NetworkPolicy")
    return [msgspec.json.decode(path.read_bytes()) for path in sorted(lab.policies.glob(f"{_PREFIX}*.json"))]


def pods(lab: LabState) -> list[Manifest]:
    """The lab's pods as the nodes are told of them."""
    if lab.has_api:
        return objects.listed(lab, "Pod")
    return [pod_manifest(pod) for pod in lab.pods]


def labels(lab: LabState) -> dict[str, dict[str, str]]:
    """The pods' labels by their UIDs, where others than the lab may set them."""
    if not lab.has_api:
        return {}
    return {item["metadata"]["uid"]: item["metadata"].get("labels") or {} for item in pods(lab)}


def label(lab: LabState, kind: str, name: str, changes: Mapping[str, str | None]) -> None:
    """Set labels of a pod or namespace, None takes one away; return when every node knows. Raises LabError."""
    pod = lab.pod(name) if kind == "pod" else None
    labels = pod.labels if pod else lab.namespaces.setdefault(name, {})
    for key, value in changes.items():
        if value is None:
            labels.pop(key, None)
        else:
            labels[key] = value
    lab.write()
    if lab.has_api:
        await_revision(lab, objects.set_labels(lab, kind, pod.namespace if pod else "", name, changes))
    else:
        await_revision(lab, publish(lab))


def read_manifests(path: Path) -> list[Manifest]:
    """The objects of a file. Raises LabError."""
    try:
        found = documents(path.read_bytes())
    except (OSError, ValueError) as error:
        raise LabError(f"-f {path}: {error}") from None
    if not found:
        raise LabError(f"-f {path}: holds no object")
    return found


def check(manifest: Manifest) -> None:
    """Raise LabError for an object that the API would refuse, or that a lab does not know."""
    kind = manifest.get("kind") if isinstance(manifest, dict) else None
    try:
        if kind == "Namespace":
            parse_namespace(manifest)
        elif kind == "NetworkPolicy":
            policy = parse_policy(manifest)
            if policy.problems:
                raise ParseError(f"NetworkPolicy {policy.name!r} is invalid: {'; '.join(policy.problems)}")
        else:
            raise ParseError(f"kind {kind!r}: a lab takes NetworkPolicy and Namespace")
    except ParseError as error:
        raise LabError(str(error)) from None


def await_revision(lab: LabState, revision: Revision) -> None:
    """Return when every node that is up enforces the revision. Raises LabError."""
    if not isinstance(revision, str):
        revision = {name: version for name, version in revision.items() if name in _WATCHED}
    deadline = time.monotonic() + TIMEOUT
    for node in lab.nodes:
        while node.process is not None and node.process.alive:
            try:
                present = ask(lab.policy_socket(node.name), "status")["revision"]
                if present == revision if isinstance(revision, str) else reached(present, revision):
                    break
            except (OSError, Refused):
                pass  # its agent starts
            if time.monotonic() > deadline:
                raise LabError(f"node {node.name} does not enforce the change: see 'weft lab logs {node.name}'")
            time.sleep(0.005)


def pod_manifest(pod: PodState) -> Manifest:
    """A lab's pod as Kubernetes has one."""
    listed = [{"ip": address} for address in pod.addresses.values()]
    item = pod_object(pod)
    item["metadata"]["uid"] = pod.uid
    item["status"] = {"phase": "Running", **({"podIP": pod.ip, "podIPs": listed} if pod.ip else {})}
    return item


def namespace_manifests(lab: LabState) -> Iterable[Manifest]:
    """The lab's namespaces: those of its pods, and those that were given labels."""
    if lab.has_api:
        yield from objects.listed(lab, "Namespace")
        return
    for name in sorted({pod.namespace for pod in lab.pods} | set(lab.namespaces)):
        yield {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": lab.namespaces.get(name, {})},
        }


def policy_path(lab: LabState, manifest: Manifest) -> Path:
    """Where a policy is kept. Names are checked by ``check``."""
    metadata = manifest["metadata"]
    return lab.policies / f"{_PREFIX}{metadata.get('namespace') or 'default'}.{metadata['name']}.json"


def _new_revision(lab: LabState) -> str:
    revision = uuid4().hex
    _replace(lab.policies / REVISION, revision.encode())
    return revision


def _write(path: Path, content: object) -> None:
    _replace(path, msgspec.json.encode(content))


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.rename(path)
