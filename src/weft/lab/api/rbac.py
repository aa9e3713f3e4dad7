"""Who may do what: the rules of Roles and ClusterRoles in the server's own storage (Kubernetes RBAC).

Tokens are as good as names here: ``NAMESPACE/NAME`` is a service account's, ``admin`` may do everything.
"""

from collections.abc import Iterator
from typing import Any

from weft.lab.api.errors import ApiError
from weft.lab.api.kinds import KINDS
from weft.lab.api.requests import Target
from weft.lab.api.storage import Object, Selection, Storage

ADMIN_TOKEN = "admin"  # noqa: S105  # a lab's

_KINDS = {kind.name: kind for kind in KINDS}


class RoleBasedAccess:
    """``weft.lab.api.server.Authorize`` by what is bound at the moment of the request."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def __call__(self, token: str, verb: str, target: Target) -> None:
        if token == ADMIN_TOKEN:
            return
        namespace, separator, name = token.partition("/")
        if not separator:
            raise ApiError("Unauthorized", "Unauthorized")
        if any(_allows(rule, verb, target) for rule in self._rules(namespace, name, target.namespace)):
            return
        resource = f"{target.kind.plural}/{target.subresource}" if target.subresource else target.kind.plural
        place = f' in the namespace "{target.namespace}"' if target.namespace else " at the cluster scope"
        user = f"system:serviceaccount:{namespace}:{name}"
        raise ApiError(
            "Forbidden",
            f'{target.kind.resource} "{target.name}" is forbidden: User "{user}" '
            f'cannot {verb} resource "{resource}" in API group "{target.kind.group}"{place}',
            kind=target.kind.plural,
            name=target.name,
        )

    def _rules(self, namespace: str, name: str, where: str) -> Iterator[Object]:
        yield from self._bound("ClusterRoleBinding", "", namespace, name)
        if where:
            yield from self._bound("RoleBinding", where, namespace, name)

    def _bound(self, binding: str, where: str, namespace: str, name: str) -> Iterator[Object]:
        for item in self._storage.list(Selection(_KINDS[binding], where))[0]:
            if any(_is_subject(subject, namespace, name) for subject in item.get("subjects") or []):
                reference = item["roleRef"]
                kind = _KINDS[reference["kind"]]
                try:
                    role = self._storage.get(kind, where if kind.namespaced else "", reference["name"])
                except ApiError:
                    continue  # bound to a role that is not there yet
                yield from role.get("rules") or []


def _is_subject(subject: Object, namespace: str, name: str) -> bool:
    return (subject.get("kind"), subject.get("namespace"), subject.get("name")) == (
        "ServiceAccount",
        namespace,
        name,
    )


def _allows(rule: dict[str, Any], verb: str, target: Target) -> bool:
    plural = target.kind.plural
    resource = f"{plural}/{target.subresource}" if target.subresource else plural
    names = rule.get("resourceNames")
    return (
        _named(rule.get("apiGroups"), target.kind.group)
        and _named(rule.get("resources"), resource)
        and _named(rule.get("verbs"), verb)
        and (not names or target.name in names)
    )


def _named(listed: list[str] | None, word: str) -> bool:
    return word in (listed or ()) or "*" in (listed or ())
