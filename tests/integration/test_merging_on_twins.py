"""Merging in the room worker on twins, in virtual time: silent rooms, take-overs in the middle of a window."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from prometheus_client import REGISTRY

from fanout.adapters.memory import MemoryLog, MemoryState, memory_store
from fanout.core.errors import Unavailable
from fanout.core.messages import Priority
from fanout.core.records import CHUNKS, DEAD, MEMBERS, MESSAGES, TASKS, Entry
from fanout.ports import Appended, Topics
from tests.support import virtual_time
from tests.support.partitions import merged
from tests.support.rooms import message
from tests.support.virtual_time import LoopClock
from tests.support.worker_world import ChunkReader, World, until
from workers.room_worker import RoomWorker

TOPICS = Topics(partitions={MESSAGES: 2, MEMBERS: 2, TASKS: 2, CHUNKS: 8, DEAD: 1})
ROOM = "app/live:stage"


class TwinWorld(World):
    """A world on twins."""

    def __init__(self) -> None:
        clock = LoopClock()
        self.twin = MemoryLog(TOPICS, clock)
        super().__init__(self.twin, memory_store(clock, MemoryState()), clock)

    async def like(self, likes: int) -> None:
        """Append likes side by side."""
        writer = await self.log.writer(durable=True)
        record = (ROOM.encode(), merged())
        await writer.append_many(MESSAGES, self.partition(ROOM), [record] * likes)
        await writer.close()


def play(scenario: Callable[[TwinWorld], Coroutine[Any, Any, None]]) -> None:
    """Play a scenario in virtual time."""

    async def main() -> None:
        world = TwinWorld()
        try:
            await scenario(world)
        finally:
            await world.close()

    virtual_time.run(main())


def metric(name: str) -> float:
    return REGISTRY.get_sample_value(name) or 0.0


def merged_count(entries: Sequence[Entry]) -> int:
    """Return how many likes publications stand for."""
    return sum(int((entry.tags or {})["merge_count"]) for entry in entries)


async def seen(gateway: ChunkReader, likes: int) -> None:
    """Wait until a gateway's publications stand for so many likes."""
    await until(lambda: merged_count(gateway.entries(ROOM)) >= likes, f"{likes} likes")


def test_ten_thousand_likes_a_second_cost_five_publications() -> None:
    async def scenario(world: TwinWorld) -> None:
        await world.worker()
        gateway = await world.gateway(1)
        await world.attach(ROOM, gateway)
        for _ in range(100):
            await world.like(500)
            await asyncio.sleep(0.05)
        await seen(gateway, 50_000)
        await world.settled()
        assert merged_count(gateway.entries(ROOM)) == 50_000
        assert len(gateway.entries(ROOM)) <= 26, "five a second, and the window in which it began"
        found = await world.ledger(ROOM)
        assert found["accepted"]["low"] == found["merged"]["low"] == 50_000
        assert found["folds"]["low"] == len(gateway.entries(ROOM))
        assert gateway.refused == []

    play(scenario)


def test_a_room_that_falls_silent_is_told_after_two_windows_by_one_tick() -> None:
    async def scenario(world: TwinWorld) -> None:
        await world.worker()
        gateway = await world.gateway(1)
        await world.attach(ROOM, gateway)
        ticks = metric("fanout_ticks_appended_total")
        for _ in range(3):
            began_s = world.clock.monotonic_s()
            await world.like(7)
            await until(lambda: bool(gateway.entries(ROOM)), "the publication")
            assert 0.4 <= world.clock.monotonic_s() - began_s <= 0.8
            (entry,) = gateway.entries(ROOM)
            assert entry.tags == {"merge_key": "likes", "merge_count": "7", "merge_value": "7"}
            gateway.batches.clear()
        await asyncio.sleep(5)
        await world.settled()
        assert metric("fanout_ticks_appended_total") - ticks == 3

    play(scenario)


def test_where_others_speak_no_tick_is_needed() -> None:
    async def scenario(world: TwinWorld) -> None:
        rooms = (f"app/group:{number}" for number in range(100))
        other = next(room for room in rooms if world.partition(room) == world.partition(ROOM))
        await world.worker()
        gateway = await world.gateway(1)
        await world.attach(ROOM, gateway)
        await world.attach(other, gateway)
        ticks = metric("fanout_ticks_appended_total")
        await world.like(5)
        for _ in range(10):
            await world.publish(other)
            await asyncio.sleep(0.1)
        await seen(gateway, 5)
        await world.settled()
        assert metric("fanout_ticks_appended_total") == ticks

    play(scenario)


def test_a_tick_that_the_log_does_not_take_is_followed_by_another() -> None:
    async def scenario(world: TwinWorld) -> None:
        await world.worker()
        gateway = await world.gateway(1)
        await world.attach(ROOM, gateway)
        writer = world.workers[0]._dead_writer._writer
        assert writer is not None
        append, refused = writer.append_many, 0

        async def refuse(topic: str, partition: int, records: Sequence[tuple[bytes | None, bytes | None]]) -> Appended:
            nonlocal refused
            refused += 1
            if refused <= 3:
                raise Unavailable("not now")
            return await append(topic, partition, records)

        writer.append_many = refuse  # type: ignore[method-assign]
        await world.like(5)
        await seen(gateway, 5)
        await world.settled()
        assert refused == 4

    play(scenario)


def test_whoever_takes_over_in_the_middle_of_a_window_folds_on_and_nothing_is_counted_twice() -> None:
    async def scenario(world: TwinWorld) -> None:
        await world.worker()
        gateway = await world.gateway(1)
        await world.attach(ROOM, gateway)
        likes = 0
        for number in range(12):
            worker: RoomWorker = world.workers[-1]
            for _ in range(3):
                await world.like(100)
                await world.append(ROOM, message(Priority.HIGH, 1_000 + number))
                likes += 100
                await asyncio.sleep(0.03 * (number % 4))
            if number % 3 == 0:
                await worker.drain()
            await worker.close()
            world.workers.remove(worker)
            await world.worker()
        await until(
            lambda: merged_count([e for e in gateway.entries(ROOM) if e.priority == Priority.LOW.value]) >= likes,
            "all likes",
        )
        await world.settled()
        lows = [entry for entry in gateway.entries(ROOM) if entry.priority == Priority.LOW.value]
        assert merged_count(lows) == likes
        found = await world.ledger(ROOM)
        assert found["accepted"]["low"] == found["merged"]["low"] == likes
        assert found["folds"]["low"] == len(lows)
        assert found["kept"]["high"] == len(gateway.entries(ROOM)) - len(lows) == 36

    play(scenario)
