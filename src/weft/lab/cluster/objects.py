"""Keeps the API server's objects as the lab is, and puts others there that a user applies."""

import queue
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from weft.kubernetes import ApiError, Change, Client, Ended, Stream, Unreachable
from weft.lab import runtimes
from weft.lab.api.kinds import KINDS, Kind
from weft.lab.cluster.manifests import (
    CONTAINER_ID,
    Manifest,
    is_labs,
    node_manifest,
    now,
    pod_manifest,
    pod_status,
)
from weft.lab.state import LabState, NodeState, PodState
from weft.lab.topology import LabError

#: Seconds for the server to be there.
START_TIMEOUT = 20.0
#: Seconds for what is deleted to be gone.
GONE_TIMEOUT = 90.0
#: Seconds for a DaemonSet's pods to be ready.
PODS_TIMEOUT = 90.0
#: What does not pass by itself.
_HOPELESS = ("ErrImageNeverPull", "CreateContainerConfigError")
#: Where the server listens for the lab itself, in the folder ``api`` of the lab.
SOCKET = "api.sock"
_KINDS = {kind.name: kind for kind in KINDS}
_PODS = "/api/v1/pods"

#: By collection: the resource version of what was written last.
Versions = dict[str, int]


@contextmanager
def client(lab: LabState) -> Iterator[Client]:
    """Speak to the lab's server. Its refusals and its absence are raised as LabError."""
    speaking = Client.over_socket(str(lab.folder / "api" / SOCKET))
    try:
        yield speaking
    except Unreachable as error:
        raise LabError(f"the lab's API server does not answer ({error}): 'weft lab up' brings it back") from None
    except ApiError as error:
        raise LabError(f"the API server refuses: {error.message}") from None
    finally:
        speaking.close()


def await_server(lab: LabState) -> None:
    """Return when the server answers. Raises LabError."""
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            with client(lab) as api:
                api.get("/version")
        except LabError:
            if time.monotonic() > deadline:
                log = lab.service_log("api")
                lines = log.read_text(errors="replace").splitlines() if log.exists() else []
                raise LabError(
                    f"the API server does not start: {lines[-1] if lines else 'no word from it'}"
                ) from None
            time.sleep(0.02)
        else:
            return


def register(lab: LabState, node: NodeState) -> None:
    """Make a node known, as its kubelet does when it starts."""
    with client(lab) as api:
        manifest = node_manifest(node, runtimes.of(lab).version(), control_plane=node is lab.nodes[0])
        _create_or_keep(api, "/api/v1/nodes", manifest)


def await_ready_nodes(lab: LabState) -> None:
    """Return when every node's kubelet has said that it is ready. Raises LabError."""
    deadline = time.monotonic() + START_TIMEOUT
    while waiting := [item["metadata"]["name"] for item in listed(lab, "Node") if not is_ready(item)]:
        if time.monotonic() > deadline:
            raise LabError(f"node {waiting[0]} is not ready: see 'weft lab logs {waiting[0]}'")
        time.sleep(0.05)


def is_ready(item: Manifest) -> bool:
    """Whether a node or pod has the condition Ready."""
    conditions = (item.get("status") or {}).get("conditions") or []
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def publish(lab: LabState) -> Versions:
    """Make the Pod objects of the lab's pods, with their namespaces, as the lab is now.

    One that was deleted there is not made again. Raises LabError.
    """
    versions: Versions = {}
    with client(lab) as api:
        wanted = {(pod.namespace, pod.name): pod for pod in lab.pods}
        for name in sorted({pod.namespace for pod in lab.pods if not pod.published}):
            _create_or_keep(api, "/api/v1/namespaces", {"metadata": {"name": name}})
        present = {
            (item["metadata"]["namespace"], item["metadata"]["name"]): item
            for item in api.list(_PODS).items
            if is_labs(item)
        }
        for key, item in present.items():
            # Of a pod that is gone; those that the lab has not made yet have no sandbox's ID.
            if _container_id(item) and key not in wanted:
                api.delete(_pod_path(*key), {"uid": item["metadata"]["uid"]}, grace=0)
        for key, pod in wanted.items():
            found = present.get(key)
            if not pod.published:
                found = _published(api, pod, found)
            elif found is None or found["metadata"]["uid"] != pod.uid:
                continue
            _keep_version(versions, "pods", _publish_state(api, lab, pod, found))
    return versions


