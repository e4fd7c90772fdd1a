"""Between the generated Protobuf classes and the structs of ``centrifuge``: one plan per message, made from the schema.

Messages and fields have the same names on both sides, so the descriptors say all there is to say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message as Generated

from fanout.core.errors import ProtocolError
from fanout.protocol import centrifuge, client_pb2
from fanout.protocol.centrifuge import DEPTH_MAX

_OFFSET_MAX: Final = 2**63 - 1

_Reader = Callable[[Any, int], Any]  # (value in the message, depth) → value in the struct
_Writer = Callable[[Any, Any], None]  # (message, value in the struct)


class Plan:
    """How the fields of one message become those of its struct, and back."""

    __slots__ = ("_readers", "_struct", "_writers")

    def __init__(self, struct: type[msgspec.Struct], fields: list[Any]) -> None:
        """``fields`` are the descriptors; a field whose message is already being planned finds this plan by name."""
        self._struct = struct
        self._readers: dict[str, _Reader | None] = {}
        self._writers: list[tuple[str, Any, _Writer]] = []
        _PLANS[struct.__name__] = self
        defaults = {field.name: _default_of(field) for field in msgspec.structs.fields(struct)}
        for field in fields:
            self._readers[field.name], writer = _ways(field)
            self._writers.append((field.name, defaults[field.name], writer))

    def read(self, message: Generated, depth: int) -> Any:
        """Return the struct of a parsed message; raises ProtocolError for depth and for offsets above 63 bits."""
        if depth > DEPTH_MAX:
            raise ProtocolError(f"nested deeper than {DEPTH_MAX}")
        values = {}
        for field, value in message.ListFields():
            reader = self._readers[field.name]
            values[field.name] = value if reader is None else reader(value, depth + 1)
        return self._struct(**values)

    def write(self, struct: Any, message: Any) -> None:
        """Set the fields of a fresh message; values are within the ranges that the struct declares."""
        for name, default, writer in self._writers:
            value = getattr(struct, name)
            if value is not default and value != default:
                writer(message, value)


_PLANS: Final[dict[str, Plan]] = {}


def _default_of(field: msgspec.structs.FieldInfo) -> Any:
    return field.default_factory() if field.default is msgspec.NODEFAULT else field.default


def _plan_of(name: str) -> Plan:
    known = _PLANS.get(name)
    return known or Plan(getattr(centrifuge, name), getattr(client_pb2, name).DESCRIPTOR.fields)


def _ways(field: Any) -> tuple[_Reader | None, _Writer]:
    """Return (reader, writer) of a field descriptor; no reader = the value as it is."""
    name = field.name
    if field.message_type is None:
        if field.is_repeated:
            return (lambda items, _: list(items)), lambda message, items: getattr(message, name).extend(items)
        if field.type == FieldDescriptor.TYPE_BYTES:
            return (lambda data, _: msgspec.Raw(data)), lambda message, raw: setattr(message, name, bytes(raw))
        reader = _offset if field.type == FieldDescriptor.TYPE_UINT64 else None
        return reader, lambda message, value: setattr(message, name, value)
    if field.message_type.GetOptions().map_entry:
        return _map_ways(name, field.message_type.fields_by_name["value"].message_type)
    plan = _plan_of(field.message_type.name)
    return _list_ways(name, plan) if field.is_repeated else _part_ways(name, plan)


def _part_ways(name: str, plan: Plan) -> tuple[_Reader, _Writer]:
    def write(message: Any, value: Any) -> None:
        part = getattr(message, name)
        part.SetInParent()  # an empty result is there all the same
        plan.write(value, part)

    return plan.read, write


def _list_ways(name: str, plan: Plan) -> tuple[_Reader, _Writer]:
    def write(message: Any, items: Any) -> None:
        parts = getattr(message, name)
        for item in items:
            plan.write(item, parts.add())

    return (lambda items, depth: [plan.read(item, depth) for item in items]), write


def _map_ways(name: str, value: Any) -> tuple[_Reader, _Writer]:
    if value is None:
        return (lambda items, _: dict(items)), lambda message, items: getattr(message, name).update(items)
    plan = _plan_of(value.name)

    def write(message: Any, items: Any) -> None:
        parts = getattr(message, name)
        for key, item in items.items():
            plan.write(item, parts[key])  # reading a key of a map of messages adds it

    return (lambda items, depth: {key: plan.read(item, depth) for key, item in items.items()}), write


def _offset(value: int, _depth: int) -> int:
    if value > _OFFSET_MAX:
        raise ProtocolError("an offset has at most 63 bits")
    return value


COMMAND: Final = _plan_of("Command")
REPLY: Final = _plan_of("Reply")
