"""Label and field selectors, as queries carry them (Kubernetes: labels and selectors, field selectors)."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from weft.lab.api.errors import ApiError

Selector = Callable[[Mapping[str, Any]], bool]

_SET = re.compile(r"^\s*(?P<key>[^\s!=,()]+)\s+(?P<word>in|notin)\s*\((?P<values>[^)]*)\)\s*$")
_EQUAL = re.compile(r"^\s*(?P<key>[^\s!=,()]+)\s*(?P<sign>==|=|!=)\s*(?P<value>[^\s!=,()]*)\s*$")
_EXISTS = re.compile(r"^\s*(?P<no>!?)\s*(?P<key>[^\s!=,()]+)\s*$")
#: A comma that is not inside parentheses.
_COMMA = re.compile(r",(?![^(]*\))")


def by_labels(text: str) -> Selector:
    """A selector such as ``app=web,tier in (a,b),!old``. Raises ApiError."""
    tests = [_label_test(part) for part in _COMMA.split(text) if part.strip()]
    return lambda item: all(test(item.get("metadata", {}).get("labels") or {}) for test in tests)


def by_fields(text: str) -> Selector:
    """A selector such as ``metadata.name=web,spec.nodeName!=node01``. Raises ApiError."""
    tests = []
    for part in filter(None, text.split(",")):
        found = _EQUAL.match(part)
        if found is None:
            raise ApiError("BadRequest", f"invalid field selector {part!r}")
        tests.append((found["key"].split("."), found["sign"] != "!=", found["value"]))
    return lambda item: all((_field(item, path) == value) is wanted for path, wanted, value in tests)


def _field(item: Any, path: list[str]) -> str:
    for step in path:
        item = item.get(step) if isinstance(item, Mapping) else None
    return "" if item is None else str(item)


def _label_test(part: str) -> Callable[[Mapping[str, str]], bool]:
    if found := _SET.match(part):
        key, values = found["key"], {value.strip() for value in found["values"].split(",")}
        if found["word"] == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    if found := _EQUAL.match(part):
        key, value = found["key"], found["value"]
        if found["sign"] == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if found := _EXISTS.match(part):
        key, wanted = found["key"], not found["no"]
        return lambda labels: (key in labels) is wanted
    raise ApiError("BadRequest", f"unable to parse requirement: {part!r}")
