"""Kafka, Redis or both are gone for a while: connections stay, callers are told, work goes on by itself afterwards.

FAULTS cases 5, 6, 16, 17 and 19, on an engine with a broker and a Redis of its own. Nothing that was accepted may be
lost or shown twice; what a client cannot be given it must be told (``recovered: false``, or another epoch).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from redis import Redis

from fanout.core.ledger import differences
from scripts.parts import Running, kafka_brokers, redis_answers, start_kafka, start_redis
from tests.support.engine_process import ServedEngine, engine_process
from tests.support.neighbour import Session, eventually, history, session
from tests.support.parts import freeze, need

pytestmark = [pytest.mark.real, pytest.mark.timeout(90)]

DOWN_S = 10.0
TOLD_S = 8.0  # every caller learns within this that the log is away: 5 s, and what a busy machine adds
BACK_S = 45.0  # from the return of the servers until everything works
SESSIONS = 4
PACE_S = 0.05


@dataclass
class World:
    """An engine and the servers it stands on, which the tests stop and start."""

    engine: ServedEngine
    kafka: Running
    redis: Running

    async def start_kafka(self) -> None:
        """Start the broker again, with what it has on disk."""
        self.kafka.spawn()  # by this thread: the part dies with the thread that started it
        port = int(self.kafka.address.rpartition(":")[2])
        deadline = time.monotonic() + 30
        while not await asyncio.to_thread(kafka_brokers, port):
            assert time.monotonic() < deadline, "Kafka does not start again"
            await asyncio.sleep(0.1)

    async def start_redis(self) -> None:
        """Start Redis again: it has kept nothing."""
        self.redis.spawn()
        port = int(self.redis.address.rpartition(":")[2])
        deadline = time.monotonic() + 10
        while not await asyncio.to_thread(redis_answers, port):
            assert time.monotonic() < deadline, "Redis does not start again"
            await asyncio.sleep(0.05)

    def redis_client(self) -> Redis:
        """Return a client of the Redis."""
        return Redis(port=int(self.redis.address.rpartition(":")[2]))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One engine for all tests: each finds it as the one before left it, which must be in order."""
    kafka = need(lambda: start_kafka(tmp_path_factory.mktemp("own-kafka")))
    try:
        redis = need(lambda: start_redis(tmp_path_factory.mktemp("own-redis")))
        try:
            options = ("--insecure", "--log", f"kafka://{kafka.address}", "--store", f"redis://{redis.address}")
            with engine_process(options, start_s=60.0) as engine:
                yield World(engine, kafka, redis)
        finally:
            redis.stop()
    finally:
        kafka.stop()


@dataclass
class Room:
    """A room with sessions in it and two publishers: one repeats until it is accepted, one never does."""

    http: httpx.AsyncClient
    name: str
    sessions: list[Session] = field(default_factory=list)
    accepted: dict[Any, dict[str, Any]] = field(default_factory=dict)
    refused: list[httpx.Response] = field(default_factory=list)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    publishers: list[asyncio.Task[None]] = field(default_factory=list)

    async def fall_silent(self) -> None:
        """End the publishers; what they were about to be answered counts."""
        self.stop.set()
        await asyncio.gather(*self.publishers)

    async def publish(self, data: object, **fields: Any) -> bool:
        """Publish once; returns whether it was accepted. Any answer but 200 and a proper 503 fails."""
        answer = await self.http.post("/v1/publish", json={"room": self.name, "data": data, **fields})
        if answer.status_code == 200:
            assert data not in self.accepted
            self.accepted[data] = answer.json()
            return True
        assert answer.status_code == 503, answer.text
        body = answer.json()
        assert (body["code"], body["reason"]) == (100, "unavailable"), body
        assert body["retry_after_ms"] > 0
        assert int(answer.headers["retry-after"]) >= 1
        self.refused.append(answer)
        return False

    async def publish_and_repeat(self) -> None:
        """Publish number after number, each with an id and until it is accepted."""
        number = 0
        while not self.stop.is_set():
            number += 1
            while not await self.publish(number, id=f"message-{number}"):
                await asyncio.sleep(0.3)
            await asyncio.sleep(PACE_S)

    async def publish_once_each(self) -> None:
        """Publish without ids; what is refused is not repeated."""
        number = 0
        while not self.stop.is_set():
            number += 1
            await self.publish(f"once-{number}")
            await asyncio.sleep(PACE_S)

    async def wait_arrived(self, timeout_s: float = 30.0) -> None:
        """Wait until each session has all that was accepted, or was told that it cannot have it."""
        await eventually(lambda: not any(self.missing(one) for one in self.sessions), "all to arrive", timeout_s)

    def missing(self, listening: Session) -> list[Any]:
        """Return what was accepted and neither shown nor declared lost; after a gap that was told, all is due again."""
        gaps = [join.get("offset", 0) for join in listening.joins[1:] if not join.get("recovered")]
        since = gaps[-1] if gaps else 0
        shown = {one["data"] for one in listening.publications}
        return [data for data, at in self.accepted.items() if data not in shown and at["offset"] > since]

    def check(self) -> None:
        """Each session stayed, saw positions rise within an epoch, nothing twice, and misses nothing in silence."""
        for listening in self.sessions:
            assert listening.closed is None, f"closed with {listening.closed}"
            assert self.missing(listening) == []
            starts = [join["received_before"] for join in listening.joins] + [len(listening.publications)]
            for begin, end in itertools.pairwise(starts):
                offsets = [one["offset"] for one in listening.publications[begin:end]]
                assert offsets == sorted(set(offsets))
            shown = [one["data"] for one in listening.publications]
            if all(join.get("recovered") for join in listening.joins[1:]):
                assert len(shown) == len(set(shown)), sorted({one for one in shown if shown.count(one) > 1}, key=str)