def set_labels(lab: LabState, kind: str, namespace: str, name: str, labels: Mapping[str, str | None]) -> Versions:
    """Set labels of a pod or namespace; None takes one away."""
    path = f"/api/v1/namespaces/{name}" if kind == "namespace" else _pod_path(namespace, name)
    with client(lab) as api:
        if kind == "namespace":
            _create_or_keep(api, "/api/v1/namespaces", {"metadata": {"name": name}})
        item = api.patch(path, {"metadata": {"labels": dict(labels)}})
    return _keep_version({}, f"{kind}s", item)


def apply(lab: LabState, manifests: Sequence[Manifest]) -> tuple[list[str], Versions]:
    """Create or replace objects; what became of each, in kubectl's words. Raises LabError for an unknown kind."""
    lines: list[str] = []
    versions: Versions = {}
    places = [_place(manifest) for manifest in manifests]
    with client(lab) as api:
        for manifest, (kind, collection) in zip(manifests, places, strict=True):
            name = manifest["metadata"]["name"]
            try:
                item, verb = api.create(collection, manifest), "created"
            except ApiError as error:
                if error.reason != "AlreadyExists":
                    raise
                before = api.get(f"{collection}/{name}")
                item = api.patch(f"{collection}/{name}", _without_status(manifest))
                same = before["metadata"]["resourceVersion"] == item["metadata"]["resourceVersion"]
                verb = "unchanged" if same else "configured"
            _keep_version(versions, kind.plural, item)
            lines.append(f"{_printed(kind)}/{name} {verb}")
    return lines, versions


def await_daemonsets(lab: LabState, manifests: Sequence[Manifest]) -> None:
    """Return when the pods of the DaemonSets among the manifests are ready on every node. Raises LabError."""
    names = [item["metadata"]["name"] for item in manifests if item["kind"] == "DaemonSet"]
    deadline = time.monotonic() + PODS_TIMEOUT
    for name in names:
        while True:
            (found,) = (item for item in listed(lab, "DaemonSet") if item["metadata"]["name"] == name)
            status, generation = found.get("status") or {}, found["metadata"].get("generation")
            wanted = status.get("desiredNumberScheduled", -1)
            if status.get("observedGeneration") == generation and (
                status.get("numberReady") == status.get("updatedNumberScheduled") == wanted
            ):
                break
            _refuse_hopeless(lab, name, last=time.monotonic() > deadline)
            time.sleep(0.1)


def _refuse_hopeless(lab: LabState, name: str, *, last: bool) -> None:
    """Raise LabError for a pod of a DaemonSet that cannot run; for any that does not run, the ``last`` time."""
    for pod in listed(lab, "Pod"):
        if not any(owner["name"] == name for owner in pod["metadata"].get("ownerReferences") or ()):
            continue
        status = pod.get("status") or {}
        every = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
        for one in every:
            waiting = one["state"].get("waiting") or {}
            if waiting.get("reason") in _HOPELESS or (last and not one["ready"]):
                said = waiting.get("message") or waiting.get("reason") or "is not ready"
                where = f"pod {pod['metadata']['name']} on {pod['spec']['nodeName']}, container {one['name']}"
                raise LabError(f"{where}: {said}")
    if last:
        raise LabError(f"daemonset {name} is not ready after {PODS_TIMEOUT:g} s")


def delete(lab: LabState, manifests: Sequence[Manifest]) -> tuple[list[str], Versions]:
    """Delete objects; what became of each. Raises LabError for the first that is not there, before any goes."""
    places = [(_place(manifest), manifest["metadata"]["name"]) for manifest in manifests]
    versions: Versions = {}
    with client(lab) as api:
        for (_, collection), name in places:
            api.get(f"{collection}/{name}")
        for (kind, collection), name in places:
            versions[kind.plural] = _deleted(api, collection, name)
    return [f"{_printed(kind)}/{name} deleted" for (kind, _), name in places], versions


