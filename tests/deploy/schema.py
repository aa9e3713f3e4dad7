"""A strict check of manifests against Kubernetes' own models, as lightkube-models has them from its OpenAPI.

Stricter than an API server, which drops unknown fields with a warning and takes ``null`` for a field left out.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from lightkube.core.exceptions import LoadResourceError
from lightkube.core.resource_registry import resource_registry

_SCALARS: Mapping[type[msgspec.inspect.Type], tuple[type, ...]] = {
    msgspec.inspect.StrType: (str,),
    msgspec.inspect.IntType: (int,),
    msgspec.inspect.BoolType: (bool,),
    msgspec.inspect.FloatType: (int, float),
}


def problems(item: Any) -> list[str]:
    """What Kubernetes would not know in an object, or has other types for: ``spec.ports[0].port: …``."""
    if not isinstance(item, dict):
        return [f"{item!r}: is no object"]
    version, kind = item.get("apiVersion"), item.get("kind")
    if not isinstance(version, str) or not isinstance(kind, str):
        return ["apiVersion and kind: are missing"]
    try:
        return list(_against(_model(version, kind), item, ""))
    except LoadResourceError as error:
        return [str(error)]


@functools.cache
def _model(version: str, kind: str) -> msgspec.inspect.Type:
    """A kind with all that it consists of. Raises LoadResourceError."""
    return msgspec.inspect.type_info(resource_registry.load(version, kind))


def _against(wanted: msgspec.inspect.Type, value: Any, place: str) -> Iterator[str]:
    choices = wanted.types if isinstance(wanted, msgspec.inspect.UnionType) else (wanted,)
    # Optional is what may be left out, not what may be null.
    choices = tuple(one for one in choices if not isinstance(one, msgspec.inspect.NoneType))
    found = [list(_against_one(one, value, place)) for one in choices]
    if all(found):
        yield from min(found, key=len)


def _against_one(wanted: msgspec.inspect.Type, value: Any, place: str) -> Iterator[str]:
    match wanted:
        case msgspec.inspect.StructType():
            yield from _fields(wanted, value, place)
        case msgspec.inspect.ListType():
            yield from _items(wanted.item_type, value, place)
        case msgspec.inspect.DictType():
            yield from _strings(value, place)
        case _ if type(wanted) in _SCALARS:
            if type(value) not in _SCALARS[type(wanted)]:
                yield f"{place}: {value!r} is no {_SCALARS[type(wanted)][0].__name__}"
        case _:
            yield f"{place}: this check does not know {wanted}"


def _items(wanted: msgspec.inspect.Type, value: Any, place: str) -> Iterator[str]:
    if not isinstance(value, list):
        yield f"{place}: {value!r} is no list"
        return
    for number, one in enumerate(value):
        yield from _against(wanted, one, f"{place}[{number}]")


def _strings(value: Any, place: str) -> Iterator[str]:
    """The models leave open of what a mapping is: in these kinds labels, selectors, quantities, all of strings."""
    if not isinstance(value, dict):
        yield f"{place}: {value!r} is no mapping"
        return
    for key, one in value.items():
        if type(key) is not str or type(one) is not str:
            yield f"{place}: {key!r}: {one!r} is no pair of strings"


def _fields(wanted: msgspec.inspect.StructType, value: Any, place: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{place}: {value!r} is no {wanted.cls.__name__}"
        return
    known = {field.encode_name: field for field in wanted.fields}
    prefix = f"{place}." if place else ""
    for name in value:
        if name not in known:
            yield f"{prefix}{name}: {wanted.cls.__name__} has no such field"
    for name, field in known.items():
        if name in value:
            yield from _against(field.type, value[name], f"{prefix}{name}")
        elif field.required:
            yield f"{prefix}{name}: is missing"
