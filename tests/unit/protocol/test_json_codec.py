"""JSON on the wire: what SDKs send and expect, and everything a client can get wrong."""

from __future__ import annotations

import time

import msgspec
import pytest

from fanout.core.errors import ProtocolError
from fanout.core.limits import CLIENT_MESSAGE_BYTES_MAX, FRAME_COMMANDS_MAX
from fanout.core.messages import Kind
from fanout.core.records import BINARY, Entry
from fanout.protocol import json_codec
from fanout.protocol.centrifuge import (
    Command,
    ConnectRequest,
    ConnectResult,
    Disconnect,
    Error,
    Malformed,
    PublishRequest,
    Push,
    Reply,
    RPCResult,
    SubscribeRequest,
    Unsubscribe,
    UnsubscribeRequest,
    UnsubscribeResult,
    WireFormat,
    publication_of,
    raw_of,
)
from fanout.protocol.codecs import CODECS
from fanout.protocol.json_codec import (
    decode_commands,
    decode_replies,
    encode_command,
    encode_publication_push,
    encode_reply,
    join,
    push_prefix,
    representable,
)


def malformed(frame: bytes) -> Malformed:
    """Return the only thing in a frame, which must be malformed."""
    (found,) = decode_commands(frame)
    assert isinstance(found, Malformed), found
    return found


def publish(payload: bytes) -> bytes:
    return b'{"id":1,"publish":{"channel":"live:1","data":%b}}' % payload


def entry(**changes: object) -> Entry:
    values: dict[str, object] = {"offset": 44, "part": 0, "kind": 0, "priority": 2, "prev": 41, "n": 3, "id": 2**62}
    values |= {"at_ms": 0, "sent_ms": 0, "data": b'{"t":1}'} | changes
    return Entry(**values)  # type: ignore[arg-type]


# --- commands --------------------------------------------------------------------------------------------------------


def test_a_frame_of_several_commands_is_read_in_order() -> None:
    frame = b'{"id":1,"connect":{"token":"t","name":"js"}}\n{"id":2,"subscribe":{"channel":"live:1"}}\n{}'
    assert decode_commands(frame) == [
        Command(1, connect=ConnectRequest(token="t", name="js")),
        Command(2, subscribe=SubscribeRequest(channel="live:1")),
        Command(),
    ]


def test_an_empty_object_is_a_pong_also_with_spaces() -> None:
    assert decode_commands(b"{}") == [Command()]
    assert decode_commands(b" { } ") == [Command()]


def test_blank_lines_and_line_ends_of_any_system_are_skipped() -> None:
    assert decode_commands(b"\n{}\r\n\r\n \n{}\n") == [Command(), Command()]


def test_unknown_fields_of_later_protocol_versions_are_ignored() -> None:
    frame = b'{"id":1,"subscribe":{"channel":"a","phase":2,"x":[{"y":null}]},"later":true}'
    assert decode_commands(frame) == [Command(1, subscribe=SubscribeRequest(channel="a"))]


def test_a_payload_passes_through_as_the_bytes_that_were_sent() -> None:
    payload = b'{"a" : 1.50, "a":2, "big":12345678901234567890123, "u":"\\u00e9\xc3\xa9"}'
    (command,) = decode_commands(publish(payload))
    assert command == Command(1, publish=PublishRequest("live:1", raw_of(payload)))


def test_one_command_printed_over_several_lines_is_put_on_one() -> None:
    frame = b'{\n  "id": 1,\r\n  "publish": {"channel": "live:1", "data": {"a":\n 1}}\n}\n'
    assert decode_commands(frame) == [Command(1, publish=PublishRequest("live:1", raw_of(b'{"a":1}')))]


def test_a_raw_newline_inside_a_string_is_malformed_and_never_splits_a_payload() -> None:
    assert all(isinstance(found, Malformed) for found in decode_commands(publish(b'"a\nb"')))


def test_a_newline_that_smuggles_a_second_command_into_a_payload_gives_none() -> None:
    frame = publish(b'"a\n{"id":2,"unsubscribe":{"channel":"live:1"}}\n"')
    found = decode_commands(frame)
    assert isinstance(found[0], Malformed)
    assert isinstance(found[2], Malformed)


