"""Protobuf messages from a table, in place of generated code for the whole of an API.

protobuf makes classes of them, and skips what a peer says beyond. It is one of the lab's own packages
(``pyproject.toml``, extra ``lab``).
"""

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
    "bool": _Field.TYPE_BOOL,
    "int32": _Field.TYPE_INT32,
    "uint32": _Field.TYPE_UINT32,
    "int64": _Field.TYPE_INT64,
}
#: What the values of a map are.
_MAPS = {"map": _Field.TYPE_STRING, "bytesmap": _Field.TYPE_BYTES}


class Messages:
    """The messages of a package. ``table``: by name the fields, ``[repeated] TYPE NAME=NUMBER, …``.

    A ``map`` is of strings to strings, a ``bytesmap`` of strings to bytes. With ``presence`` a scalar that is sent
    with its zero is another thing than one that is not sent.
    """

    def __init__(self, package: str, table: Mapping[str, str], *, presence: bool = False) -> None:
        self._package = package
        syntax = "proto2" if presence else "proto3"
        file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax=syntax)
        for name, fields in table.items():
            described = file.message_type.add(name=name)
            for field in filter(None, fields.split(", ")):
                self._describe(described, field)
        self._pool = descriptor_pool.DescriptorPool()
        self._pool.Add(file)

    def __call__(self, name: str) -> Any:
        """The class of a message. Raises KeyError for one that is not in the table."""
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(f"{self._package}.{name}"))

    def _describe(self, described: descriptor_pb2.DescriptorProto, text: str) -> None:
        *kinds, named = text.split(" ")
        name, number = named.split("=")
        field = described.field.add(name=name, number=int(number), label=_Field.LABEL_OPTIONAL)
        kind = kinds[-1]
        if kind in _MAPS:
            # What protoc makes of map<string, …>: repeated entries of a key and a value.
            value = _MAPS[kind]
            kind, kinds = described.name + "." + name.title().replace("_", "") + "Entry", ["repeated"]
            entry = described.nested_type.add(name=kind.partition(".")[2])
            entry.options.map_entry = True
            for place, (part, scalar) in enumerate((("key", _Field.TYPE_STRING), ("value", value)), start=1):
                entry.field.add(name=part, number=place, label=_Field.LABEL_OPTIONAL, type=scalar)
        if kinds[0] == "repeated":
            field.label = _Field.LABEL_REPEATED
        if kind in _SCALARS:
            field.type = _SCALARS[kind]
        else:
            field.type, field.type_name = _Field.TYPE_MESSAGE, f".{self._package}.{kind}"
