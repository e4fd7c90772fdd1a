"""Unmodified SDKs negotiate permessage-deflate by themselves (Node's ``ws``, Python's ``websockets``), in one room."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from bench._chat_lines import lines
from fanout.runtime.metrics import FRAMES_DEFLATED, SESSIONS
from tests.support.embedded_engine import EmbeddedEngine, embedded_engine
from tests.support.stock_sdk import BUILDS, stock_sdk

pytestmark = pytest.mark.real

LINES = [{"text": line.text, "from": line.user} for line in lines(400)]
BATCH = 50


@pytest.fixture
async def embedded() -> AsyncIterator[EmbeddedEngine]:
    async with embedded_engine() as started:
        yield started


def compressed(wire_format: str) -> int:
    return int(SESSIONS.labels(wire_format, "deflate")._value.get())


async def test_every_sdk_negotiates_compression_and_reads_what_was_said(embedded: EmbeddedEngine, js_sdk: Path) -> None:
    room = f"open:deflate-{time.time_ns()}"
    before = compressed("json"), compressed("protobuf"), int(FRAMES_DEFLATED._value.get())
    async with AsyncExitStack() as stack:
        sdks = [await stack.enter_async_context(stock_sdk(build, embedded.ws_url, room)) for build in BUILDS]
        for sdk in sdks:
            await sdk.has("subscribed")
        assert (compressed("json") - before[0], compressed("protobuf") - before[1]) == (2, 2)
        for start in range(0, len(LINES), BATCH):
            await embedded.publish_all(room, LINES[start : start + BATCH])
        for sdk in sdks:
            await sdk.has_received(len(LINES))
            assert sdk.received == LINES
        assert FRAMES_DEFLATED._value.get() >= before[2] + 2


async def test_what_an_sdk_sends_compressed_arrives(embedded: EmbeddedEngine, js_sdk: Path) -> None:
    room = f"open:deflate-{time.time_ns()}"
    async with AsyncExitStack() as stack:
        sdks = [await stack.enter_async_context(stock_sdk(build, embedded.ws_url, room)) for build in BUILDS]
        for sdk in sdks:
            await sdk.has("subscribed")
        said = [{"from": build.name, "text": "Grüße 😀 " * 400} for build in BUILDS]  # ws compresses from 1 KB on
        for sdk, data in zip(sdks, said, strict=True):
            assert "error" not in await sdk.tell("publish", data=data)
        for sdk in sdks:
            await sdk.has_received(len(BUILDS))
            assert sorted(sdk.received, key=str) == sorted(said, key=str)
