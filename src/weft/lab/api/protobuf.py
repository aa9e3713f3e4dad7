"""Objects as clients with generated types send them, such as ``kubectl create``, whatever the server answers.

Kubernetes: API concepts, Kubernetes Protobuf encoding. Names and numbers are those of the ``generated.proto`` of
``meta/v1``, ``core/v1`` and ``rbac/v1``.
"""

from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError

from weft.lab.api.errors import ApiError
from weft.lab.protobuf import Messages

_MAGIC = b"k8s\x00"

_KINDS = {
    "Namespace": "ObjectMeta metadata=1, NamespaceSpec spec=2",
    "ServiceAccount": "ObjectMeta metadata=1, repeated ObjectReference secrets=2, "
    "repeated LocalObjectReference imagePullSecrets=3, bool automountServiceAccountToken=4",
    "ConfigMap": "ObjectMeta metadata=1, map data=2, bytesmap binaryData=3, bool immutable=4",
    "Secret": "ObjectMeta metadata=1, bytesmap data=2, string type=3, map stringData=4, bool immutable=5",
    "Role": "ObjectMeta metadata=1, repeated PolicyRule rules=2",
    "RoleBinding": "ObjectMeta metadata=1, repeated Subject subjects=2, RoleRef roleRef=3",
    "ClusterRole": "ObjectMeta metadata=1, repeated PolicyRule rules=2",
    "ClusterRoleBinding": "ObjectMeta metadata=1, repeated Subject subjects=2, RoleRef roleRef=3",
}
_message = Messages(
    "kubernetes",
    _KINDS
    | {
        "Unknown": "TypeMeta typeMeta=1, bytes raw=2",
        "TypeMeta": "string apiVersion=1, string kind=2",
        "ObjectMeta": "string name=1, string generateName=2, string namespace=3, string resourceVersion=6, "
        "map labels=11, map annotations=12, repeated string finalizers=14",
        "NamespaceSpec": "repeated string finalizers=1",
        "ObjectReference": "string kind=1, string namespace=2, string name=3",
        "LocalObjectReference": "string name=1",
        "PolicyRule": "repeated string verbs=1, repeated string apiGroups=2, repeated string resources=3, "
        "repeated string resourceNames=4, repeated string nonResourceURLs=5",
        "Subject": "string kind=1, string apiGroup=2, string name=3, string namespace=4",
        "RoleRef": "string apiGroup=1, string kind=2, string name=3",
    },
)


_options = Messages(
    "kubernetes",
    {
        "DeleteOptions": "int64 gracePeriodSeconds=1, Preconditions preconditions=2, string propagationPolicy=4, "
        "repeated string dryRun=5",
        "Preconditions": "string uid=1, string resourceVersion=2",
    },
    presence=True,
)


def decoded(body: bytes) -> dict[str, Any]:
    """The object as JSON has it. Raises ApiError."""
    try:
        if not body.startswith(_MAGIC):
            raise DecodeError("it does not begin as it should")
        envelope = _message("Unknown").FromString(body[len(_MAGIC) :])
        kind = envelope.typeMeta.kind
        if kind == "DeleteOptions":
            found = _options(kind).FromString(envelope.raw)
        elif kind in _KINDS:
            found = _message(kind).FromString(envelope.raw)
        else:
            raise ApiError(
                "UnsupportedMediaType",
                f"a lab's API server takes {kind or 'this'} as JSON or YAML only, and this client sends protobuf: "
                "add '--dry-run=client -o yaml | kubectl apply -f -'",
            )
        item: dict[str, Any] = MessageToDict(found, preserving_proto_field_name=True)
    except DecodeError as error:
        raise ApiError("BadRequest", f"the request's protobuf cannot be read: {error}") from None
    return {"apiVersion": envelope.typeMeta.apiVersion, "kind": kind, **item}
