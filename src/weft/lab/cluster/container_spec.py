"""From a container of a Pod to what an OCI runtime is told (OCI runtime-spec 1.0.2). Pure but for image lookup.

What the lab does not know in a pod is refused, not left out: a container runs with exactly what its manifest says.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weft.lab.cluster.images import Image

Manifest = dict[str, Any]


class Unsupported(ValueError):
    """A pod asks for what a lab does not have; the message names it."""


#: What containerd and CRI-O leave a container that drops nothing.
_DEFAULT_CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP",
    "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
)  # fmt: skip
_MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
)  # fmt: skip
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_OWN_MOUNTS = (
    ("/proc", "proc", "proc", ("nosuid", "noexec", "nodev")),
    ("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    ("/dev/pts", "devpts", "devpts", ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")),
    ("/dev/shm", "tmpfs", "shm", ("nosuid", "noexec", "nodev", "mode=1777", "size=65536k")),  # noqa: S108
    ("/dev/mqueue", "mqueue", "mqueue", ("nosuid", "noexec", "nodev")),
    ("/sys", "sysfs", "sysfs", ("nosuid", "noexec", "nodev", "ro")),
)
SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


def runtime_config(
    pod: Manifest, container: Manifest, image: Image, volumes: Mapping[str, Path], variables: Mapping[str, str],
    cgroup: str,
) -> Manifest:  # fmt: skip
    """``config.json`` of a container. ``volumes``: where each of the pod's is; ``variables``: the runtime's own.

    Raises Unsupported.
    """
    spec = pod["spec"]
    refuse_unknown(container)
    context = (spec.get("securityContext") or {}) | (container.get("securityContext") or {})
    capabilities = capabilities_of(context)
    user = int(context.get("runAsUser") or 0)
    words = [*(container.get("command") or image.entrypoint), *_arguments(container, image)]
    if not words:
        raise Unsupported(f"container {container['name']}: neither it nor its image says what to run")
    namespaces = ["mount", "ipc", *([] if spec.get("hostPID") else ["pid"])]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": user, "gid": int(context.get("runAsGroup") or 0)},
            "args": words,
            "env": [*image.environment, *(f"{name}={value}" for name, value in variables.items()),
                    *_environment(pod, container)],
            "cwd": container.get("workingDir") or image.folder,
            "capabilities": {
                kind: capabilities if user == 0 or kind == "bounding" else []
                for kind in ("bounding", "effective", "permitted")
            },
            "noNewPrivileges": context.get("allowPrivilegeEscalation") is False,
        },
        "root": {"path": str(image.root), "readonly": True},
        "mounts": [*_own_mounts(), *_volume_mounts(container, volumes)],
        "linux": {
            "namespaces": [{"type": kind} for kind in namespaces],
            "cgroupsPath": cgroup,
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READ_ONLY),
        },
    }  # fmt: skip


def capabilities_of(context: Mapping[str, Any]) -> list[str]:
    """The capabilities that a security context leaves a container, with the kernel's names."""
    asked = context.get("capabilities") or {}
    dropped = {name.removeprefix("CAP_") for name in asked.get("drop") or ()}
    kept = [] if "ALL" in dropped else [name for name in _DEFAULT_CAPABILITIES if name not in dropped]
    added = [name.removeprefix("CAP_") for name in asked.get("add") or ()]
    if "ALL" in added:
        raise Unsupported("capabilities.add: ALL: a lab gives named capabilities only")
    return [f"CAP_{name}" for name in dict.fromkeys([*kept, *added])]


def refuse_unknown(container: Manifest) -> None:
    """Raise Unsupported for what would not be as the manifest says."""
    what = f"container {container['name']}"
    context = container.get("securityContext") or {}
    if context.get("privileged"):
        raise Unsupported(f"{what}: privileged")
    if not context.get("readOnlyRootFilesystem"):
        raise Unsupported(f"{what}: readOnlyRootFilesystem is not set: a lab's images are shared by all nodes")
    for key in ("envFrom", "lifecycle", "startupProbe", "volumeDevices"):
        if container.get(key):
            raise Unsupported(f"{what}: {key}")
    for probe in ("readinessProbe", "livenessProbe"):
        if container.get(probe) and "httpGet" not in container[probe]:
            raise Unsupported(f"{what}: {probe}: only httpGet")


def _arguments(container: Manifest, image: Image) -> list[str]:
    """A manifest's command leaves nothing of the image's own words (Kubernetes: command and args)."""
    if container.get("args"):
        return list(container["args"])
    return [] if container.get("command") else list(image.command)


def _environment(pod: Manifest, container: Manifest) -> list[str]:
    found = []
    for entry in container.get("env") or ():
        if "valueFrom" not in entry:
            found.append(f"{entry['name']}={entry.get('value') or ''}")
            continue
        path = (entry["valueFrom"].get("fieldRef") or {}).get("fieldPath")
        if path is None:
            if any(source.get("optional") for source in entry["valueFrom"].values()):
                continue
            raise Unsupported(f"env {entry['name']}: valueFrom {', '.join(entry['valueFrom'])}: only fieldRef")
        found.append(f"{entry['name']}={field_of(pod, path)}")
    return found


def field_of(pod: Manifest, path: str) -> str:
    """A field that the downward API tells. Raises Unsupported."""
    value: Any = pod
    for step in path.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    if not isinstance(value, str):
        raise Unsupported(f"fieldRef {path}: the pod has no such text")
    return value


def _own_mounts() -> list[Manifest]:
    return [
        {"destination": place, "type": kind, "source": source, "options": list(options)}
        for place, kind, source, options in _OWN_MOUNTS
    ]


def _volume_mounts(container: Manifest, volumes: Mapping[str, Path]) -> list[Manifest]:
    mounts = []
    for mount in container.get("volumeMounts") or ():
        if mount.get("subPath") or mount.get("mountPropagation") not in (None, "None"):
            raise Unsupported(f"volumeMount {mount['mountPath']}: subPath or mountPropagation")
        mode = "ro" if mount.get("readOnly") else "rw"
        source = volumes.get(mount["name"])
        if source is None:
            raise Unsupported(f"volumeMount {mount['mountPath']}: no volume {mount['name']!r}")
        mounts.append(_bind(source, mount["mountPath"], mode))
    account = volumes.get(SERVICE_ACCOUNT)
    return [*mounts, *([_bind(account, SERVICE_ACCOUNT, "ro")] if account else [])]


def _bind(source: Path, place: str, mode: str) -> Manifest:
    return {"destination": place, "type": "bind", "source": str(source), "options": ["rbind", "rprivate", mode]}