def test_a_good_command_beside_a_malformed_one_is_still_read() -> None:
    found = decode_commands(b'{"id":1,"unsubscribe":{"channel":"a"}}\n{"id":2,"unsubscribe":{"channel":1}}')
    assert found[0] == Command(1, unsubscribe=UnsubscribeRequest("a"))
    assert isinstance(found[1], Malformed)
    assert found[1].id == 2


@pytest.mark.parametrize("frame", [b"", b"\n", b" \n\t\n"])
def test_an_empty_frame_is_malformed(frame: bytes) -> None:
    assert malformed(frame).detail == "an empty frame"


@pytest.mark.parametrize(
    "frame",
    [
        b"[]",
        b"null",
        b"{",
        b'{"id":1}}',
        b"\x00",
        b"\xef\xbb\xbf{}",
        b'{"id":1,"connect":[]}',
        b'{"id":"1","connect":{}}',
        b'{"id":1.5,"connect":{}}',
        b'{"id":true,"connect":{}}',
        b'{"id":null,"connect":{}}',
        b'{"id":-1,"connect":{}}',
        b'{"id":4294967296,"connect":{}}',
        b'{"id":%b,"connect":{}}' % (b"9" * 10_000),
        b'{"id":1e999,"connect":{}}',
        b'{"id":1,"connect":{"token":7}}',
        b'{"id":1,"connect":{"subs":{"a":1}}}',
        b'{"id":1,"connect":{"subs":[]}}',
        b'{"id":1,"connect":{"headers":{"a":1}}}',
        b'{"id":1,"subscribe":{"offset":-1}}',
        b'{"id":1,"subscribe":{"offset":9223372036854775808}}',
        b'{"id":1,"subscribe":{"offset":NaN}}',
        b'{"id":1,"subscribe":{"recover":1}}',
        b'{"id":1,"subscribe":{"channel":"\\ud800"}}',
        b'{"id":1,"history":{"limit":2147483648}}',
    ],
)
def test_what_is_no_command_is_malformed(frame: bytes) -> None:
    malformed(frame)


@pytest.mark.parametrize(
    "payload",
    [
        b"NaN",
        b"Infinity",
        b"-",
        b"01",
        b"1.",
        b"1e",
        b"nul",
        b"",
        b"[1,]",
        b"{1:2}",
        b'{"a":}',
        b'["a" "b"]',
        b'"\\q"',
        b'"\\u12"',
        b'"\x01"',
        b"'a'",
        b"undefined",
        b"1}}{",
    ],
)
def test_a_payload_that_is_no_json_is_malformed(payload: bytes) -> None:
    malformed(publish(payload))


@pytest.mark.parametrize("payload", [b'"\xff"', b'"\xc0\x80"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"', b'"\xc3"'])
def test_a_payload_that_is_no_utf8_is_malformed(payload: bytes) -> None:
    assert malformed(publish(payload)).detail == "a text frame is UTF-8"


def test_a_wrong_field_keeps_the_id_so_that_it_can_be_answered() -> None:
    assert malformed(b'{"id":7,"subscribe":{"channel":5}}').id == 7
    assert malformed(b'{"subscribe":{"channel":5},"id":7}').id == 7


def test_bytes_that_are_no_json_have_no_id() -> None:
    assert malformed(b'{"id":7,"subscribe":{"channel":5}').id == 0
    assert malformed(b'{"id":-7,"subscribe":{}}').id == 0


@pytest.mark.parametrize("frame", [b'{"id":7}', b'{"id":7,"later":{}}', b'{"id":7,"ping":{},"connect":{}}'])
def test_no_request_or_two_are_malformed(frame: bytes) -> None:
    assert malformed(frame).id == 7


def test_more_commands_than_a_frame_may_hold_are_refused_together() -> None:
    assert len(decode_commands(b"\n".join([b"{}"] * FRAME_COMMANDS_MAX))) == FRAME_COMMANDS_MAX
    assert str(FRAME_COMMANDS_MAX) in malformed(b"\n".join([b"{}"] * (FRAME_COMMANDS_MAX + 1))).detail


