"""A degraded room as clients see it: told at subscribe, given short pages, and everything that they missed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fanout.core.messages import room_key
from fanout.core.records import BUDGET, MESSAGES, Budget, encode
from fanout.protocol.centrifuge import HistoryRequest, StreamPosition, WireFormat
from fanout.runtime.apps import DEV_APP
from sharding.placement import partition_of
from tests.support.live_edge import Client, LiveEdge, live_edge
from tests.support.loops import on_uvloop

ROOM = "live:stage"
KEY = room_key(DEV_APP, ROOM)
MOST = 20


async def degrade(edge: LiveEdge, *, degraded: bool = True) -> None:
    """Write what a room of that size is given, and wait until its gateway has heard of it."""
    number = partition_of(KEY.encode(), edge.log.partitions(MESSAGES))
    writer = await edge.log.writer(durable=True)
    budget = Budget({KEY: (20, 50_000)}, [KEY] if degraded else [])
    await writer.append(MESSAGES, number, None, encode(BUDGET, budget))
    await writer.close()
    room = edge.gateways[0].hub.rooms[KEY]
    await edge.until(lambda: (room.degraded is not None) is degraded, "the word of the worker")


async def page(client: Client, limit: int, **fields: Any) -> list[object]:
    """Return the payloads of a page of the history."""
    reply = await client.ask(history=HistoryRequest(channel=ROOM, limit=limit, **fields))
    assert reply.history is not None, reply.error
    return [json.loads(bytes(one.data)) for one in reply.history.publications]


@pytest.mark.parametrize("wire_format", list(WireFormat))
@on_uvloop
async def test_who_subscribes_is_told_as_long_as_the_room_is_degraded(wire_format: WireFormat) -> None:
    async with live_edge() as edge:
        found = []
        await edge.listener(ROOM)
        for degraded in (None, True, False):
            if degraded is not None:
                await degrade(edge, degraded=degraded)
            client = await edge.client(wire_format)
            await client.connect()
            found.append(bytes((await client.subscribe(ROOM)).data))
        assert found == [b"", b'{"degraded":true,"history_max":20}', b""]


@on_uvloop
async def test_subscriptions_of_the_server_are_told_in_the_reply_to_connect() -> None:
    async with live_edge() as edge:
        await edge.listener(ROOM)
        await degrade(edge)
        client = await edge.client()
        connected = await client.connect(edge.token("ann", subs=[ROOM]))
        assert json.loads(bytes(connected.subs[ROOM].data)) == {"degraded": True, "history_max": MOST}


@on_uvloop
async def test_pages_are_short_and_what_was_missed_is_replayed_whole() -> None:
    async with live_edge() as edge:
        client = await edge.listener(ROOM)
        published = [await edge.publish(ROOM, n, "high") for n in range(2 * MOST)]
        await client.data(2 * MOST)
        assert await page(client, -1) == list(range(2 * MOST))
        await degrade(edge)
        assert await page(client, -1) == list(range(MOST))
        assert await page(client, 1_000, reverse=True) == list(range(2 * MOST - 1, MOST - 1, -1))
        since = StreamPosition(offset=published[MOST - 1].offset, epoch=published[0].epoch)
        assert await page(client, 3, since=since) == [MOST, MOST + 1, MOST + 2]
        back = await edge.client()
        await back.connect()
        first = published[0]
        reply = await back.subscribe(ROOM, recover=True, offset=first.offset, epoch=first.epoch)
        assert reply.recovered and len(reply.publications) == 2 * MOST - 1