@contextlib.asynccontextmanager
async def busy_room(world: World, *, publishing: bool = True) -> AsyncIterator[Room]:
    """Open a room; its publishers run until ``stop`` is set or the body ends."""
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(
            httpx.AsyncClient(base_url=world.engine.http_url, timeout=40.0, trust_env=False)
        )
        await ready(http)
        room = Room(http, f"open:{uuid.uuid4().hex[:12]}")
        for _ in range(SESSIONS):
            room.sessions.append(await stack.enter_async_context(session(world.engine.ws_url)))
            await room.sessions[-1].subscribe(room.name)
        room.publishers += [asyncio.create_task(one) for one in (room.publish_and_repeat(), room.publish_once_each())]
        try:
            yield room
        finally:
            await room.fall_silent()


async def readiness(http: httpx.AsyncClient) -> tuple[int, dict[str, bool]]:
    """Return the status of ``/readyz`` and what it says about each dependency."""
    answer = await http.get("/readyz")
    dependencies: dict[str, bool] = answer.json()["dependencies"]
    return answer.status_code, dependencies


async def until(is_so: Callable[[], Any], what: str, timeout_s: float) -> None:
    """Wait until the awaited ``is_so()`` holds."""
    deadline = time.monotonic() + timeout_s
    while not await is_so():
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s for {what}"
        await asyncio.sleep(0.1)


async def ready(http: httpx.AsyncClient, timeout_s: float = BACK_S) -> None:
    """Wait until everything is ready."""
    said: dict[str, bool] = {}

    async def all_ready() -> bool:
        nonlocal said
        status, said = await readiness(http)
        return status == 200

    try:
        await until(all_ready, "readiness", timeout_s)
    except AssertionError as error:
        raise AssertionError(f"{error}: {[name for name, is_so in said.items() if not is_so]}") from None


async def unready(http: httpx.AsyncClient, dependency: str, timeout_s: float = 10.0) -> None:
    """Wait until readiness has fallen and names the dependency."""

    async def named() -> bool:
        status, said = await readiness(http)
        return status == 503 and not said[dependency]

    await until(named, f"readiness to fall and to name the {dependency}", timeout_s)


async def new_messages(room: Room, count: int = 5, timeout_s: float = BACK_S) -> None:
    """Wait until more messages have been accepted."""
    had = len(room.accepted)
    await eventually(lambda: len(room.accepted) >= had + count, "publishes to be accepted", timeout_s)


@pytest.mark.parametrize("way", ["stopped", "killed"])
async def test_without_the_log_publishes_are_refused_and_go_on_by_themselves_afterwards(world: World, way: str) -> None:
    async with busy_room(world) as room:
        await new_messages(room)
        down = time.monotonic()
        if way == "stopped":
            freeze(world.kafka.pid)
        else:
            world.kafka.kill()
        try:
            await eventually(lambda: len(room.refused) >= 2, "both publishers to be told", TOLD_S)
            await unready(room.http, "log")
            for listening in room.sessions:
                assert "ping" in await listening.command(ping={})
            await asyncio.sleep(max(0.0, down + DOWN_S - time.monotonic()))
        finally:
            if way == "stopped":
                os.kill(world.kafka.pid, signal.SIGCONT)
            else:
                await world.start_kafka()
        await ready(room.http)
        await new_messages(room)
        await room.fall_silent()
        await room.wait_arrived()
        room.check()
        assert all(listening.unsubscribed == [] for listening in room.sessions), "told of a gap where there was none"
        stored: list[Any] = []

        async def all_stored() -> bool:
            nonlocal stored  # the history follows what sessions are given
            stored = [item["data"] for item in await history(room.http, room.name)]
            return set(room.accepted) <= set(stored)

        await until(all_stored, "the history to have all that was accepted", BACK_S)
        assert len(stored) == len(set(stored))
        ledger = (await room.http.get(f"/v1/rooms/{room.name}/ledger")).json()
        assert differences(ledger) == []
        assert sum(ledger["kept"].values()) == len(stored)


