"""Unmodified Centrifuge SDKs against an engine: order, recovery, gaps, resync. JavaScript and Python, both builds.

For the Dart, Swift and Java SDKs recorded transcripts stand in (``tests/acceptance/test_protobuf_transcripts.py``).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import pytest

from tests.support.embedded_engine import EmbeddedEngine, embedded_engine
from tests.support.engine_process import ServedEngine
from tests.support.stock_sdk import BUILDS, Build, StockSdk, stock_sdk
from tests.support.tcp_proxy import TcpProxy, tcp_proxy

pytestmark = [pytest.mark.real, pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.name)]

Connect = Callable[..., AbstractAsyncContextManager[StockSdk]]
_ROOMS = itertools.count()


@pytest.fixture
def connect(build: Build, request: pytest.FixtureRequest) -> Connect:
    """Start the SDK of this build: ``connect(url, room="", token="")``."""
    if build.language == "js":
        request.getfixturevalue("js_sdk")
    return partial(stock_sdk, build)


@pytest.fixture
def room() -> str:
    """A room that no other test uses."""
    return f"open:sdk-{next(_ROOMS)}-{time.time_ns()}"


def through(proxy: TcpProxy) -> str:
    return f"ws://127.0.0.1:{proxy.port}/connection/websocket"


@asynccontextmanager
async def cuttable(engine: ServedEngine, connect: Connect, room: str) -> AsyncIterator[tuple[StockSdk, TcpProxy]]:
    """An SDK in a room, behind a proxy."""
    async with tcp_proxy(engine.port) as proxy, connect(through(proxy), room) as sdk:
        await sdk.has("subscribed")
        yield sdk, proxy


async def test_publications_arrive_in_order_with_rising_positions(
    engine: ServedEngine, connect: Connect, room: str
) -> None:
    async with connect(engine.ws_url, room) as sdk:
        await sdk.has("subscribed")
        engine.publish_all(room, [{"n": number, "text": "Grüße 😀"} for number in range(300)])
        for number in range(300, 320):
            engine.publish(room, {"n": number})
        await sdk.has_received(320)
        assert [data["n"] for data in sdk.received] == list(range(320))
        offsets = [event["offset"] for event in sdk.all("publication")]
        assert all(before < after for before, after in itertools.pairwise(offsets))


async def test_client_publishes_asks_and_calls(engine: ServedEngine, connect: Connect, room: str) -> None:
    async with connect(engine.ws_url, room) as sdk:
        await sdk.has("subscribed")
        assert "error" not in await sdk.tell("publish", data={"from": "sdk"})
        await sdk.has_received(1)
        assert sdk.received == [{"from": "sdk"}]
        page = (await sdk.tell("history", limit=10))["result"]
        assert [publication["data"] for publication in page["publications"]] == [{"from": "sdk"}]
        assert page["offset"] == sdk.all("publication")[0]["offset"]
        assert (await sdk.tell("presence_stats"))["result"]["clients"] == 1
        published = (await sdk.tell("rpc", method="publish", data={"room": room, "data": 2}))["result"]
        assert published["room"] == room
        assert (await sdk.tell("rpc", method="no_such_method", data={}))["error"]["code"] == 104
        await sdk.tell("close")
        await sdk.has("disconnected")


async def test_cut_is_recovered_with_nothing_missed_or_doubled(
    engine: ServedEngine, connect: Connect, room: str
) -> None:
    async with cuttable(engine, connect, room) as (sdk, proxy):
        for turn in range(3):
            base = turn * 100
            engine.publish_all(room, range(base, base + 40))
            await sdk.has_received(base + 40)
            proxy.cut(stay_down=True)
            engine.publish_all(room, range(base + 40, base + 100))
            proxy.restore()
            await sdk.has("subscribed", turn + 2)
            await sdk.has_received(base + 100)
        assert sdk.received == list(range(300))
        joins = sdk.all("subscribed")
        assert [(join["was_recovering"], join["recovered"]) for join in joins] == [(False, False)] + [(True, True)] * 3


async def test_cut_in_mid_flight_misses_and_doubles_nothing(engine: ServedEngine, connect: Connect, room: str) -> None:
    async with cuttable(engine, connect, room) as (sdk, proxy):
        for number in range(0, 400, 20):
            engine.publish_all(room, range(number, number + 20))
            if number in (100, 220):
                await sdk.has_received(number // 2)
                proxy.cut()
        await sdk.has_received(400)
        assert sdk.received == list(range(400))


async def test_gap_beyond_the_history_is_declared_and_not_half_filled(
    engine: ServedEngine, connect: Connect, room: str
) -> None:
    async with cuttable(engine, connect, room) as (sdk, proxy):
        engine.publish(room, "before")
        await sdk.has_received(1)
        proxy.cut(stay_down=True)
        engine.publish_all(room, range(1_100))  # an open room keeps 1,000
        proxy.restore()
        await sdk.has("subscribed", 2)
        engine.publish(room, "after")
        await sdk.has_received(2)
        second = sdk.all("subscribed")[1]
        assert (second["was_recovering"], second["recovered"]) == (True, False)
        assert sdk.received == ["before", "after"]


async def test_long_absence_within_the_history_is_recovered_whole(
    engine: ServedEngine, connect: Connect, room: str
) -> None:
    async with cuttable(engine, connect, room) as (sdk, proxy):
        engine.publish(room, -1)
        await sdk.has_received(1)
        proxy.cut(stay_down=True)
        engine.publish_all(room, range(900))
        proxy.restore()
        await sdk.has_received(901)
        assert sdk.received == list(range(-1, 900))
        assert sdk.all("subscribed")[1]["recovered"]


@pytest.fixture
async def embedded() -> AsyncIterator[EmbeddedEngine]:
    """An engine in this process, for tokens of the app ``dev`` that name rooms of the server's choice."""
    async with embedded_engine() as started:
        yield started


async def test_server_side_subscription_recovers_without_client_code(
    embedded: EmbeddedEngine, connect: Connect, room: str
) -> None:
    token = embedded.token("ada", subs=[room])
    async with tcp_proxy(embedded.port) as proxy, connect(through(proxy), token=token) as sdk:
        await sdk.has("server_subscribed")
        await embedded.publish(room, 1)
        await sdk.has("server_publication")
        proxy.cut(stay_down=True)
        await embedded.publish(room, 2)
        await embedded.publish(room, 3)
        proxy.restore()
        await sdk.has("server_publication", 3)
        assert [event["data"] for event in sdk.all("server_publication")] == [1, 2, 3]
        assert sdk.all("server_subscribed")[1]["recovered"]


async def test_token_that_is_not_valid_ends_the_sdk_for_good(engine: ServedEngine, connect: Connect) -> None:
    async with connect(engine.ws_url, token="no.valid.token") as sdk:
        await sdk.has("disconnected")
        assert len(sdk.all("connecting")) == 1
