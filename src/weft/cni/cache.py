"""What ADD answered, kept for DEL and CHECK in the layout of the reference library.

A container that containerd attached can so be checked or deleted by ``weft cni``, and the other way round.
"""

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from weft.cni.errors import CniError, ErrorCode

#: The folder below which the reference library keeps its results.
DEFAULT_FOLDER = Path("/var/lib/cni")
_KIND = "cniCacheV1"


@dataclass(frozen=True, slots=True)
class CachedAttachment:
    """One attachment: its configuration (a list's JSON) and its result, as the plugins gave it."""

    network: str
    container_id: str
    ifname: str
    netns: str
    configuration: bytes
    args: tuple[tuple[str, str], ...]
    capability_args: Mapping[str, Any]
    result: Mapping[str, Any]


class Cache:
    """A folder of attachments. Every verb raises CniError 5, naming the file, where the folder fails it."""

    def __init__(self, folder: Path = DEFAULT_FOLDER) -> None:
        self._folder = folder / "results"

    def write(self, attachment: CachedAttachment) -> None:
        """Keep an attachment, whole or not at all."""
        path = self._path(attachment.network, attachment.container_id, attachment.ifname)
        body = {
            "kind": _KIND,
            "containerId": attachment.container_id,
            "config": base64.b64encode(attachment.configuration).decode(),
            "ifName": attachment.ifname,
            "networkName": attachment.network,
            "netns": attachment.netns,
            "cniArgs": [list(pair) for pair in attachment.args],
            "capabilityArgs": dict(attachment.capability_args),
            "result": dict(attachment.result),
        }
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary.write_bytes(msgspec.json.encode(body))
            temporary.chmod(0o600)
            temporary.rename(path)
        except OSError as error:
            raise CniError(ErrorCode.IO_FAILURE, f"{path}: {error.strerror}") from None

    def read(self, network: str, container_id: str, ifname: str) -> CachedAttachment | None:
        """The attachment, or None where there is none. Raises CniError 6 for a file that is none of ours."""
        path = self._path(network, container_id, ifname)
        try:
            body = msgspec.json.decode(path.read_bytes())
            if body["kind"] != _KIND:
                raise ValueError(f"kind {body['kind']!r}")
            return CachedAttachment(
                body["networkName"],
                body["containerId"],
                body["ifName"],
                body.get("netns") or "",
                base64.b64decode(body.get("config") or ""),
                tuple((key, value) for key, value in body.get("cniArgs") or ()),
                body.get("capabilityArgs") or {},
                body["result"],
            )
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CniError(ErrorCode.IO_FAILURE, f"{path}: {error.strerror}") from None
        except (msgspec.DecodeError, ValueError, KeyError, TypeError) as error:
            raise CniError(ErrorCode.UNDECODABLE, f"{path} is not a cached result: {error}; remove it") from None

    def remove(self, network: str, container_id: str, ifname: str) -> None:
        """Forget the attachment, if it is there."""
        path = self._path(network, container_id, ifname)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise CniError(ErrorCode.IO_FAILURE, f"{path}: {error.strerror}") from None

    def _path(self, network: str, container_id: str, ifname: str) -> Path:
        return self._folder / f"{network}-{container_id}-{ifname}"