# --- depth -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "good"), [(30, True), (31, False)])
@pytest.mark.parametrize(("left", "right"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_a_command_is_nested_at_most_32_deep_with_its_payload(
    depth: int, good: bool, left: bytes, right: bytes
) -> None:
    (found,) = decode_commands(publish(left * depth + b"0" + right * depth))  # two levels are the command's own
    assert isinstance(found, Command) is good


def test_many_flat_objects_are_not_deep() -> None:
    assert isinstance(decode_commands(publish(b"[" + b",".join([b'{"a":[]}'] * 500) + b"]"))[0], Command)


def test_brackets_inside_strings_are_not_depth() -> None:
    assert isinstance(decode_commands(publish(b'"' + b'[{\\"' * 500 + b'"'))[0], Command)


@pytest.mark.parametrize("depth", [1_000, 20_000, 1_000_000])
def test_nesting_that_would_exhaust_the_stack_is_malformed(depth: int) -> None:
    assert "deeper" in malformed(publish(b"[" * depth + b"]" * depth)).detail
    assert "deeper" in malformed(b'{"id":1,"x":' + b'{"":' * depth + b"0" + b"}" * depth + b"}").detail
    assert isinstance(malformed(b"[" * depth), Malformed)


def test_deep_nesting_behind_a_wrong_field_or_over_lines_is_malformed() -> None:
    deep = b"[" * 5_000 + b"]" * 5_000
    assert malformed(b'{"id":1,"connect":7,"x":%b}' % deep).id == 0
    assert all(isinstance(found, Malformed) for found in decode_commands(b'{"id":1,\n"x":%b}' % deep))


# --- keys given twice ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [
        b'{"id":1,"id":2,"ping":{}}',
        b'{"id":1,"publish":{"channel":"a","channel":"b","data":1}}',
        b'{"id":1,"publish":{"data":1,"data":2}}',
        b'{"id":1,"publish":{"channel" :"a","chann\\u0065l"\t:"b","data":1}}',
        b'{"id":1,"connect":{"subs":{"a":{"offset":1},"a":{"offset":2}}}}',
        b'{"id":1,"connect":{"headers":{"x":"1","x":"2"}}}',
        b'{"id":1,"ping":{},"later":[{"x":1,"x":2}]}',
        b'{"id":1,"publish":{"channel":"a","data":"%b","channel":"b"}}' % (b"x" * 1_000),
        b'{"id":1,"publish":{"channel":"a","data":{"x":[1,2]},"channel":"b"}}',
    ],
)
def test_a_key_given_twice_is_malformed(frame: bytes) -> None:
    assert malformed(frame).detail == "a key is given twice"


@pytest.mark.parametrize(
    "frame",
    [
        b'{"id":1,"connect":{"subs":{"a":{"offset":1,"epoch":"e"},"b":{"offset":1,"epoch":"e"}}}}',
        b'{"id":1,"publish":{"channel":"a","data":{"x":1,"x":2,"id":3}}}',
        b'{"id":1,"publish":{"data":{"data":1,"data":[{"x":1,"x":2}]},"channel":"a"}}',
        b'{"id":1,"rpc":{"method":"id","data":"\\"id\\":1,\\"id\\":2"}}',
        b'{"id":1,"publish":{"channel":"a","data":"%b"}}' % (b'\\"id\\":' * 1_000),
        b'{"id":1,"connect":{"token":"%b","data":{"id":1}}}' % (b"x" * 1_000),
    ],
)
def test_equal_keys_in_different_objects_in_payloads_and_in_strings_are_fine(frame: bytes) -> None:
    assert isinstance(decode_commands(frame)[0], Command)


@pytest.mark.parametrize("piece", [b'\\"', b"\\\\", b'"', b'",', b'{"', b"[", b"\\u005c", b'":', b"  "])
def test_no_text_of_the_size_a_client_may_send_takes_long(piece: bytes) -> None:
    times = CLIENT_MESSAGE_BYTES_MAX // len(piece)
    started = time.process_time()
    for payload in (piece * times, b'"' + piece * times + b'"', b'["' + piece * times):
        assert len(decode_commands(publish(payload))) == 1
    assert time.process_time() - started < 0.5  # quadratic scanning would take many seconds


