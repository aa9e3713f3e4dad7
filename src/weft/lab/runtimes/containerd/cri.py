"""A client of CRI, the interface between kubelet and container runtime, over its Unix socket."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from weft.lab.runtimes.containerd.messages import CONTAINER_RUNNING, SANDBOX_READY, message
from weft.lab.topology import LabError

_RUNTIME, _IMAGES = "runtime.v1.RuntimeService", "runtime.v1.ImageService"
#: Seconds for a call: what a kubelet gives those that make or end something is twice as long.
TIMEOUT = 120.0


class CriError(LabError):
    """A runtime refuses; the message is its own."""


class RuntimeAway(CriError):
    """No runtime answers."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A sandbox that a runtime has, ready or not."""

    id: str
    name: str
    namespace: str
    uid: str
    attempt: int
    ready: bool


@dataclass(frozen=True, slots=True)
class SandboxStatus:
    """What a runtime says of one sandbox. ``netns`` is the path that its plugins are given."""

    ready: bool
    addresses: tuple[str, ...]
    netns: str


class Cri:
    """One runtime. Safe for several threads. Every method raises CriError."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._channel = grpc.insecure_channel(f"unix:{socket}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def version(self) -> tuple[str, str]:
        """The runtime's name and its version."""
        answer = self._call(_RUNTIME, "Version")
        return answer.runtime_name, answer.runtime_version

    def conditions(self) -> dict[str, str]:
        """By condition (RuntimeReady, NetworkReady): "" where it holds, otherwise why not."""
        return {
            one.type: "" if one.status else one.message or one.reason or "no reason given"
            for one in self._call(_RUNTIME, "Status").status.conditions
        }

    def run_sandbox(self, config: Mapping[str, Any]) -> str:
        """Make a sandbox and attach it; its ID."""
        identity: str = self._call(_RUNTIME, "RunPodSandbox", config=config).pod_sandbox_id
        return identity

    def stop_sandbox(self, sandbox: str) -> None:
        """Kill what runs in it and detach it. One that is gone is fine."""
        self._call(_RUNTIME, "StopPodSandbox", pod_sandbox_id=sandbox)

    def remove_sandbox(self, sandbox: str) -> None:
        """Forget it with its containers. One that is gone is fine."""
        self._call(_RUNTIME, "RemovePodSandbox", pod_sandbox_id=sandbox)

    def sandboxes(self, labels: Mapping[str, str] | None = None) -> list[Sandbox]:
        """All sandboxes, or those with these labels."""
        selected = {"label_selector": dict(labels or {})}
        return [
            Sandbox(
                item.id, item.metadata.name, item.metadata.namespace, item.metadata.uid, item.metadata.attempt,
                item.state == SANDBOX_READY,
            )
            for item in self._call(_RUNTIME, "ListPodSandbox", filter=selected).items
        ]  # fmt: skip

    def sandbox_status(self, sandbox: str) -> SandboxStatus:
        """What became of a sandbox."""
        answer = self._call(_RUNTIME, "PodSandboxStatus", pod_sandbox_id=sandbox, verbose=True)
        network = answer.status.network
        addresses = tuple(filter(None, [network.ip, *(item.ip for item in network.additional_ips)]))
        spec = json.loads(answer.info.get("info", "{}")).get("runtimeSpec") or {}
        spaces = {item["type"]: item.get("path", "") for item in (spec.get("linux") or {}).get("namespaces") or ()}
        return SandboxStatus(answer.status.state == SANDBOX_READY, addresses, spaces.get("network", ""))

    def run_container(self, sandbox: str, config: Mapping[str, Any], sandbox_config: Mapping[str, Any]) -> str:
        """Make a container in a sandbox and start it; its ID."""
        container: str = self._call(
            _RUNTIME, "CreateContainer", pod_sandbox_id=sandbox, config=config, sandbox_config=sandbox_config
        ).container_id
        self._call(_RUNTIME, "StartContainer", container_id=container)
        return container

    def running_containers(self) -> dict[str, str]:
        """IDs of the containers that run, by that of their sandbox."""
        return {
            item.pod_sandbox_id: item.id
            for item in self._call(_RUNTIME, "ListContainers").containers
            if item.state == CONTAINER_RUNNING
        }

    def process_of(self, container: str) -> int:
        """The first process of a container that runs, as its runtime sees it."""
        answer = self._call(_RUNTIME, "ContainerStatus", container_id=container, verbose=True)
        return int(json.loads(answer.info.get("info", "{}")).get("pid", 0))

    def has_image(self, name: str) -> bool:
        """Whether the runtime has an image."""
        return bool(self._call(_IMAGES, "ImageStatus", image={"image": name}).image.id)

    def _call(self, service: str, method: str, **fields: Any) -> Any:
        ask: Any = self._channel.unary_unary(
            f"/{service}/{method}",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=message(f"{method}Response").FromString,
        )
        try:
            return ask(message(f"{method}Request")(**fields), timeout=TIMEOUT)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAVAILABLE:
                raise RuntimeAway(f"containerd does not answer at {self._socket}") from None
            raise CriError(f"{method}: {error.details()}") from None
