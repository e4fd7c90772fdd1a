"""Bodies of publishes: what is taken, what is refused with which word, and what becomes of ``data``."""

from __future__ import annotations

import msgspec
import pytest

from fanout.core.errors import (
    BAD_REQUEST,
    LIMIT_EXCEEDED,
    NOT_AVAILABLE,
    PERMISSION_DENIED,
    TOO_LARGE,
    UNKNOWN_NAMESPACE,
    Problem,
    Refused,
)
from fanout.core.ids import EPOCH_MS, IdGenerator
from fanout.core.messages import Priority
from fanout.core.profiles import Profiles
from fanout.core.publish import (
    BATCH_BYTES_MAX,
    BODY_BYTES_MAX,
    DIGITS_MAX,
    Publish,
    decode_batch,
    decode_publish,
    depth,
    error_body,
    one_line,
    refused_body,
    to_message,
)
from fanout.core.records import KEYED, MERGE, TRACKED, Merge

NOW = EPOCH_MS + 90_000_000_000
PROFILES = Profiles(insecure=True)


def body(**fields: object) -> bytes:
    return msgspec.json.encode({"room": "live:r", "data": 1} | fields)


def refusal(raw: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        to_message(decode_publish(raw), PROFILES, sent_ms=NOW)
    return caught.value


def test_a_full_body_becomes_a_message_with_its_class_and_flags() -> None:
    parent = IdGenerator(node=1).next(NOW)
    raw = body(
        data={"a": 1},
        priority="high",
        type="gift",
        id="k-1",
        sender="ann",
        reply_to=str(parent),
        ttl_ms=5_000,
        tags={"lang": "en"},
        track=True,
    )
    message, priority, flags = to_message(decode_publish(raw), PROFILES, sent_ms=NOW)
    assert (message.data, message.type, message.key, message.sender) == (b'{"a":1}', "gift", "k-1", "ann")
    assert (message.parent, message.ttl_ms, message.tags, message.sent_ms) == (parent, 5_000, {"lang": "en"}, NOW)
    assert priority is Priority.HIGH
    assert flags == KEYED | TRACKED


def test_a_body_of_room_and_data_alone_is_a_normal_message() -> None:
    message, priority, flags = to_message(decode_publish(body()), PROFILES, sent_ms=NOW)
    assert (message.data, priority, flags) == (b"1", Priority.NORMAL, 0)
    assert message.tags is None


@pytest.mark.parametrize(
    ("raw", "problem", "word"),
    [
        (b"", BAD_REQUEST, "body"),
        (b"[]", BAD_REQUEST, "body"),
        (b'{"room":"live:r"}', BAD_REQUEST, "data"),
        (b'{"data":1}', BAD_REQUEST, "room"),
        (body(room=7), BAD_REQUEST, "room"),
        (body(room="a b"), BAD_REQUEST, "room"),
        (body(room="t2/live:r"), BAD_REQUEST, "room"),
        (body(room="lіve:r"), BAD_REQUEST, "room"),
        (body(room="#ann"), PERMISSION_DENIED, "#"),
        (body(room="LIVE:r"), UNKNOWN_NAMESPACE, "LIVE"),
        (body(extra=1), BAD_REQUEST, "extra"),
        (body(priority="urgent"), BAD_REQUEST, "priority"),
        (body(priority=1), BAD_REQUEST, "priority"),
        (body(type="a b"), BAD_REQUEST, "type"),
        (body(type="x" * 65), BAD_REQUEST, "type"),
        (body(id="x" * 129), BAD_REQUEST, "id"),
        (body(id="a\nb"), BAD_REQUEST, "id"),
        (body(sender="a b"), BAD_REQUEST, "sender"),
        (body(reply_to="x"), BAD_REQUEST, "reply_to"),
        (body(reply_to="-5"), BAD_REQUEST, "reply_to"),
        (body(reply_to="0"), BAD_REQUEST, "reply_to"),
        (body(reply_to=str(1 << 63)), BAD_REQUEST, "reply_to"),
        (body(reply_to="1" * 30), BAD_REQUEST, "reply_to"),
        (body(reply_to=str(IdGenerator(node=0).next(NOW + 60_001))), BAD_REQUEST, "future"),
        (body(ttl_ms=-1), BAD_REQUEST, "ttl_ms"),
        (body(ttl_ms=7 * 86_400_000 + 1), BAD_REQUEST, "ttl_ms"),
        (body(tags={f"t{n}": "" for n in range(17)}), BAD_REQUEST, "tags"),
        (body(tags={"": "v"}), BAD_REQUEST, "tags"),
        (body(tags={"n" * 65: "v"}), BAD_REQUEST, "tags"),
        (body(tags={"n": "v" * 65}), BAD_REQUEST, "tags"),
        (body(tags={"id": "v"}), BAD_REQUEST, "tags"),
        (body(priority="low", merge={"op": "sum"}), BAD_REQUEST, "key"),
        (body(priority="low", merge={"key": "", "op": "sum"}), BAD_REQUEST, "merge.key"),
        (body(priority="low", merge={"key": "a b", "op": "sum"}), BAD_REQUEST, "merge.key"),
        (body(priority="low", merge={"key": "k" * 65, "op": "sum"}), BAD_REQUEST, "merge.key"),
        (body(priority="low", merge={"key": "k", "op": "max"}), BAD_REQUEST, "merge.op"),
        (body(priority="low", merge={"key": "k", "op": "sum", "n": 2}), BAD_REQUEST, "merge.n"),
        (body(priority="low", merge={"key": "k", "op": "top", "n": 0}), BAD_REQUEST, "merge.n"),
        (body(priority="low", merge={"key": "k", "op": "top", "n": 11}), BAD_REQUEST, "merge.n"),
        (body(priority="low", merge={"key": "k", "op": "sum", "value": 1.1e12}), BAD_REQUEST, "merge.value"),
        (body(priority="low", merge={"key": "k", "op": "sum", "value": "1"}), BAD_REQUEST, "merge.value"),
        (body(priority="low", merge={"key": "k", "op": "sum", "by": 1}), BAD_REQUEST, "by"),
        (body(priority="high", merge={"key": "k", "op": "sum"}), BAD_REQUEST, "merge"),
        (body(priority="system", merge={"key": "k", "op": "sum"}), BAD_REQUEST, "merge"),
        (body(room="group:r", merge={"key": "k", "op": "sum"}), BAD_REQUEST, "merge"),
        (body(room="open:r", priority="low", merge={"key": "k", "op": "sum"}), BAD_REQUEST, "merge"),
        (body(audience={"users": ["a"]}), NOT_AVAILABLE, "audience"),
        (body(data="x" * 32_767), TOO_LARGE, "data"),
        (b'{"room":"live:r","data":"\xff"}', BAD_REQUEST, "data"),
        (b'{"room":"\xff","data":1}', BAD_REQUEST, "UTF-8"),
        (b'{"room":"live:r","data":NaN}', BAD_REQUEST, "body"),
        (b'{"room":"live:r","data":' + b"[" * 33 + b"]" * 33 + b"}", BAD_REQUEST, "data"),
        (b'{"room":"live:r","data":' + b"[" * 20_000 + b"]" * 20_000 + b"}", BAD_REQUEST, "deep"),
        (b" " * (BODY_BYTES_MAX + 1), TOO_LARGE, "body"),
    ],
)
def test_a_wrong_body_is_refused_and_the_field_is_named(raw: bytes, problem: Problem, word: str) -> None:
    refused = refusal(raw)
    assert refused.problem is problem
    assert word in refused.detail


def test_data_passes_through_untouched_with_the_digits_of_its_numbers() -> None:
    data = b'{"n": 12345678901234567890123, "x": 1.50,  "s": "a\\nb"}'
    assert one_line(data) == data


def test_data_with_line_breaks_becomes_one_line_and_numbers_keep_their_digits() -> None:
    assert one_line(b'{\r\n "n": 1.500,\n "s": "a\\nb"}') == b'{"n":1.500,"s":"a\\nb"}'


def test_depth_counts_brackets_outside_strings_only() -> None:
    assert depth(b'{"[[{\\"":[1,{"a":"]"}]}') == 3
    assert one_line(b'"' + b"[" * 100 + b'"') == b'"' + b"[" * 100 + b'"'
    assert one_line(b"[" + b",".join([b"[]"] * 50) + b"]")


def test_data_of_exactly_the_allowed_depth_and_size_is_taken() -> None:
    assert one_line(b"[" * 32 + b"]" * 32)
    assert one_line(b'"' + b"x" * 32_766 + b'"')


def test_data_that_did_not_come_through_json_is_checked_too() -> None:
    with pytest.raises(Refused, match="data"):
        to_message(Publish(room="live:r", data=msgspec.Raw(b"{not json")), PROFILES, sent_ms=NOW)


def test_a_batch_is_parsed_in_one_go() -> None:
    raw = b'{"messages":[' + b",".join([body()] * 3) + b"]}"
    assert [type(message) for message in decode_batch(raw)] == [Publish] * 3


def test_a_malformed_message_of_a_batch_leaves_the_others_alone() -> None:
    first, second, third = decode_batch(b'{"messages":[' + body() + b',{"room":5},' + body() + b"]}")
    assert isinstance(first, Publish)
    assert isinstance(third, Publish)
    assert isinstance(second, Refused)
    assert second.problem is BAD_REQUEST


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"{}", BAD_REQUEST),
        (b'{"messages":1}', BAD_REQUEST),
        (b'{"messages":[' + b",".join([b"1"] * 1_001) + b"]}", LIMIT_EXCEEDED),
        (b" " * (BATCH_BYTES_MAX + 1), TOO_LARGE),
    ],
)
def test_what_is_no_batch_is_refused_as_a_whole(raw: bytes, problem: Problem) -> None:
    with pytest.raises(Refused) as caught:
        decode_batch(raw)
    assert caught.value.problem is problem


