"""Addresses that pods of other nodes have, whoever gave them: nothing here may hand one out.

While a cluster is taken over node by node, Weave Net's share of the others is in no store. The API's pods tell.
"""

from collections.abc import Collection, Iterator, Mapping
from ipaddress import ip_address
from typing import Any, Protocol

from weft.ipam.ranges import IPAddress
from weft.kubernetes import ApiError, Client, Unreachable
from weft.kubernetes.client import METADATA_ONLY_LIST
from weft.store import StoreRefused, StoreUnavailable

_FINISHED = ("Succeeded", "Failed")


class ForeignAddresses(Protocol):
    """Who has which address on other nodes."""

    def in_use(self, known: Collection[str]) -> Mapping[IPAddress, str]:
        """Addresses of pods on other nodes, and whose they are; ``known`` nodes tell of theirs in the store.

        Raises StoreUnavailable where that cannot be found out now.
        """

    def close(self) -> None:
        """Let go of connections."""


class NoneKnown:
    """Where nobody can be asked: on plain hosts."""

    def in_use(self, known: Collection[str]) -> Mapping[IPAddress, str]:
        return {}

    def close(self) -> None:
        """There are none."""


class PodsOfApi:
    """The pods of a Kubernetes cluster. They are listed only while some node is not among the known ones."""

    def __init__(self, client: Client, node: str) -> None:
        self._client = client
        self._node = node

    def in_use(self, known: Collection[str]) -> Mapping[IPAddress, str]:
        try:
            if self._nodes() <= {*known, self._node}:
                return {}
            found: dict[IPAddress, str] = {}
            query = {"fieldSelector": f"spec.nodeName!={self._node}"}
            for page in self._client.pages("/api/v1/pods", query):
                for item in page.items:
                    found |= dict(addresses_of(item, self._node))
        except (ApiError, Unreachable) as error:
            kind = StoreRefused if error.refused else StoreUnavailable
            raise kind(f"which addresses other nodes use cannot be asked: {error}") from error
        return found

    def close(self) -> None:
        self._client.close()

    def _nodes(self) -> set[str]:
        listed = self._client.list("/api/v1/nodes", accept=METADATA_ONLY_LIST)
        return {item["metadata"]["name"] for item in listed.items}


def addresses_of(pod: Mapping[str, Any], node: str) -> Iterator[tuple[IPAddress, str]]:
    """The addresses of a pod as the API tells it, and whose they are; none where it has the host's network, is
    finished, runs on this node, or has no address yet."""
    metadata, spec, status = pod.get("metadata") or {}, pod.get("spec") or {}, pod.get("status") or {}
    place = spec.get("nodeName")
    if not place or place == node or spec.get("hostNetwork") or status.get("phase") in _FINISHED:
        return
    told = [item.get("ip") for item in status.get("podIPs") or ()] or [status.get("podIP")]
    for text in filter(None, told):
        try:
            address = ip_address(text)
        except ValueError:
            continue
        yield address, f"pod {metadata.get('namespace')}/{metadata.get('name')} on node {place}"


def open_foreign(store: str, node: str) -> ForeignAddresses:
    """Who is asked with this store. Raises ConfigurationError."""
    if not store.startswith("kubernetes://"):
        return NoneKnown()
    return PodsOfApi(Client.from_url(store, "namespace")[0], node)