def listed(lab: LabState, kind: str) -> list[Manifest]:
    """All objects of a kind, whole."""
    found = _KINDS[kind]
    with client(lab) as api:
        items = api.list(f"{found.path}/{found.plural}").items
    return [{"apiVersion": found.api_version, "kind": kind, **item} for item in items]


def _published(api: Client, pod: PodState, present: Manifest | None) -> Manifest:
    """The object of a pod that is new. Raises LabError where another pod has its name."""
    # The same container: an earlier command made the object, and was killed before it wrote that down.
    if present is not None and _container_id(present) != pod.container_id:
        raise LabError(
            f"pod {pod.namespace}/{pod.name} is in the API server already: delete it, or take another name"
        )
    item = present or api.create(f"/api/v1/namespaces/{pod.namespace}/pods", pod_manifest(pod))
    pod.uid, pod.published = item["metadata"]["uid"], True
    return item


def _publish_state(api: Client, lab: LabState, pod: PodState, item: Manifest) -> Manifest:
    """Write what became of a pod where its object does not say so yet."""
    path = _pod_path(pod.namespace, pod.name)
    if _container_id(item) != pod.container_id:
        item = api.patch(path, {"metadata": {"annotations": {CONTAINER_ID: pod.container_id}}})
    if (item.get("status") or {}).get("podIP", "") == pod.ip:
        return item
    wanted = pod_status(pod, item["spec"]["containers"], lab.node(pod.node).address, now())
    return api.patch(f"{path}/status", {"status": wanted})


def _container_id(item: Manifest) -> str:
    return str((item["metadata"].get("annotations") or {}).get(CONTAINER_ID, ""))


def _deleted(api: Client, collection: str, name: str) -> int:
    """Delete an object and wait until it is gone; the resource version of that, which only a watch tells."""
    told: queue.SimpleQueue[Change | Ended] = queue.SimpleQueue()
    stream = Stream(api, name, collection, api.list(collection).version, told)
    deadline = time.monotonic() + GONE_TIMEOUT
    try:
        api.delete(f"{collection}/{name}")
        while True:
            try:
                change = told.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise LabError(f"{collection}/{name} is still ending after {GONE_TIMEOUT:g} s") from None
            if isinstance(change, Ended):
                raise change.error
            if change.kind == "DELETED" and change.item["metadata"]["name"] == name:
                return change.version
    finally:
        stream.close()


def _place(manifest: Manifest) -> tuple[Kind, str]:
    """An object's kind, and the collection that it belongs to."""
    kind = _KINDS.get(manifest.get("kind", "")) if isinstance(manifest, dict) else None
    if kind is None or manifest.get("apiVersion") != kind.api_version:
        said = f"{manifest.get('apiVersion')}, {manifest.get('kind')}" if isinstance(manifest, dict) else manifest
        raise LabError(f"no kind that the lab's API server knows: {said}")
    metadata = manifest.get("metadata")
    if not isinstance(metadata, dict) or not metadata.get("name"):
        raise LabError(f"{kind.name}: metadata.name is missing")
    namespace = f"/namespaces/{metadata.get('namespace') or 'default'}" if kind.namespaced else ""
    return kind, f"{kind.path}{namespace}/{kind.plural}"


def _printed(kind: Kind) -> str:
    """How kubectl names it: ``daemonset.apps``."""
    return kind.name.lower() + (f".{kind.group}" if kind.group else "")


def _without_status(manifest: Manifest) -> Manifest:
    return {key: value for key, value in manifest.items() if key != "status"}


def _create_or_keep(api: Client, collection: str, manifest: Manifest) -> None:
    try:
        api.create(collection, manifest)
    except ApiError as error:
        if error.reason != "AlreadyExists":
            raise


def _pod_path(namespace: str, name: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods/{name}"


def _keep_version(versions: Versions, collection: str, item: Manifest) -> Versions:
    versions[collection] = max(versions.get(collection, 0), int(item["metadata"]["resourceVersion"]))
    return versions
