"""Unmodified SDKs, all builds at once in one room, when the engine loses a partition's epoch: 2500 and 3010."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.support.embedded_engine import EmbeddedEngine, embedded_engine
from tests.support.stock_sdk import BUILDS, StockSdk, stock_sdk

pytestmark = pytest.mark.real


@pytest.fixture
async def embedded() -> AsyncIterator[EmbeddedEngine]:
    async with embedded_engine() as started:
        yield started


async def started(stack: AsyncExitStack, url: str, room: str = "", token: str = "") -> list[StockSdk]:
    """Every build of every SDK, in the order of BUILDS."""
    return [await stack.enter_async_context(stock_sdk(build, url, room, token)) for build in BUILDS]


async def test_lost_epoch_sends_2500_and_every_sdk_resyncs(embedded: EmbeddedEngine, js_sdk: Path) -> None:
    room = f"open:resync-{time.time_ns()}"
    async with AsyncExitStack() as stack:
        sdks = await started(stack, embedded.ws_url, room)
        for sdk in sdks:
            await sdk.has("subscribed")
        await embedded.publish(room, "old epoch")
        for sdk in sdks:
            await sdk.has_received(1)
        embedded.lose_epoch_of(room)
        await embedded.publish(room, "new epoch")
        for sdk in sdks:
            await sdk.has("subscribed", 2)
        await embedded.publish(room, "after")
        for sdk in sdks:
            await sdk.has_got("after")
            first, second = sdk.all("subscribed")[:2]
            assert 2500 in sdk.codes("subscribing")
            assert (second["was_recovering"], second["recovered"]) == (True, False)
            assert second["epoch"] != first["epoch"]
            assert sdk.codes("disconnected") == []


async def test_lost_epoch_closes_3010_where_the_server_subscribed_and_every_sdk_resyncs(
    embedded: EmbeddedEngine, js_sdk: Path
) -> None:
    room = f"open:resync-{time.time_ns()}"
    async with AsyncExitStack() as stack:
        sdks = await started(stack, embedded.ws_url, token=embedded.token("ada", subs=[room]))
        for sdk in sdks:
            await sdk.has("server_subscribed")
        await embedded.publish(room, "old epoch")
        for sdk in sdks:
            await sdk.has("server_publication")
        embedded.lose_epoch_of(room)
        await embedded.publish(room, "new epoch")
        for sdk in sdks:
            await sdk.has("server_subscribed", 2)
        await embedded.publish(room, "after")
        for sdk in sdks:
            await sdk.has_got("after", "server_publication")
            second = sdk.all("server_subscribed")[1]
            assert 3010 in sdk.codes("connecting")
            assert (second["was_recovering"], second["recovered"]) == (True, False)
