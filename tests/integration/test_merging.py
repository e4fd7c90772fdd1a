"""Merging through a real engine: HTTP in, WebSocket out, and the ledger afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from tests.support.engine_process import ServedEngine, engine_process
from tests.support.wire_client import WireClient, wire_client

LIKE = {"room": "live:stage", "priority": "low", "type": "like", "merge": {"key": "likes", "op": "sum"}}


@pytest.fixture(scope="module")
def engine() -> Iterator[ServedEngine]:
    with engine_process() as served:
        yield served


@pytest.fixture
async def http(engine: ServedEngine) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=engine.http_url, trust_env=False) as client:
        yield client


async def like(http: httpx.AsyncClient, likes: int, **fields: object) -> None:
    """Publish likes in one call."""
    answer = await http.post(
        "/v1/publish/batch", json={"messages": [LIKE | {"data": {"n": n}} | fields for n in range(likes)]}
    )
    assert all("offset" in result for result in answer.json()["results"]), answer.text


async def count(viewer: WireClient, likes: int) -> list[dict[str, str]]:
    """Return the tags of publications until they stand for so many likes."""
    found: list[dict[str, str]] = []
    while sum(int(tags["merge_count"]) for tags in found) < likes:
        found.append((await viewer.publication())["tags"])
    return found


async def test_likes_reach_a_stock_client_as_a_few_publications_that_say_how_many(
    engine: ServedEngine, http: httpx.AsyncClient
) -> None:
    async with wire_client(engine.ws_url, room="live:stage") as viewer:
        began_s = time.monotonic()
        for _ in range(20):
            await like(http, 500)
        found = await count(viewer, 10_000)
        windows = (time.monotonic() - began_s) / 0.2
        assert sum(int(tags["merge_value"]) for tags in found) == 10_000
        assert {tags["merge_key"] for tags in found} == {"likes"}
        assert len(found) <= windows + 1

        async def settled() -> dict[str, dict[str, int]]:
            async with asyncio.timeout(10):
                while True:
                    ledger: dict[str, dict[str, int]] = (await http.get("/v1/rooms/live:stage/ledger")).json()
                    if ledger["folds"]["low"] == len(found):
                        return ledger
                    await asyncio.sleep(0.05)

        ledger = await settled()
        assert ledger["accepted"]["low"] == ledger["merged"]["low"] == 10_000
        assert ledger["kept"]["low"] == 0


async def test_the_last_payload_comes_untouched_without_an_offset_and_history_has_nothing_of_it(
    engine: ServedEngine, http: httpx.AsyncClient
) -> None:
    body = (
        '{"room":"live:last","priority":"low","sender":"ann","merge":{"key":"k","op":"latest","value":-1.5},"data":%s}'
    )
    async with wire_client(engine.ws_url, room="live:last") as viewer:
        for data in ('{"x": 1.50}', '{"x":  2.500}'):
            assert (await http.post("/v1/publish", content=body % data)).status_code == 200
        shown = await viewer.publication()
        if shown["tags"]["merge_count"] == "1":  # the second one fell into the next window
            shown = await viewer.publication()
        assert shown["data"] == {"x": 2.5}
        assert shown["tags"]["merge_value"] == "-1.5"
        assert shown["info"]["user"] == "ann"
        assert "offset" not in shown
        assert (await http.get("/v1/rooms/live:last/history")).json()["items"] == []


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"priority": "high"}, "merge"),
        ({"room": "group:a", "priority": "normal"}, "merge"),
        ({"merge": {"key": "likes", "op": "median"}}, "merge.op"),
        ({"merge": {"key": "likes", "op": "top", "n": 11}}, "merge.n"),
    ],
)
async def test_what_cannot_be_merged_is_refused_with_the_field_named(
    http: httpx.AsyncClient, fields: dict[str, object], word: str
) -> None:
    answer = await http.post("/v1/publish", json=LIKE | {"data": 1} | fields)
    assert answer.status_code == 400
    assert answer.json()["reason"] == "bad_request"
    assert word in answer.json()["detail"]
