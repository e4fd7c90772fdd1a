"""Any bytes are a publish or are refused with a documented problem; data that is taken is one line of the same JSON."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from fanout.core.errors import PROBLEMS, Refused
from fanout.core.ids import EPOCH_MS
from fanout.core.profiles import Profiles
from fanout.core.publish import DEPTH_MAX, decode_batch, decode_publish, depth, one_line, to_message

NOW = EPOCH_MS + 90_000_000_000
PROFILES = Profiles()

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 60), 1 << 60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
values: st.SearchStrategy[Any] = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=30
)
fields = st.fixed_dictionaries(
    {},
    optional={
        "room": st.sampled_from(["live:a", "group:b", "x", "#u", "a/b", "", "nope:a"]) | st.text() | values,
        "data": values,
        "priority": st.sampled_from(["low", "normal", "high", "system", ""]) | values,
        "type": st.text() | values,
        "id": st.text() | values,
        "sender": st.text() | values,
        "reply_to": st.integers().map(str) | values,
        "ttl_ms": st.integers() | values,
        "tags": st.dictionaries(st.text(), st.text()) | values,
        "track": st.booleans() | values,
        "merge": st.fixed_dictionaries(
            {"key": st.text() | st.just("likes"), "op": st.sampled_from(["sum", "latest", "top", "max"])},
            optional={"value": st.floats(allow_nan=False, allow_infinity=False) | values, "n": st.integers() | values},
        )
        | values,
        "audience": values,
        "more": values,
    },
)


def try_publish(raw: bytes) -> None:
    try:
        message, _, _ = to_message(decode_publish(raw), PROFILES, sent_ms=NOW)
    except Refused as refused:
        assert refused.problem in PROBLEMS
        assert refused.detail
    else:
        assert b"\n" not in message.data
        assert b"\r" not in message.data


@given(st.binary(max_size=200))
def test_any_bytes_are_a_publish_or_a_documented_refusal(raw: bytes) -> None:
    try_publish(raw)
    try:
        decode_batch(raw)
    except Refused as refused:
        assert refused.problem in PROBLEMS


@given(fields)
def test_any_json_object_is_a_publish_or_a_documented_refusal(body: dict[str, Any]) -> None:
    try_publish(json.dumps(body).encode())


@given(fields, st.integers(0, 2_000), st.binary(max_size=4))
def test_a_body_with_altered_bytes_is_a_publish_or_a_documented_refusal(
    body: dict[str, Any], at: int, other: bytes
) -> None:
    raw = json.dumps({"room": "live:a", "data": 1} | body).encode()
    at = at % (len(raw) + 1)
    try_publish(raw[:at] + other + raw[at + 1 :])


@given(values, st.sampled_from([None, 1, 3]))
def test_data_that_is_taken_is_one_line_of_the_same_json(value: Any, indent: int | None) -> None:
    raw = json.dumps(value, indent=indent).encode()
    line = one_line(raw)
    assert b"\n" not in line
    assert json.loads(line) == value
    if indent is None:
        assert line == raw


@given(values)
def test_depth_agrees_with_a_walk_over_the_value(value: Any) -> None:
    def walk(inner: Any) -> int:
        if isinstance(inner, dict):
            return 1 + max((walk(one) for one in inner.values()), default=0)
        if isinstance(inner, list):
            return 1 + max((walk(one) for one in inner), default=0)
        return 0

    assert depth(msgspec.json.encode(value)) == walk(value)
    assert walk(value) <= DEPTH_MAX