@pytest.mark.parametrize("way", ["stopped", "killed"])
async def test_without_the_store_connected_rooms_live_from_memory_and_history_recovers(world: World, way: str) -> None:
    async with busy_room(world) as room, session(world.engine.ws_url) as waiting:
        await new_messages(room)
        async with session(world.engine.ws_url) as early:
            await early.subscribe(room.name)
            position = early.position
        await room.wait_arrived()
        down = time.monotonic()
        if way == "stopped":
            freeze(world.redis.pid)
        else:
            world.redis.kill()
        subscribing = asyncio.create_task(waiting.subscribe(f"open:{uuid.uuid4().hex[:12]}"))
        try:
            await new_messages(room, timeout_s=4.0)
            during = list(room.accepted)[-5:]
            await room.wait_arrived(timeout_s=3.0)
            await unready(room.http, "store")
            for listening in room.sessions:
                assert "ping" in await listening.command(ping={})
            assert set(during) <= {one["data"] for one in room.sessions[0].publications}
            await asyncio.sleep(max(0.0, down + DOWN_S - time.monotonic()))
        finally:
            if way == "stopped":
                os.kill(world.redis.pid, signal.SIGCONT)
            else:
                await world.start_redis()
        await ready(room.http)
        await asyncio.wait_for(subscribing, BACK_S)
        await new_messages(room)
        await room.fall_silent()
        await room.wait_arrived()
        room.check()
        await check_history_and_late_comer(world, room, position)


async def test_a_store_that_was_emptied_is_noticed_and_declared(world: World) -> None:
    async with busy_room(world) as room:
        await new_messages(room)
        async with session(world.engine.ws_url) as early:
            await early.subscribe(room.name)
            position = early.position
        await new_messages(room)
        with world.redis_client() as client:
            client.flushall()
        await new_messages(room, count=10)
        await asyncio.sleep(3.5)  # leases are renewed every 3 s
        await ready(room.http)
        await new_messages(room)
        await room.fall_silent()
        await room.wait_arrived()
        room.check()
        await check_history_and_late_comer(world, room, position)


async def check_history_and_late_comer(world: World, room: Room, position: dict[str, Any]) -> None:
    """What is published now is stored; who comes back with an old position gets all, or is told."""
    await asyncio.sleep(0.2)  # the publishers end
    mark = f"mark-{uuid.uuid4().hex[:6]}"

    async def taken() -> bool:
        return await room.publish(mark)

    await until(taken, "a publish", 20.0)

    async def stored() -> bool:
        return mark in [item["data"] for item in await history(room.http, room.name)]

    await until(stored, "the history", 20.0)
    async with session(world.engine.ws_url) as late:
        joined = await late.subscribe(room.name, **position)
        if joined.get("recovered"):
            assert joined["epoch"] == position["epoch"]
            await eventually(lambda: bool(late.publications) and late.publications[-1]["data"] == mark, "the tail", 10)
            due = [
                data
                for data, published in sorted(room.accepted.items(), key=lambda one: int(one[1]["offset"]))
                if published["offset"] > position["offset"]
            ]
            assert [one["data"] for one in late.publications] == due, "recovered, and yet something is missing"
        now = late.position
        assert await room.publish("after")
        await eventually(lambda: late.publications[-1:] != [] and late.publications[-1]["data"] == "after", "live", 10)
    async with session(world.engine.ws_url) as again:
        joined = await again.subscribe(room.name, **now)
        assert joined.get("recovered"), (joined, now)
        await eventually(lambda: [one["data"] for one in again.publications] == ["after"], "what came meanwhile", 10)


async def test_without_both_connections_stay_and_everything_goes_on_afterwards(world: World) -> None:
    async with busy_room(world) as room:
        await new_messages(room)
        await room.wait_arrived()
        down = time.monotonic()
        world.redis.kill()
        world.kafka.kill()
        try:
            await eventually(lambda: len(room.refused) >= 2, "both publishers to be told", TOLD_S)
            await unready(room.http, "log")
            await unready(room.http, "store")
            for listening in room.sessions:
                assert "ping" in await listening.command(ping={})
            await asyncio.sleep(max(0.0, down + DOWN_S - time.monotonic()))
        finally:
            await world.start_redis()
            await world.start_kafka()
        await ready(room.http)
        await new_messages(room)
        await room.fall_silent()
        await room.wait_arrived()
        room.check()
