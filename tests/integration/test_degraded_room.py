"""A degraded room as clients see it: told at subscribe, given short pages, and everything that they missed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from fanout.core.ledger import differences
from fanout.core.messages import room_key
from fanout.core.records import BUDGET, MESSAGES, Budget, encode
from fanout.protocol.centrifuge import HistoryRequest, StreamPosition, WireFormat
from fanout.runtime.apps import DEV_APP
from sharding.placement import partition_of
from tests.support.engine_process import ServedEngine, engine_process
from tests.support.live_edge import Client, LiveEdge, live_edge
from tests.support.loops import on_uvloop
from tests.support.wire_client import WireClient, wire_client

ROOM = "live:stage"
KEY = room_key(DEV_APP, ROOM)
MOST = 20
WAIT_S = 30.0  # gateways announce every ten seconds, budgets are looked at each second


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


def set_policy(engine: ServedEngine, policy: dict[str, Any]) -> None:
    """Change what live rooms are thinned by."""
    answer = httpx.put(f"{engine.http_url}/v1/config/policies/live", json=policy, trust_env=False)
    assert answer.status_code == 200, answer.text


async def told(engine: ServedEngine) -> object:
    """Return what a viewer who subscribes now is told."""
    async with wire_client(engine.ws_url) as viewer:
        reply = await viewer.command(subscribe={"channel": ROOM})
        return reply["subscribe"].get("data")


async def counted(engine: ServedEngine, messages: int) -> dict[str, Any]:
    """Return the ledger of the room once it knows of so many messages; it adds up."""
    async with asyncio.timeout(WAIT_S):
        while True:
            found: dict[str, Any] = engine.get(f"/v1/rooms/{ROOM}/ledger").json()
            if sum(found["accepted"].values()) >= messages:
                assert differences(found) == []
                return found
            await asyncio.sleep(0.05)


async def up_to(viewer: WireClient, data: object) -> list[dict[str, Any]]:
    """Return the publications that a viewer gets before one with this payload."""
    found = []
    while (publication := await viewer.publication())["data"] != data:
        found.append(publication)
    return found


async def test_a_room_that_grows_beyond_its_policy_sheds_what_nobody_needs() -> None:
    with engine_process() as engine:
        policy = {"degrade_members": 3, "degrade_history": 5, "late_low_ms": 0}
        set_policy(engine, policy)
        async with (
            wire_client(engine.ws_url, room=ROOM) as viewer,
            wire_client(engine.ws_url, room=ROOM),
            wire_client(engine.ws_url, room=ROOM),
        ):
            engine.publish(ROOM, "ann types", type="typing", priority="low")
            engine.publish(ROOM, "first", priority="high")
            assert [one["data"] for one in await up_to(viewer, "first")] == ["ann types"]
            async with asyncio.timeout(WAIT_S):
                while (said := await told(engine)) is None:
                    await asyncio.sleep(0.1)
            assert said == {"degraded": True, "history_max": 5}

            engine.publish(ROOM, "bob types", type="typing", priority="low")
            for number in range(5):
                engine.publish(ROOM, {"viewers": number}, type="join", priority="low")
            engine.publish(ROOM, "second", priority="high")
            assert await up_to(viewer, "second") == []
            joins = 0
            while joins < 5:
                publication = await viewer.publication()
                assert publication["tags"]["merge_key"] == "join"
                joins += int(publication["tags"]["merge_count"])
            assert (joins, publication["data"]) == (5, {"viewers": 4})
            found = await counted(engine, 9)
            assert found["merged"]["low"] == 5
            assert found["dropped"] == {"policy": {"degraded": {"system": 0, "high": 0, "normal": 0, "low": 1}}}
            assert "fanout_rooms_degraded_changes_total 1.0" in engine.get("/metrics").text
