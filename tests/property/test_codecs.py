"""Codecs there and back, hostile bytes, and fast paths against the plain ones."""

from __future__ import annotations

import json
import types
import typing
from functools import cache
from typing import Annotated, Any, get_args, get_origin

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.core.errors import ProtocolError
from fanout.core.records import Entry
from fanout.protocol import centrifuge
from fanout.protocol.centrifuge import (
    DEPTH_MAX,
    METHODS,
    Command,
    FilterNode,
    Malformed,
    Push,
    Reply,
    WireFormat,
    checked,
    publication_of,
    raw_of,
)
from fanout.protocol.codecs import CODECS, Codec

JSON, PROTOBUF = CODECS[WireFormat.JSON], CODECS[WireFormat.PROTOBUF]
codecs = pytest.mark.parametrize("codec", CODECS.values(), ids=lambda codec: codec.wire_format.value)

texts = st.text(max_size=12)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
payloads = json_values.map(msgspec.json.encode)
filters = st.recursive(
    st.builds(FilterNode, key=texts, vals=st.lists(texts, max_size=2)),
    lambda inner: st.builds(FilterNode, op=texts, nodes=st.lists(inner, max_size=2)),
    max_leaves=4,
)


@cache
def structs(of: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """Return values of a protocol struct, within the ranges that its annotations declare."""
    hints = typing.get_type_hints(of, vars(centrifuge), include_extras=True)
    return st.builds(of, **{name: values(hint) for name, hint in hints.items()})


def values(hint: Any) -> st.SearchStrategy[Any]:  # noqa: PLR0911 - a case per type
    if hint is FilterNode:
        return filters
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return st.integers(hint.__metadata__[0].ge, hint.__metadata__[0].le)
    if origin is types.UnionType:
        return st.none() | values(arguments[0])
    if origin is list:
        return st.lists(values(arguments[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(texts, values(arguments[1]), max_size=3)
    if hint is msgspec.Raw:
        return (st.just(b"") | payloads).map(raw_of)
    if issubclass(hint, msgspec.Struct):
        return structs(hint)
    return st.booleans() if hint is bool else texts


@st.composite
def commands(draw: st.DrawFn) -> Command:
    method = draw(st.sampled_from(METHODS))
    hints = typing.get_type_hints(Command, vars(centrifuge), include_extras=True)
    request = draw(values(get_args(hints[method])[0]))
    return Command(draw(st.integers(1, 2**32 - 1)), **{method: request})


@st.composite
def entries(draw: st.DrawFn, data: st.SearchStrategy[bytes]) -> Entry:
    return Entry(
        offset=draw(st.integers(1, 2**53)),
        part=0,
        kind=draw(st.integers(0, 2)),
        priority=2,
        prev=0,
        n=0,
        id=draw(st.integers(0, 2**63 - 1)),
        at_ms=0,
        sent_ms=0,
        data=draw(data),
        sender=draw(texts),
        tags=draw(st.none() | st.dictionaries(texts, texts, max_size=3)),
    )


@codecs
@given(data=st.data())
def test_commands_go_there_and_back(codec: Codec, data: st.DataObject) -> None:
    given_ = data.draw(st.lists(commands(), min_size=1, max_size=4))
    assert codec.decode_commands(codec.join(map(codec.encode_command, given_))) == given_


@codecs
@given(data=st.data())
def test_replies_go_there_and_back(codec: Codec, data: st.DataObject) -> None:
    given_ = data.draw(st.lists(structs(Reply), min_size=1, max_size=3))
    assert codec.decode_replies(codec.join(map(codec.encode_reply, given_))) == given_


@codecs
@given(data=st.data())
def test_no_bytes_make_decoding_raise_and_what_is_read_obeys_the_rules(codec: Codec, data: st.DataObject) -> None:
    frame = data.draw(st.binary(max_size=200))
    for found in codec.decode_commands(frame):
        assert isinstance(found, Malformed) or checked(found) is found


@codecs
@given(data=st.data())
def test_mutated_commands_never_make_decoding_raise(codec: Codec, data: st.DataObject) -> None:
    frame = data.draw(mutated(codec.join(map(codec.encode_command, data.draw(st.lists(commands(), max_size=3))))))
    for found in codec.decode_commands(frame):
        assert isinstance(found, Malformed) or checked(found) is found
        if isinstance(found, Command):  # what was read can be written, and reads the same
            assert codec.decode_commands(codec.encode_command(found)) == [found]


@codecs
@given(data=st.data())
def test_mutated_replies_are_read_or_raise_the_declared_error(codec: Codec, data: st.DataObject) -> None:
    frame = data.draw(mutated(codec.join(map(codec.encode_reply, data.draw(st.lists(structs(Reply), max_size=2))))))
    try:
        codec.decode_replies(frame)
    except ProtocolError:
        return


@st.composite
def mutated(draw: st.DrawFn, frame: bytes) -> bytes:
    """Return bytes with a few places cut out, overwritten or doubled."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(frame)))
        end = min(len(frame), start + draw(st.integers(0, 8)))
        piece = draw(
            st.binary(max_size=4) | st.just(frame[start:end] * 2) | st.sampled_from([b'"', b"{", b"\n", b"\\"])
        )
        frame = frame[:start] + piece + frame[end:]
    return frame


@codecs
@given(data=st.data(), room=texts.filter(bool), id_tag=st.booleans())
def test_a_push_made_by_hand_equals_the_encoded_struct(
    codec: Codec, data: st.DataObject, room: str, id_tag: bool
) -> None:
    entry = data.draw(entries(payloads if codec is JSON else st.binary(max_size=300)))
    pub = publication_of(entry, id_tag=id_tag)
    push = codec.encode_publication_push(codec.push_prefix(room), entry, id_tag=id_tag)
    assert codec.decode_replies(push) == [Reply(push=Push(channel=room, pub=pub))]
    if codec is JSON or len(pub.tags) < 2:  # the order of a Protobuf map is anybody's
        assert push == codec.encode_reply(Reply(push=Push(channel=room, pub=pub)))


@given(st.data())
def test_json_commands_never_hold_a_newline(data: st.DataObject) -> None:
    assert b"\n" not in JSON.encode_command(data.draw(commands()))


@given(json_values)
def test_depth_is_that_of_the_parsed_payload(value: object) -> None:
    for _ in range(DEPTH_MAX - 2 - depth_of(value)):
        value = [value, "]}"]
    for levels, good in ((value, True), ([value], False)):
        frame = b'{"id":1,"publish":{"data":%b}}' % msgspec.json.encode(levels)
        assert isinstance(JSON.decode_commands(frame)[0], Command) is good


def depth_of(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


raw_keys = st.sampled_from(["channel", "chann\\u0065l", "token", "x", "data", '\\"', "\\u0022", "a:"])
raw_objects = st.recursive(
    st.sampled_from(["1", '"x"', '"\\"x\\":"', "[]", "{}"]),
    lambda inner: (
        st.lists(st.tuples(raw_keys, st.sampled_from([":", " : "]), inner), max_size=4).map(
            lambda items: "{" + ",".join(f'"{key}"{colon}{value}' for key, colon, value in items) + "}"
        )
        | st.lists(inner, max_size=2).map(lambda items: "[" + ",".join(items) + "]")
    ),
    max_leaves=12,
)


@given(raw_objects, st.sampled_from(["later", "data"]), st.booleans())
def test_keys_given_twice_are_found_exactly_where_a_parser_finds_them(value: str, key: str, long: bool) -> None:
    pad = "x" * 300 if long else ""
    frame = f'{{"id":1,"rpc":{{"{key}":{value},"method":"{pad}"}}}}'
    (found,) = JSON.decode_commands(frame.encode())
    assert isinstance(found, Malformed) is repeats(frame)


def repeats(text: str) -> bool:
    """Say whether an object outside of payloads has a key twice, by the standard library's parser."""

    def look(pairs: list[tuple[str, Any]]) -> tuple[str, bool]:
        keys = [key for key, _ in pairs]
        inner = any(dirty(value) for key, value in pairs if key != "data")
        return "object", inner or len(set(keys)) < len(keys)

    def dirty(value: Any) -> bool:
        if isinstance(value, list):
            return any(map(dirty, value))
        return bool(isinstance(value, tuple) and value[1])

    return dirty(json.loads(text, object_pairs_hook=look))
