"""Any body to any path of the API gets a documented answer of the one shape, and the next request is not disturbed."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fanout.core.errors import PROBLEMS
from tests.support.sending import api, sending
from tests.support.virtual_time import LoopClock, run

REASONS = {problem.reason for problem in PROBLEMS}
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)
publishes = st.fixed_dictionaries(
    {}, optional={"room": st.sampled_from(["open:r", "group:g", "#u", "x y"]) | values, "data": values, "tags": values}
)
bodies = (
    st.binary(max_size=100)
    | values.map(lambda value: json.dumps(value).encode())
    | publishes.map(lambda value: json.dumps(value).encode())
    | st.lists(publishes, max_size=4).map(lambda value: json.dumps({"messages": value}).encode())
    | st.lists(values, max_size=4).map(lambda value: json.dumps({"users": value}).encode())
)
requests = st.lists(
    st.tuples(
        st.sampled_from(
            [
                ("POST", "/v1/publish"),
                ("POST", "/v1/publish/batch"),
                ("DELETE", "/v1/rooms/group:g/members"),
                ("GET", "/v1/rooms/open:r/history"),
                ("GET", "/v1/rooms/group:g/members"),
            ]
        ),
        bodies,
        st.dictionaries(st.sampled_from(["limit", "after", "cursor", "reverse"]), st.text(max_size=8), max_size=2),
    ),
    min_size=1,
    max_size=5,
)


@settings(deadline=None, max_examples=60)
@given(requests)
def test_any_body_is_answered_in_the_documented_shape(
    calls: list[tuple[tuple[str, str], bytes, dict[str, str]]],
) -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts, api(parts) as client:
            for (method, path), content, params in calls:
                answer = await client.request(method, path, content=content, params=params)
                if answer.status_code != 200:
                    assert answer.status_code < 500 or answer.json()["reason"] == "not_available"
                    assert answer.json()["reason"] in REASONS
            good = await client.post("/v1/publish", json={"room": "open:after", "data": 1})
            assert good.json()["offset"] >= 1

    run(play())
