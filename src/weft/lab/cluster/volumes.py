"""A pod's volumes on its node: the host's folders, empty ones, the service account's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weft.lab.cluster.container_spec import SERVICE_ACCOUNT, Unsupported

Manifest = dict[str, Any]


def prepare(pod: Manifest, folder: Path, authority: bytes) -> Mapping[str, Path]:
    """Make them, in the pod's folder where they are its own; where each is. Raises Unsupported, OSError."""
    found: dict[str, Path] = {}
    for volume in pod["spec"].get("volumes") or ():
        name = volume["name"]
        if "hostPath" in volume:
            found[name] = _host_path(volume["hostPath"])
        elif "emptyDir" in volume:
            found[name] = folder / "volumes" / name
            found[name].mkdir(parents=True, exist_ok=True)
            found[name].chmod(0o777)
        else:
            kinds = ", ".join(key for key in volume if key != "name")
            raise Unsupported(f"volume {name}: {kinds}: only hostPath and emptyDir")
    if pod["spec"].get("automountServiceAccountToken") is not False:
        found[SERVICE_ACCOUNT] = _service_account(pod, folder / "serviceaccount", authority)
    return found


def _host_path(source: Manifest) -> Path:
    path, kind = Path(source["path"]), source.get("type") or ""
    if kind == "DirectoryOrCreate":
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    elif kind == "FileOrCreate":
        path.touch(mode=0o644, exist_ok=True)
    elif not path.exists():
        raise Unsupported(f"hostPath {path}: the node has no such file or folder")
    if (kind.startswith("Directory") and not path.is_dir()) or (kind.startswith("File") and not path.is_file()):
        raise Unsupported(f"hostPath {path}: is no {kind.removesuffix('OrCreate')}")
    return path


def _service_account(pod: Manifest, folder: Path, authority: bytes) -> Path:
    """What a pod finds of its service account. Tokens of a lab's server are names."""
    namespace = pod["metadata"]["namespace"]
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    (folder / "namespace").write_text(namespace)
    (folder / "ca.crt").write_bytes(authority)
    (folder / "token").write_text(f"{namespace}/{pod['spec'].get('serviceAccountName') or 'default'}")
    return folder
