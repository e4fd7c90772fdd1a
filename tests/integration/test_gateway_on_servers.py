"""Gateways, workers and senders on a real Kafka and a real Redis, in one process."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from fanout.adapters import apply_topics, open_log, open_store
from fanout.core.profiles import Profiles
from fanout.gateway.server import Gateway
from fanout.ports import Topics
from fanout.protocol.centrifuge import WireFormat
from fanout.runtime.apps import Apps
from fanout.runtime.clock import SystemClock
from fanout.runtime.tokens import Tokens
from fanout.sender.sender import Sender
from tests.support.live_edge import LiveEdge
from workers.room_worker import RoomWorker

pytestmark = pytest.mark.real

Scene = Callable[[LiveEdge], Coroutine[Any, Any, None]]


async def _play(kafka_url: str, redis_url: str, scene: Scene) -> None:
    clock = SystemClock()
    name = f"t{uuid.uuid4().hex[:12]}"
    topics = Topics(prefix=name)
    await apply_topics(kafka_url, topics, replication=1)
    edge = LiveEdge(clock)
    log = await open_log(kafka_url, topics=topics, clock=clock)
    store = await open_store(redis_url, prefix=name, clock=clock)
    profiles = Profiles(insecure=True)
    edge.log, edge.store = log, store  # type: ignore[assignment]
    edge.worker = RoomWorker(log=log, store=store, profiles=profiles, clock=clock, group=name)
    edge.sender = Sender(log=log, store=store, profiles=profiles, clock=clock, holder="test")
    edge.tokens = Tokens(Apps.insecure(), clock)
    await edge.worker.start()
    await edge.sender.start()
    try:
        for _ in range(2):
            await edge.gateway()
        for _ in range(200):
            if all(edge.worker.readiness().values()):
                break
            await asyncio.sleep(0.05)
        await scene(edge)
    finally:
        await edge.close()
        await log.close()
        await store.backend.close()


def test_deliveries_recovery_and_a_drain(kafka_url: str, redis_url: str) -> None:
    async def scene(edge: LiveEdge) -> None:
        staying, leaving = edge.gateways
        listeners = [
            await edge.listener("open:a", wire_format, gateway=gateway)
            for wire_format in WireFormat
            for gateway in edge.gateways
        ]
        for number in range(100):
            await edge.publish("open:a", number)
        for listener in listeners:
            assert await listener.data(100) == list(range(100))
        position = (await edge.publish("open:a", 100)).offset
        for listener in listeners:
            await listener.data(1)
        await leaving.drain()
        assert await listeners[1].end() == 3001
        for number in range(101, 120):
            await edge.publish("open:a", number)
        back = await edge.client(gateway=staying)
        await back.connect()
        epoch = staying.hub.rooms["dev/open:a"].known_log.epoch
        result = await back.subscribe("open:a", recover=True, offset=position, epoch=epoch)
        assert result.recovered
        got = [int(bytes(one.data)) for one in result.publications]
        got += await back.data(19 - len(got))
        assert got == list(range(101, 120))

    uvloop.run(_play(kafka_url, redis_url, scene))


def test_a_cold_gateway_replays_from_redis_what_the_ring_does_not_hold(kafka_url: str, redis_url: str) -> None:
    async def scene(edge: LiveEdge) -> None:
        first = await edge.listener("live:a")
        positions = [await edge.publish("live:a", number, "high") for number in range(30)]
        await first.data(30)
        await asyncio.sleep(0.2)
        cold: Gateway = edge.gateways[1]
        late = await edge.client(gateway=cold)
        await late.connect()
        result = await late.subscribe("live:a", recover=True, offset=positions[4].offset, epoch=positions[4].epoch)
        assert result.recovered
        assert [int(bytes(one.data)) for one in result.publications] == list(range(5, 30))
        assert cold.stats()["behind"] == 0

    uvloop.run(_play(kafka_url, redis_url, scene))
