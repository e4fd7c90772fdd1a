"""Appends that do not give up: the steady writer, the lanes of chunks, the dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import pytest

from fanout.core.errors import RecordError, Unavailable
from fanout.core.limits import CHUNK_APPEND_BYTES_MAX, PARKED_PER_APPEND, PARKED_VALUE_BYTES_MAX, RECORD_BYTES_MAX
from fanout.core.records import CHUNKS, DEAD, MESSAGES, Parked
from fanout.ports import Appended, Log, LogWriter
from tests.support import virtual_time
from tests.support.rooms import Rec
from workers.chunks import SlotChunks
from workers.dead_letters import DeadLetters, parked
from workers.lanes import ChunkLanes
from workers.poison import Poison
from workers.steady_writer import SteadyWriter
from workers.turn import Turn

Append = tuple[str, int, list[bytes | None]]


class NotedLog:
    """The writers of a log, noting appends. ``failures``: how many of the next ones fail, ``stuck``: who waits."""

    def __init__(self) -> None:
        self.appends: list[Append] = []
        self.failures = 0
        self.closed = 0
        self.stuck: set[int] = set()
        self.freed = asyncio.Event()

    async def writer(self, *, durable: bool) -> LogWriter:
        return self

    async def append(self, topic: str, partition: int, key: bytes | None, value: bytes | None) -> Appended:
        return await self.append_many(topic, partition, [(key, value)])

    async def append_many(
        self, topic: str, partition: int, records: Sequence[tuple[bytes | None, bytes | None]]
    ) -> Appended:
        await asyncio.sleep(0.001)
        if partition in self.stuck:
            await self.freed.wait()
        if self.failures:
            self.failures -= 1
            raise Unavailable("not now")
        self.appends.append((topic, partition, [value for _, value in records]))
        return Appended(partition, len(self.appends), 0)

    async def close(self) -> None:
        self.closed += 1


async def steady(log: NotedLog) -> SteadyWriter:
    as_log: Log = log  # type: ignore[assignment]
    writer = SteadyWriter(as_log, durable=False)
    await writer.open()
    return writer


# --- the steady writer ---


def test_an_append_that_fails_is_tried_until_the_log_has_it() -> None:
    async def main() -> None:
        log = NotedLog()
        writer = await steady(log)
        log.failures = 2
        waiting = asyncio.create_task(writer.append_many(CHUNKS, 1, [(None, b"a")]))
        await asyncio.sleep(0.01)
        assert [writer.is_failing] == [True]
        await waiting
        assert log.appends == [(CHUNKS, 1, [b"a"])]
        assert [writer.is_failing] == [False]
        await writer.close()
        assert log.closed == 1

    virtual_time.run(main())


# --- lanes ---


def a_turn(number: int, **slots: Sequence[bytes]) -> Turn:
    """Return a turn with chunks: ``s3=[b"a"]`` is one for slot 3."""
    turn = Turn(number, 0.0)
    for name, chunks in slots.items():
        slot = SlotChunks(int(name[1:]), 1)
        slot.chunks = list(chunks)
        turn.slots.append(slot)
    return turn


def test_a_turn_is_acknowledged_when_all_its_chunks_are() -> None:
    async def main() -> None:
        log, acked = NotedLog(), list[int]()
        lanes = ChunkLanes(await steady(log), lambda turn: acked.append(turn.number))
        log.stuck = {4}
        turn = a_turn(1, s3=[b"a", b"b"], s4=[b"c"])
        lanes.put(turn)
        assert turn.awaited == 3 and lanes.bytes == 3
        await asyncio.sleep(1)
        assert log.appends == [(CHUNKS, 3, [b"a", b"b"])]
        assert acked == [] and lanes.bytes == 1
        log.freed.set()
        await asyncio.sleep(1)
        assert acked == [1] and lanes.bytes == 0

    virtual_time.run(main())


def test_a_slot_that_is_stuck_holds_up_no_other() -> None:
    async def main() -> None:
        log, acked = NotedLog(), list[int]()
        lanes = ChunkLanes(await steady(log), lambda turn: acked.append(turn.number))
        log.stuck = {4}
        lanes.put(a_turn(1, s4=[b"x"]))
        lanes.put(a_turn(2, s3=[b"a"]))
        await asyncio.sleep(0.01)
        assert acked == [2]

    virtual_time.run(main())


def test_turns_that_gather_go_in_one_append_in_order() -> None:
    async def main() -> None:
        log = NotedLog()
        lanes = ChunkLanes(await steady(log), lambda turn: None)
        log.stuck = {3}
        for number in range(4):
            lanes.put(a_turn(number, s3=[b"%d" % number]))
        await asyncio.sleep(0.01)
        lanes.put(a_turn(4, s3=[b"4"]))
        log.freed.set()
        await asyncio.sleep(1)
        assert [values for _, _, values in log.appends] == [[b"0", b"1", b"2", b"3"], [b"4"]]

    virtual_time.run(main())


def test_one_append_stays_below_the_logs_limit() -> None:
    async def main() -> None:
        log = NotedLog()
        lanes = ChunkLanes(await steady(log), lambda turn: None)
        lanes.put(a_turn(1, s3=[b"x" * 262_144] * 7))
        await asyncio.sleep(1)
        sizes = [sum(len(value or b"") for value in values) for _, _, values in log.appends]
        assert sizes == [3 * 262_144, 3 * 262_144, 262_144]
        assert max(sizes) <= CHUNK_APPEND_BYTES_MAX

    virtual_time.run(main())


def test_a_lane_that_was_done_begins_again() -> None:
    async def main() -> None:
        log = NotedLog()
        lanes = ChunkLanes(await steady(log), lambda turn: None)
        for number in range(2):
            lanes.put(a_turn(number, s3=[b"%d" % number]))
            await asyncio.sleep(1)
        lanes.put(a_turn(2, s3=[]))
        assert [values for _, _, values in log.appends] == [[b"0"], [b"1"]]
        log.stuck = {3}
        lanes.put(a_turn(3, s3=[b"3"]))
        await lanes.close()
        await asyncio.sleep(1)
        assert len(log.appends) == 2

    virtual_time.run(main())


# --- dead letters ---


def test_a_parked_record_says_where_it_stood_and_why_it_is_here() -> None:
    record = Rec(7, b"\xff\x00", b"app/\xff", timestamp=99)
    assert msgspec.json.decode(
        parked(Poison(3, record, RecordError("undecodable", "Message: no")), MESSAGES), type=Parked
    ) == Parked("undecodable", "Message: no", "messages", 3, 7, 99, "app/\\xff", b"\xff\x00")


@pytest.mark.parametrize("key", [None, b"k" * 10_000])
def test_a_huge_record_is_cut_so_that_it_can_be_parked(key: bytes | None) -> None:
    record = Rec(7, b"x" * 900_000, key)
    value = parked(Poison(3, record, RecordError("too_large", "d" * 100_000)), MESSAGES)
    found = msgspec.json.decode(value, type=Parked)
    assert len(found.value) == PARKED_VALUE_BYTES_MAX
    assert found.detail.endswith("(cut from 900000 bytes)")
    assert len(value) * PARKED_PER_APPEND < RECORD_BYTES_MAX


def test_records_are_parked_in_groups_and_said_to_be_done() -> None:
    async def main() -> None:
        log, done = NotedLog(), list[int]()
        dead = DeadLetters(await steady(log), MESSAGES)
        error = RecordError("undecodable", "no")
        dead.put(
            [Poison(0, Rec(offset, None), error) for offset in range(PARKED_PER_APPEND + 2)], lambda: done.append(1)
        )
        dead.put([Poison(0, Rec(99, b"x"), error)], lambda: done.append(2))
        assert dead.bytes > 0
        await asyncio.sleep(1)
        assert done == [1, 2] and dead.bytes == 0
        assert [(topic, len(values)) for topic, _, values in log.appends] == [
            (DEAD, PARKED_PER_APPEND),
            (DEAD, 2),
            (DEAD, 1),
        ]
        await dead.close()

    virtual_time.run(main())


def test_what_cannot_be_parked_waits_and_is_given_up_at_the_end() -> None:
    async def main() -> None:
        log, done = NotedLog(), list[int]()
        dead = DeadLetters(await steady(log), MESSAGES)
        log.stuck = {0}
        dead.put([Poison(0, Rec(1, b"x"), RecordError("undecodable", "no"))], lambda: done.append(1))
        await asyncio.sleep(1)
        await dead.close()
        assert done == []

    virtual_time.run(main())


def test_a_writer_that_was_never_opened_can_be_closed() -> None:
    as_log: Log = NotedLog()  # type: ignore[assignment]
    virtual_time.run(SteadyWriter(as_log, durable=False).close())
