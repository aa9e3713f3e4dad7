"""What the server says about itself, as much of it as clients ask for (Kubernetes API discovery)."""

from typing import Any

from weft.lab.api.kinds import KINDS, Kind, groups

#: The version that the seed's cluster has.
VERSION = {
    "major": "1",
    "minor": "26",
    "gitVersion": "v1.26.0",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "2022-12-08T19:51:45Z",
    "goVersion": "",
    "compiler": "gc",
    "platform": "linux/amd64",
}
#: What ``kubectl get all`` means.
_ALL = ("Pod", "Service", "DaemonSet", "Deployment")
_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]


def page(path: str) -> dict[str, Any] | None:  # noqa: PLR0911  # a table of pages
    """The document at a path, None where there is none."""
    words = path.strip("/").split("/")
    match words:
        case ["openapi", "v3", *rest]:
            return _openapi("/" + "/".join(rest)) if rest else _openapi_index()
        case ["version"]:
            return dict(VERSION)
        case ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
        case ["apis"]:
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(*pair) for pair in groups()]}
        case ["apis", name]:
            return next((_group(*pair) for pair in groups() if pair[0] == name), None)
        case ["api" | "apis", *group, version]:
            return _resources("/".join(group), version)
        case _:
            return None


def _openapi_index() -> dict[str, Any]:
    paths = sorted({kind.path.strip("/") for kind in KINDS})
    return {"paths": {path: {"serverRelativeURL": f"/openapi/v3/{path}"} for path in paths}}


def _group(name: str, version: str) -> dict[str, Any]:
    known = {"groupVersion": f"{name}/{version}", "version": version}
    return {"kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": [known], "preferredVersion": known}


def _resources(group: str, version: str) -> dict[str, Any] | None:
    kinds = [kind for kind in KINDS if (kind.group, kind.version) == (group, version)]
    if not kinds:
        return None
    resources = []
    for kind in kinds:
        categories = ["all"] if kind.name in _ALL else []
        told = {"shortNames": list(kind.short), "categories": categories}
        resources.append(_resource(kind, kind.plural, _VERBS) | told)
        if kind.status:
            resources.append(_resource(kind, f"{kind.plural}/status", ["get", "patch", "update"]))
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": kinds[0].api_version,
        "resources": resources,
    }


def _resource(kind: Kind, name: str, verbs: list[str]) -> dict[str, Any]:
    return {
        "name": name,
        "singularName": kind.name.lower(),
        "namespaced": kind.namespaced,
        "kind": kind.name,
        "verbs": verbs,
    }


def _openapi(path: str) -> dict[str, Any] | None:
    """As much OpenAPI as tells kubectl that the server checks fields by itself."""
    kinds = [kind for kind in KINDS if kind.path == path]
    if not kinds:
        return None
    parameters = [
        {"name": name, "in": "query", "schema": {"type": "string"}} for name in ("dryRun", "fieldValidation")
    ]
    paths = {}
    for kind in kinds:
        place = f"{path}/namespaces/{{namespace}}/{kind.plural}" if kind.namespaced else f"{path}/{kind.plural}"
        paths[f"{place}/{{name}}"] = {
            "patch": {
                "parameters": parameters,
                "responses": {"200": {"description": "OK"}},
                "x-kubernetes-group-version-kind": {
                    "group": kind.group,
                    "kind": kind.name,
                    "version": kind.version,
                },
            }
        }
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": VERSION["gitVersion"]},
        "paths": paths,
        "components": {"schemas": {}},
    }
