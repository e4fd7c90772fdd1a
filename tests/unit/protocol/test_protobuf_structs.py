"""Structs, our schema and the public schema say the same."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from google.protobuf.descriptor import FieldDescriptor

from fanout.core.errors import ProtocolError
from fanout.protocol import centrifuge, client_pb2
from fanout.protocol.centrifuge import (
    DEPTH_MAX,
    ClientInfo,
    Command,
    FilterNode,
    HistoryRequest,
    PresenceResult,
    Publication,
    Push,
    Reply,
    SubscribeRequest,
    SubscribeResult,
    UnsubscribeResult,
    raw_of,
)
from fanout.protocol.protobuf_structs import COMMAND, REPLY, Plan

MESSAGES = client_pb2.DESCRIPTOR.message_types_by_name
NAMES = sorted(MESSAGES)


def there_and_back(plan: Plan, struct: Command | Reply) -> Command | Reply:
    message = getattr(client_pb2, type(struct).__name__)()
    plan.write(struct, message)
    parsed = type(message).FromString(message.SerializeToString())
    read: Command | Reply = plan.read(parsed, 0)
    return read


@pytest.mark.parametrize("name", NAMES)
def test_every_message_has_a_struct_with_the_same_fields(name: str) -> None:
    struct = getattr(centrifuge, name)
    assert {field.name for field in MESSAGES[name].fields} == set(struct.__struct_fields__)


@pytest.mark.parametrize("name", NAMES)
def test_the_zero_value_of_a_field_is_the_default_of_the_struct(name: str) -> None:
    empty = getattr(client_pb2, name)()
    for field in msgspec.structs.fields(getattr(centrifuge, name)):
        default = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
        zero = getattr(empty, field.name)
        if isinstance(default, str | int | bool):
            assert zero == default
            assert type(zero) is type(default)
        elif isinstance(default, msgspec.Raw):
            assert zero == bytes(default)
        else:
            assert default is None or not default


@pytest.mark.parametrize("name", NAMES)
def test_numbers_and_types_are_those_of_the_public_schema(name: str) -> None:
    public = pytest.importorskip("centrifuge.protocol.client_pb2").DESCRIPTOR.message_types_by_name[name]
    for field in MESSAGES[name].fields:
        theirs = public.fields_by_name.get(field.name)
        if theirs is None:  # younger than the SDK's copy of the schema
            assert (name, field.name) in {("SubscribeRequest", "tf"), ("SubscribeRequest", "flag")}
            continue
        assert shape(field) == shape(theirs)


def shape(field: Any) -> tuple[int, int, bool, str | None]:
    inner = field.message_type.name if field.type == FieldDescriptor.TYPE_MESSAGE else None
    return field.number, field.type, field.is_repeated, inner


def test_parts_lists_and_maps_go_there_and_back() -> None:
    info = ClientInfo("bob", "c1", raw_of(b"{}"))
    filters = FilterNode("and", vals=["", "x"], nodes=[FilterNode(), FilterNode(key="k")])
    for reply in (
        Reply(1, presence=PresenceResult({"": info, "c2": ClientInfo()})),
        Reply(1, subscribe=SubscribeResult(publications=[Publication(), Publication(tags={"a": ""}, info=info)])),
        Reply(1, unsubscribe=UnsubscribeResult()),
        Reply(push=Push(id=-1)),
    ):
        assert there_and_back(REPLY, reply) == reply
    for command in (
        Command(1, subscribe=SubscribeRequest("a", tf=filters)),
        Command(1, history=HistoryRequest("a", -1)),
    ):
        assert there_and_back(COMMAND, command) == command


def test_an_empty_part_is_there_and_an_absent_one_is_not() -> None:
    message = client_pb2.Reply()
    REPLY.write(Reply(1, unsubscribe=UnsubscribeResult()), message)
    assert message.HasField("unsubscribe")
    assert not message.HasField("publish")


def test_reading_stops_at_the_depth_bound() -> None:
    with pytest.raises(ProtocolError, match="deeper"):
        COMMAND.read(client_pb2.Command(id=1), DEPTH_MAX + 1)


@pytest.mark.parametrize(("offset", "good"), [(2**63 - 1, True), (2**63, False)])
def test_offsets_have_63_bits(offset: int, good: bool) -> None:
    message = client_pb2.Command(subscribe=client_pb2.SubscribeRequest(offset=offset))
    if good:
        assert COMMAND.read(message, 0) == Command(subscribe=SubscribeRequest(offset=offset))
    else:
        with pytest.raises(ProtocolError, match="63 bits"):
            COMMAND.read(message, 0)
