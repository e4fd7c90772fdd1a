"""Reading one's own chunks: generations, gaps, readers that fail or fall silent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from fanout.adapters.memory import MemoryLog, MemoryReader, Retention
from fanout.adapters.memory_log import Record
from fanout.core.records import CHUNK, CHUNKS, MESSAGE, Chunk, Message, RoomBatch, encode
from fanout.gateway.chunk_reader import ChunkReader
from fanout.ports import Lease, Topics
from fanout.runtime.metrics import CHUNKS_REFUSED, LOG_GAPS, REBUILDS
from tests.support.virtual_time import LoopClock, run

LEASE = Lease("slots", 3, 50, "test", "", 0)


class FallsSilent(MemoryReader):
    """A reader that stops returning records after a while, as consumers of aiokafka have been seen to do."""

    polls = 0

    async def poll(self, records_max: int, timeout_s: float) -> Mapping[int, Sequence[Record]]:
        self.polls += 1
        if self.polls > 1:
            await asyncio.sleep(timeout_s)
            return {}
        return await super().poll(records_max, timeout_s)


class Scene:
    """A log, a reader of slot 3, and what it handed over."""

    def __init__(self) -> None:
        self.log = MemoryLog(Topics(), LoopClock(), {CHUNKS: Retention(5, 1 << 20, 1 << 40)})
        self.applied: list[str] = []
        self.fenced: list[int] = []
        self.braked = 0
        self.reader = ChunkReader(
            log=self.log, clock=LoopClock(), apply=self._apply, brake=self._brake, fenced=self.fenced.append
        )

    def _apply(self, chunk: Chunk) -> None:
        if chunk.rooms[0].key == "bad":
            raise RuntimeError("a bug in the hub")
        self.applied.append(chunk.rooms[0].key)

    async def _brake(self) -> None:
        self.braked += 1

    async def put(self, name: str, generation: int = 50) -> None:
        await self.put_raw(encode(CHUNK, Chunk(3, [RoomBatch(name, 0, 0, 1, "e", 0, 0, [])]), id=generation))

    async def put_raw(self, value: bytes | None) -> None:
        writer = await self.log.writer(durable=False)
        await writer.append(CHUNKS, 3, None, value)
        await writer.close()

    async def settle(self) -> None:
        await asyncio.sleep(0.01)


def play(scene: Callable[[Scene], Awaitable[None]]) -> None:
    async def main() -> None:
        world = Scene()
        await world.put("before")
        await world.reader.open(LEASE)
        try:
            await scene(world)
        finally:
            world.log.available = True
            await world.reader.close()

    run(main())


def refused(reason: str) -> float:
    return float(CHUNKS_REFUSED.labels(reason)._value.get())


def test_reading_begins_at_the_end_and_brakes_after_every_chunk() -> None:
    async def scene(scene: Scene) -> None:
        await scene.put("a")
        await scene.put("b")
        await scene.settle()
        assert scene.applied == ["a", "b"]
        assert scene.braked == 2

    play(scene)


def test_an_older_generation_is_dropped_and_a_newer_one_fences() -> None:
    async def scene(scene: Scene) -> None:
        before = refused("old_slot")
        await scene.put("old", 49)
        await scene.put("new", 51)
        await scene.put("mine")
        await scene.settle()
        assert scene.applied == ["mine"]
        assert scene.fenced == [51]
        assert refused("old_slot") - before == 1

    play(scene)


def test_what_cannot_be_read_is_counted_and_passed_over() -> None:
    async def scene(scene: Scene) -> None:
        good = encode(CHUNK, Chunk(3, []), id=50)
        for value in (None, b"x", b"\x09" * 20, encode(MESSAGE, Message(b"1"), id=50), good[:12] + b"\xc1"):
            await scene.put_raw(value)
            await scene.settle()
        await scene.put("bad")
        await scene.put("good")
        await scene.settle()
        assert scene.applied == ["good"]
        for reason in ("no_value", "short_header", "unknown_version", "unknown_kind", "undecodable", "failed"):
            assert refused(reason) >= 1, reason

    play(scene)


def test_a_log_that_is_away_for_a_while_is_read_on_from_the_last_chunk_applied() -> None:
    async def scene(scene: Scene) -> None:
        await scene.put("a")
        await scene.settle()
        scene.log.available = False
        await asyncio.sleep(3)
        scene.log.available = True
        await scene.put("b")
        await asyncio.sleep(3)
        await scene.put("c")
        await asyncio.sleep(1)
        assert scene.applied == ["a", "b", "c"]

    play(scene)


def test_chunks_that_the_log_did_not_keep_are_a_counted_gap() -> None:
    async def scene(scene: Scene) -> None:
        before = float(LOG_GAPS.labels(CHUNKS)._value.get())
        await scene.put("a")
        await scene.settle()
        for number in range(20):
            await scene.put(f"n{number}")
        await scene.settle()
        assert scene.applied == ["a", "n15", "n16", "n17", "n18", "n19"]
        assert float(LOG_GAPS.labels(CHUNKS)._value.get()) - before == 15

    play(scene)


def test_a_reader_that_falls_silent_while_chunks_come_is_replaced() -> None:
    async def main() -> None:
        scene = Scene()
        make = scene.log.reader

        async def silent(topic: str, partitions: Sequence[int]) -> MemoryReader:
            reader = await make(topic, partitions)
            reader.__class__ = FallsSilent
            scene.log.reader = make  # type: ignore[method-assign]
            return reader

        scene.log.reader = silent  # type: ignore[method-assign]
        before = float(REBUILDS.labels("chunk_reader")._value.get())
        await scene.reader.open(LEASE)
        await scene.put("a")
        await scene.settle()
        await scene.put("b")
        await asyncio.sleep(1)
        assert scene.applied == ["a"]
        await asyncio.sleep(10)
        assert scene.applied == ["a", "b"]
        assert float(REBUILDS.labels("chunk_reader")._value.get()) - before == 1
        await asyncio.sleep(60)
        assert float(REBUILDS.labels("chunk_reader")._value.get()) - before == 1, "silence alone is no fault"
        await scene.reader.close()
        assert not scene.reader.is_open

    run(main())