# --- replies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (Reply(), b"{}"),
        (Reply(3, unsubscribe=UnsubscribeResult()), b'{"id":3,"unsubscribe":{}}'),
        (
            Reply(1, connect=ConnectResult(client="c1", ping=25, pong=True)),
            b'{"id":1,"connect":{"client":"c1","ping":25,"pong":true}}',
        ),
        (
            Reply(2, error=Error(100, "internal", True)),
            b'{"id":2,"error":{"code":100,"message":"internal","temporary":true}}',
        ),
        (Reply(4, rpc=RPCResult(raw_of(b'{"a":[1]}'))), b'{"id":4,"rpc":{"data":{"a":[1]}}}'),
        (Reply(4, rpc=RPCResult(raw_of(b""))), b'{"id":4,"rpc":{}}'),
        (
            Reply(push=Push(channel="a", unsubscribe=Unsubscribe(2500, ""))),
            b'{"push":{"channel":"a","unsubscribe":{"code":2500,"reason":""}}}',
        ),
        (
            Reply(push=Push(disconnect=Disconnect(3001))),
            b'{"push":{"disconnect":{"code":3001,"reason":"","reconnect":false}}}',
        ),
    ],
)
def test_replies_are_what_sdks_expect(reply: Reply, text: bytes) -> None:
    assert encode_reply(reply) == text
    assert decode_replies(text) == [reply]


def test_a_reply_is_one_line_whatever_its_payload() -> None:
    assert encode_reply(Reply(4, rpc=RPCResult(raw_of(b'{\n "a": "\\n"\n}')))) == b'{"id":4,"rpc":{"data":{"a":"\\n"}}}'
    assert encode_command(Command(1, publish=PublishRequest("a", raw_of(b"[\n1]")))) == (
        b'{"id":1,"publish":{"channel":"a","data":[1]}}'
    )


@pytest.mark.parametrize("payload", [b"a\nb", b"[" * 5_000 + b"\n" + b"]" * 5_000])
def test_a_payload_that_cannot_be_put_on_one_line_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError, match="no JSON"):
        encode_reply(Reply(4, rpc=RPCResult(raw_of(payload))))


def test_joined_replies_are_lines() -> None:
    frame = join([encode_reply(Reply(1, unsubscribe=UnsubscribeResult())), json_codec.ping])
    assert frame == b'{"id":1,"unsubscribe":{}}\n{}'
    assert decode_replies(frame) == [Reply(1, unsubscribe=UnsubscribeResult()), Reply()]


@pytest.mark.parametrize(
    "frame", [b"x", b"[]", b'{"id":-1}', b'{"push":{"channel":"\xff"}}', b'{"x":' + b"[" * 5_000 + b"]" * 5_000 + b"}"]
)
def test_replies_that_cannot_be_read_raise_the_declared_error(frame: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_replies(frame)


# --- publications ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id_tag", [False, True])
@pytest.mark.parametrize("sender", ["", "bob", 'b"o\\b'])
@pytest.mark.parametrize("tags", [None, {}, {"a": 'b"', "c": "d"}])
@pytest.mark.parametrize("kind", list(Kind))
def test_a_push_made_by_hand_equals_the_encoded_struct(
    id_tag: bool, sender: str, tags: dict[str, str] | None, kind: Kind
) -> None:
    one = entry(sender=sender, tags=tags, kind=kind.value)
    whole = encode_reply(Reply(push=Push(channel="live:1", pub=publication_of(one, id_tag=id_tag))))
    assert encode_publication_push(push_prefix("live:1"), one, id_tag=id_tag) == whole


def test_a_room_name_is_escaped_in_the_prefix() -> None:
    push = encode_publication_push(push_prefix('a"\n'), entry(), id_tag=False)
    assert decode_replies(push)[0].push == Push(channel='a"\n', pub=publication_of(entry(), id_tag=False))


def test_a_binary_payload_has_no_form_in_json() -> None:
    assert representable(entry())
    assert not representable(entry(flags=BINARY, data=b"\x00\x01"))


def test_a_payload_that_would_break_the_framing_has_no_form_in_json() -> None:
    assert not representable(entry(data=b'{"a":\n1}'))
    assert not representable(entry(data=b""))


def test_the_module_is_the_codec_of_its_wire_format() -> None:
    codec = CODECS[WireFormat.JSON]
    assert (codec.wire_format, codec.opcode, codec.ping) == (WireFormat.JSON, 1, encode_reply(Reply()))
    assert codec.ping == encode_command(Command())


def test_a_push_of_the_protocol_description_is_read() -> None:
    text = b'{"push":{"channel":"live:1","pub":{"data":{"t":"hello"},"offset":47}}}'
    (reply,) = decode_replies(text)
    assert reply.push is not None
    assert reply.push.pub is not None
    assert msgspec.json.decode(reply.push.pub.data) == {"t": "hello"}
