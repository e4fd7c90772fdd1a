"""Bytes of records: fixed, read across versions, and never trusted."""

from __future__ import annotations

import types
import typing
from functools import cache
from typing import Any, get_args, get_origin

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.core import records
from fanout.core.errors import RecordError
from fanout.core.records import (
    HEADER_BYTES,
    Announce,
    Attach,
    Attached,
    Audience,
    Budget,
    Chunk,
    Detach,
    Entry,
    Header,
    Joined,
    Merge,
    Message,
    Moderation,
    Parked,
    PolicyChange,
    RawRoomBatch,
    RoomBatch,
    RoomReport,
    Tick,
    body,
    decode_body,
    encode,
    encode_body,
    header,
)

STRUCTS = [
    *(Merge, Audience, Message, Attach, RoomReport, Detach, Announce, Budget, PolicyChange, Tick, Moderation, Joined),
    *(Entry, Attached, RoomBatch, Chunk),
]
bodies = pytest.mark.parametrize("of", STRUCTS, ids=lambda of: of.__name__)
texts = st.text(max_size=8)
uint8s = st.integers(0, 255)


@cache
def structs(of: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(of, vars(records))
    return st.builds(of, **{name: values(hint) for name, hint in hints.items()})


def values(hint: Any) -> st.SearchStrategy[Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is types.UnionType:
        return st.none() | values(arguments[0])
    if origin is list:
        return st.lists(values(arguments[0]), max_size=3)
    if origin is tuple:
        return st.tuples(*map(values, arguments))
    if origin is dict:
        return st.dictionaries(texts, values(arguments[1]), max_size=3)
    if issubclass(hint, msgspec.Struct):
        return structs(hint)
    plain: dict[Any, st.SearchStrategy[Any]] = {
        int: st.integers(-(2**63), 2**64 - 1),
        float: st.floats(allow_nan=False),
        str: texts,
        bytes: st.binary(max_size=20),
    }
    return plain[hint]


# --- header ----------------------------------------------------------------------------------------------------------


def test_the_bytes_of_a_record_are_fixed() -> None:
    record = encode(records.MESSAGE, Message(b"{}"), priority=2, flags=records.KEYED | records.BINARY, id=2**62 + 1)
    assert record[:HEADER_BYTES].hex() == "01010211" + "4000000000000001"
    assert record[HEADER_BYTES:].hex() == "9a" + "c4027b7d" + "a0a00000" + "00a0c0c0c0"


@given(kind=uint8s, priority=uint8s, flags=uint8s, id=st.integers(0, 2**64 - 1), message=structs(Message))
def test_header_and_body_go_there_and_back(kind: int, priority: int, flags: int, id: int, message: Message) -> None:
    record = encode(kind, message, priority=priority, flags=flags, id=id)
    assert header(record) == Header(records.VERSION, kind, priority, flags, id)
    assert body(record, Message) == message


def test_kinds_are_apart_and_flags_are_single_bits() -> None:
    kinds = [records.MESSAGE, records.ATTACH, records.DETACH, records.ANNOUNCE, records.BUDGET, records.TICK]
    kinds += [records.MODERATION, records.POLICY, records.JOINED, records.TASK, records.CHUNK]
    assert len(set(kinds)) == len(kinds)
    flags = [records.KEYED, records.AUDIENCE, records.MERGE, records.TRACKED, records.BINARY]
    assert flags == [1 << bit for bit in range(len(flags))]


def test_a_foreign_record_is_told_from_ours_by_its_first_byte() -> None:
    assert records.VERSION != records.FOREIGN_FIRST_BYTE == b"{"[0]


@pytest.mark.parametrize("length", range(HEADER_BYTES))
def test_a_header_cut_short_is_a_record_error(length: int) -> None:
    with pytest.raises(RecordError) as error:
        header(encode(records.TICK, Attach(1, 2, 3))[:length])
    assert error.value.reason == "short_header"


@pytest.mark.parametrize("version", [0, 2, ord("{"), 255])
def test_another_version_is_a_record_error(version: int) -> None:
    with pytest.raises(RecordError) as error:
        header(bytes([version]) + bytes(HEADER_BYTES - 1))
    assert error.value.reason == "unknown_version"


# --- bodies ----------------------------------------------------------------------------------------------------------


def test_every_body_is_an_array_and_is_tested_here() -> None:
    declared = {
        value for value in vars(records).values() if isinstance(value, type) and issubclass(value, msgspec.Struct)
    }
    assert declared - {msgspec.Struct, Parked, RawRoomBatch} == set(STRUCTS)
    assert all(of.__struct_config__.array_like for of in STRUCTS)


@bodies
@given(data=st.data())
def test_every_body_goes_there_and_back(of: type[msgspec.Struct], data: st.DataObject) -> None:
    struct = data.draw(structs(of))
    assert decode_body(encode_body(struct), of) == struct
    assert body(encode(7, struct), of) == struct


@bodies
@given(data=st.data())
def test_places_of_a_newer_version_are_ignored(of: type[msgspec.Struct], data: st.DataObject) -> None:
    struct = data.draw(structs(of))
    places = msgspec.msgpack.decode(encode_body(struct))
    newer = msgspec.msgpack.encode([*places, *data.draw(st.lists(st.none() | st.integers(0, 9) | texts, max_size=3))])
    assert decode_body(newer, of) == struct


@bodies
@given(data=st.data())
def test_places_missing_from_an_older_version_get_their_default(of: type[msgspec.Struct], data: st.DataObject) -> None:
    struct = data.draw(structs(of))
    fields = msgspec.structs.fields(of)
    places = msgspec.msgpack.decode(encode_body(struct))
    required = sum(field.required for field in fields)
    kept = data.draw(st.integers(required, len(fields)))
    older = decode_body(msgspec.msgpack.encode(places[:kept]), of)
    for place, field in enumerate(fields):
        default = field.default_factory() if field.default is msgspec.NODEFAULT and place >= required else field.default
        assert getattr(older, field.name) == (getattr(struct, field.name) if place < kept else default)


@bodies
@given(data=st.data())
def test_a_body_without_a_required_place_is_a_record_error(of: type[msgspec.Struct], data: st.DataObject) -> None:
    required = sum(field.required for field in msgspec.structs.fields(of))
    places = msgspec.msgpack.decode(encode_body(data.draw(structs(of))))
    for kept in range(required):
        undecodable(msgspec.msgpack.encode(places[:kept]), of)


@bodies
@given(data=st.data())
def test_every_prefix_of_a_body_is_a_record_error(of: type[msgspec.Struct], data: st.DataObject) -> None:
    encoded = encode_body(data.draw(structs(of)))
    for length in range(len(encoded)):
        undecodable(encoded[:length], of)


@bodies
@given(data=st.data())
def test_other_bytes_are_read_or_a_record_error(of: type[msgspec.Struct], data: st.DataObject) -> None:
    encoded = bytearray(encode_body(data.draw(structs(of))))
    for _ in range(data.draw(st.integers(1, 3))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(uint8s)
    try:
        decode_body(bytes(encoded), of)
    except RecordError as error:
        assert error.reason == "undecodable"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x90",  # no places
        b"\x80",  # a map
        b"\xc0",  # nil
        b"\x91\xa1a",  # text for bytes
        b"\x92\xc4\x01a\xa1\xff",  # a sender that is no UTF-8
        b"\xdd\xff\xff\xff\xff",  # an array of 2**32 - 1 places that are not there
        b"\xc6\xff\xff\xff\xff",  # bytes that are not there
        b"\x91" * 100_000,  # nested beyond the stack
        b"\x9b" + encode_body(Message(b""))[1:] + b"\x91" * 100_000,  # the same in a place that is not known
        b"\x91\xc4\x00\x00",  # something behind the body
    ],
)
def test_hostile_bodies_are_record_errors(value: bytes) -> None:
    undecodable(value, Message)


def undecodable(value: bytes, of: type[msgspec.Struct]) -> None:
    with pytest.raises(RecordError) as error:
        decode_body(value, of)
    assert error.value.reason == "undecodable"
    assert of.__name__ in error.value.detail
    with pytest.raises(RecordError):
        body(bytes(HEADER_BYTES) + value, of)


@given(structs(RoomBatch))
def test_a_batch_of_encoded_entries_has_the_bytes_of_one_of_structs(batch: RoomBatch) -> None:
    entries = [msgspec.Raw(encode_body(entry)) for entry in batch.entries]
    values_ = {name: getattr(batch, name) for name in RawRoomBatch.__struct_fields__} | {"entries": entries}
    assert encode_body(RawRoomBatch(**values_)) == encode_body(batch)


def test_a_parked_record_is_json_for_people() -> None:
    parked = Parked("wrong_partition", "3, not 4", "messages", 3, 7, 1, "dev/live:1", b"\x00\xff")
    assert msgspec.json.decode(msgspec.json.encode(parked), type=Parked) == parked