def test_an_error_has_one_shape_and_says_when_to_come_back() -> None:
    assert msgspec.json.encode(error_body(BAD_REQUEST, "room: no")) == (
        b'{"code":107,"reason":"bad_request","detail":"room: no"}'
    )
    body = refused_body(Refused(LIMIT_EXCEEDED, retry_after_s=0.0001))
    assert (body.retry_after_ms, body.detail) == (1, LIMIT_EXCEEDED.meaning)


@pytest.mark.parametrize("data", [b"%s", b"-%s", b'{"a":[1,%s]}', b"0.%s", b'"\\"",%s'])
def test_a_number_that_a_reader_in_python_cannot_take_is_refused(data: bytes) -> None:
    data = b"[" + data + b"]"
    assert one_line(data % (b"9" * DIGITS_MAX)) == data % (b"9" * DIGITS_MAX)
    with pytest.raises(Refused) as caught:
        one_line(data % (b"9" * (DIGITS_MAX + 1)))
    assert caught.value.problem is BAD_REQUEST


def test_digits_in_a_string_are_no_number() -> None:
    data = b'{"a":"\\"' + b"9" * 5_000 + b'"}'
    assert one_line(data) == data


@pytest.mark.parametrize(
    ("room", "priority"), [("live:r", "low"), ("live:r", "normal"), ("group:r", "low"), ("r", "low")]
)
def test_a_merge_is_taken_where_the_class_is_not_reliable(room: str, priority: str) -> None:
    raw = body(room=room, priority=priority, merge={"key": "gift:rose/7", "op": "top", "value": -2, "n": 10})
    message, _, flags = to_message(decode_publish(raw), PROFILES, sent_ms=NOW)
    assert message.merge == Merge("gift:rose/7", "top", -2.0, 10)
    assert flags == MERGE


def test_a_merge_counts_one_where_it_does_not_say() -> None:
    message, _, _ = to_message(
        decode_publish(body(priority="low", merge={"key": "k", "op": "sum"})), PROFILES, sent_ms=NOW
    )
    assert message.merge == Merge("k", "sum", 1.0, 1)
