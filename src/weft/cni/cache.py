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
#: What tells a bare result, as libraries before version 0.8 of the reference kept it.
_RESULT_KEYS = {"cniVersion", "ip4", "ip6", "ips"}


@dataclass(frozen=True, slots=True)
class CachedAttachment:
    """One attachment: its configuration (a list's JSON) and its result, as the plugins gave it.

    A bare result of old tells nothing but the result; the other fields are empty then.
    """

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
        }
        optional: dict[str, Any] = {
            "netns": attachment.netns,
            "cniArgs": [list(pair) for pair in attachment.args],
            "capabilityArgs": dict(attachment.capability_args),
            "result": dict(attachment.result),
        }
        body |= {key: value for key, value in optional.items() if value}
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
        found = self._read(path)
        if found is None or found.container_id:
            return found
        return CachedAttachment(network, container_id, ifname, "", b"", (), {}, found.result)

    def attachments(self, network: str) -> list[CachedAttachment]:
        """All attachments of a network, in the order of their files; what cannot be read is passed over."""
        found = []
        try:
            paths = sorted(self._folder.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise CniError(ErrorCode.IO_FAILURE, f"{self._folder}: {error.strerror}") from None
        for path in paths:
            if path.name.startswith("."):
                continue
            try:
                attachment = self._read(path)
            except CniError:
                continue
            if attachment is not None and attachment.network == network and attachment.ifname:
                found.append(attachment)
        return found

    def remove(self, network: str, container_id: str, ifname: str) -> None:
        """Forget the attachment, if it is there."""
        path = self._path(network, container_id, ifname)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise CniError(ErrorCode.IO_FAILURE, f"{path}: {error.strerror}") from None

    def _read(self, path: Path) -> CachedAttachment | None:
        try:
            body = msgspec.json.decode(path.read_bytes())
            if "kind" not in body and body.keys() & _RESULT_KEYS:
                return CachedAttachment("", "", "", "", b"", (), {}, body)
            if body["kind"] != _KIND:
                raise ValueError(f"kind {body['kind']!r}")
            return CachedAttachment(
                body["networkName"],
                body["containerId"],
                body["ifName"],
                body.get("netns") or "",
                base64.b64decode(body.get("config") or ""),
                tuple((key, value) for key, value in body.get("cniArgs") or ()),
                dict(body.get("capabilityArgs") or {}),
                dict(body.get("result") or {}),
            )
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CniError(ErrorCode.IO_FAILURE, f"{path}: {error.strerror}") from None
        except (msgspec.DecodeError, RecursionError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CniError(ErrorCode.UNDECODABLE, f"{path} is not a cached result: {error}; remove it") from None

    def _path(self, network: str, container_id: str, ifname: str) -> Path:
        return self._folder / f"{network}-{container_id}-{ifname}"
