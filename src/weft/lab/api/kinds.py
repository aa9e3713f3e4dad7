"""The resources that the server knows."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """One resource type. ``group`` is empty for the core group."""

    group: str
    version: str
    name: str
    plural: str
    namespaced: bool = True
    short: tuple[str, ...] = ()
    status: bool = False

    @property
    def api_version(self) -> str:
        """``apiVersion`` of its objects."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def path(self) -> str:
        """Where its group and version are served."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    @property
    def resource(self) -> str:
        """How messages name it: ``leases.coordination.k8s.io``."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


_RBAC = "rbac.authorization.k8s.io"

KINDS = (
    Kind("", "v1", "Namespace", "namespaces", namespaced=False, short=("ns",), status=True),
    Kind("", "v1", "Node", "nodes", namespaced=False, short=("no",), status=True),
    Kind("", "v1", "Pod", "pods", short=("po",), status=True),
    Kind("", "v1", "Service", "services", short=("svc",), status=True),
    Kind("", "v1", "ServiceAccount", "serviceaccounts", short=("sa",)),
    Kind("", "v1", "ConfigMap", "configmaps", short=("cm",)),
    Kind("", "v1", "Secret", "secrets"),
    Kind("", "v1", "Event", "events", short=("ev",)),
    Kind("apps", "v1", "DaemonSet", "daemonsets", short=("ds",), status=True),
    Kind("apps", "v1", "Deployment", "deployments", short=("deploy",), status=True),
    Kind(_RBAC, "v1", "ClusterRole", "clusterroles", namespaced=False),
    Kind(_RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings", namespaced=False),
    Kind(_RBAC, "v1", "Role", "roles"),
    Kind(_RBAC, "v1", "RoleBinding", "rolebindings"),
    Kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", short=("netpol",)),
    Kind("coordination.k8s.io", "v1", "Lease", "leases"),
)


def find(group: str, version: str, plural: str) -> Kind | None:
    """The resource behind a path's words."""
    return next(
        (kind for kind in KINDS if (kind.group, kind.version, kind.plural) == (group, version, plural)), None
    )


def groups() -> list[tuple[str, str]]:
    """Every named group with its version."""
    return sorted({(kind.group, kind.version) for kind in KINDS if kind.group})
