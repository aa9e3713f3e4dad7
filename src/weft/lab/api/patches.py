"""Patches of objects: JSON merge patch, JSON patch, and strategic merge patch (RFC 7386, RFC 6902, Kubernetes)."""

import copy
from typing import Any

from weft.lab.api.errors import ApiError

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"

#: Lists of objects that a strategic merge joins by a key instead of replacing them.
_MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "volumeMounts": "mountPath",
    "imagePullSecrets": "name",
    "conditions": "type",
    "addresses": "type",
    "ownerReferences": "uid",
}


def patched(kind: str, item: dict[str, Any], patch: Any) -> dict[str, Any]:
    """The object after a patch of a content type. Raises ApiError."""
    if kind == JSON:
        return _json_patched(item, patch)
    if not isinstance(patch, dict):
        raise ApiError("BadRequest", "a patch must be an object")
    if kind not in (STRATEGIC, APPLY, MERGE):
        raise ApiError("UnsupportedMediaType", f"the body of the request was in an unknown format: {kind}")
    found: dict[str, Any] = _merged(item, patch) if kind == MERGE else _strategic(item, patch, "")
    return found


def _merged(item: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(item) if isinstance(item, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result


def _strategic(item: Any, patch: Any, name: str) -> Any:
    if isinstance(patch, dict):
        if patch.get("$patch") == "replace":
            return {key: value for key, value in patch.items() if key != "$patch"}
        result = dict(item) if isinstance(item, dict) else {}
        for key, value in patch.items():
            if key.startswith(("$setElementOrder/", "$retainKeys", "$deleteFromPrimitiveList/")):
                continue
            if value is None:
                result.pop(key, None)
            else:
                result[key] = _strategic(result.get(key), value, key)
        return result
    merge_key = _MERGE_KEYS.get(name)
    if (
        isinstance(patch, list)
        and isinstance(item, list)
        and merge_key
        and all(isinstance(x, dict) for x in patch)
    ):
        return _joined(item, patch, merge_key)
    return copy.deepcopy(patch)


def _joined(items: list[Any], patch: list[dict[str, Any]], key: str) -> list[Any]:
    result = list(items)
    for change in patch:
        place = next((number for number, one in enumerate(result) if one.get(key) == change.get(key)), None)
        if change.get("$patch") == "delete":
            if place is not None:
                del result[place]
        elif place is None:
            result.append(copy.deepcopy(change))
        else:
            result[place] = _strategic(result[place], change, "")
    return result


def _json_patched(item: dict[str, Any], patch: Any) -> dict[str, Any]:
    result: dict[str, Any] = copy.deepcopy(item)
    for step in patch:
        place: Any = result
        *way, last = (part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:])
        try:
            for part in way:
                place = place[int(part)] if isinstance(place, list) else place[part]
            _apply_step(place, last, step)
        except (KeyError, IndexError, ValueError, TypeError):
            raise ApiError("Invalid", f"the server rejected our request: {step['op']} {step['path']}") from None
    return result


def _apply_step(place: Any, last: str, step: dict[str, Any]) -> None:
    operation = step["op"]
    if operation == "test":
        found = place[int(last)] if isinstance(place, list) else place[last]
        if found != step.get("value"):
            raise ValueError(last)
    elif operation == "remove":
        del place[int(last) if isinstance(place, list) else last]
    elif isinstance(place, list) and operation == "add":
        place.insert(len(place) if last == "-" else int(last), step["value"])
    elif operation in ("add", "replace"):
        if operation == "replace" and not isinstance(place, list):
            place[last]  # must be there
        place[int(last) if isinstance(place, list) else last] = step["value"]
    else:
        raise ValueError(operation)
