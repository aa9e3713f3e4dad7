"""From a path and a query to what is asked for (Kubernetes API concepts: resource URIs)."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from weft.lab.api.errors import ApiError
from weft.lab.api.kinds import Kind, find
from weft.lab.api.pod_access import SUBRESOURCES
from weft.lab.api.selectors import by_fields, by_labels
from weft.lab.api.storage import Selection


@dataclass(frozen=True, slots=True)
class Target:
    """What a path names: a collection where ``name`` is empty. ``subresource``: ``status``, a pod's, or none."""

    kind: Kind
    namespace: str
    name: str
    subresource: str
    query: Mapping[str, str]

    @property
    def watching(self) -> bool:
        """Whether changes are asked for, not what there is."""
        return self.query.get("watch", "") in ("1", "true", "True")

    def selection(self) -> Selection:
        """Which objects of a collection. Raises ApiError for a selector that cannot be read."""
        labels, fields = (
            by_labels(self.query.get("labelSelector", "")),
            by_fields(self.query.get("fieldSelector", "")),
        )
        name = self.name
        return Selection(
            self.kind,
            self.namespace,
            lambda item: labels(item) and fields(item) and (not name or item["metadata"]["name"] == name),
        )

    def version(self) -> int | None:
        """``resourceVersion``, None where none is given. Raises ApiError."""
        text = self.query.get("resourceVersion", "")
        if not text:
            return None
        if not text.isdigit():
            raise ApiError("BadRequest", f"invalid resource version {text!r}")
        return int(text)


def parse(url: str) -> Target:
    """Read a request's path. Raises ApiError: NotFound for what is not served."""
    parts = urlsplit(url)
    query = {key: values[-1] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
    words = [word for word in parts.path.split("/") if word]
    group, version, rest = "", "", []
    if words[:1] == ["api"] and len(words) > 2:
        version, rest = words[1], words[2:]
    elif words[:1] == ["apis"] and len(words) > 3:
        group, version, rest = words[1], words[2], words[3:]
    namespace = ""
    if rest[:1] == ["namespaces"] and len(rest) > 2 and rest[2] not in ("status", "finalize"):
        namespace, rest = rest[1], rest[2:]
    plural, name, subresource = (*rest, "", "", "")[:3]
    kind = find(group, version, plural)
    known = ("", "status", *(SUBRESOURCES if kind and kind.name == "Pod" else ()))
    if kind is None or len(rest) > 3 or subresource not in known or (namespace and not kind.namespaced):
        raise ApiError("NotFound", "the server could not find the requested resource")
    if kind.namespaced and name and not namespace:
        raise ApiError("NotFound", "the server could not find the requested resource")
    return Target(kind, namespace, name, subresource, query)
