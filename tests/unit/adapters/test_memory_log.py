"""What only the log's twin does: its bounds, its switches for tests, its single turn of the loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping

import pytest

from fanout.adapters import apply_topics, open_log, open_store
from fanout.adapters.memory import MemoryGroupReader, MemoryLog, Retention
from fanout.core.errors import Fenced, OutOfRange, Unavailable
from fanout.core.records import MEMBERS, MESSAGES
from fanout.ports import LogRecord, Topics
from tests.support.clocks import SteppedClock

TOPICS = Topics(prefix="unit", partitions={MESSAGES: 2, MEMBERS: 1})
SMALL = Retention(records_max=5, bytes_max=1_000, age_ms=60_000)


class Noted:
    """An Assignment that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, list[int]]] = []

    def assigned(self, partitions: Iterable[int]) -> None:
        """Note partitions that came."""
        self.told.append(("assigned", list(partitions)))

    def revoked(self, partitions: Iterable[int]) -> None:
        """Note partitions that went."""
        self.told.append(("revoked", list(partitions)))


@pytest.fixture
async def small(clock: SteppedClock) -> AsyncIterator[MemoryLog]:
    """A log that keeps little."""
    log = MemoryLog(TOPICS, clock, {MESSAGES: SMALL})
    yield log
    await log.close()


def values(found: Mapping[int, Iterable[LogRecord]]) -> list[bytes | None]:
    return [record.value for records in found.values() for record in records]


async def fill(log: MemoryLog, count: int, size: int = 1) -> None:
    writer = await log.writer(durable=True)
    for number in range(count):
        await writer.append(MESSAGES, 0, None, (b"%d" % number).ljust(size, b"."))


async def test_records_beyond_the_number_go_and_a_reader_behind_is_told(small: MemoryLog) -> None:
    reader = await small.reader(MESSAGES, [0])
    await fill(small, 8)
    assert await small.ends(MESSAGES, [0]) == {0: (3, 8)}
    with pytest.raises(OutOfRange) as caught:
        await reader.poll(10, 0)
    assert (caught.value.offset, caught.value.earliest, caught.value.end) == (0, 3, 8)
    reader.seek(0, 3)
    assert values(await reader.poll(10, 0)) == [b"3", b"4", b"5", b"6", b"7"]


async def test_records_beyond_the_bytes_go(small: MemoryLog) -> None:
    await fill(small, 4, size=400)
    assert await small.ends(MESSAGES, [0]) == {0: (2, 4)}


async def test_records_beyond_the_age_go_also_when_nothing_is_appended(small: MemoryLog, clock: SteppedClock) -> None:
    await fill(small, 2)
    clock.advance(60_001)
    assert await small.ends(MESSAGES, [0]) == {0: (2, 2)}
    reader = await small.reader(MESSAGES, [0])
    assert await reader.poll(10, 0) == {}


async def test_what_has_gone_is_given_back_to_the_process(clock: SteppedClock) -> None:
    log = MemoryLog(TOPICS, clock, {MESSAGES: SMALL._replace(bytes_max=1 << 30)})
    await fill(log, 5_000)
    assert len(log.partition(MESSAGES, 0)._records) < 2_100
    reader = await log.reader(MESSAGES, [0])
    reader.seek(0, 4_997)
    assert values(await reader.poll(10, 0)) == [b"4997", b"4998", b"4999"]


async def test_a_compacted_topic_keeps_the_newest_record_of_each_key(clock: SteppedClock) -> None:
    log = MemoryLog(TOPICS, clock)
    writer = await log.writer(durable=True)
    for number in range(3_000):
        await writer.append(MEMBERS, 0, b"user%d" % (number % 10), b"%d" % number)
    await writer.append(MEMBERS, 0, b"user3", None)
    reader = await log.reader(MEMBERS, [0])
    reader.seek(0, 0)
    newest: dict[bytes | None, bytes | None] = {}
    read = 0
    while found := await reader.poll(100, 0):
        newest.update({record.key: record.value for record in found[0]})
        read += len(found[0])
    assert newest == {b"user%d" % user: b"%d" % (2_990 + user) for user in range(10)} | {b"user3": None}
    assert read < 3_001
    assert (reader.position(0), await log.ends(MEMBERS, [0])) == (3_001, {0: (0, 3_001)})


async def test_append_time_stands_still_while_the_clock_is_behind(small: MemoryLog, clock: SteppedClock) -> None:
    writer = await small.writer(durable=True)
    first = await writer.append(MESSAGES, 0, None, b"x")
    clock.advance(-5_000)
    second = await writer.append(MESSAGES, 0, None, b"x")
    assert second.at_ms == first.at_ms


async def test_a_log_that_was_taken_away_answers_unavailable_and_comes_back(small: MemoryLog) -> None:
    reader, writer = await small.reader(MESSAGES, [0]), await small.writer(durable=True)
    small.available = False
    for call in (writer.append(MESSAGES, 0, None, b"x"), reader.poll(1, 0), small.ping(), small.ends(MESSAGES, [0])):
        with pytest.raises(Unavailable):
            await call
    small.available = True
    await writer.append(MESSAGES, 0, None, b"x")
    assert values(await reader.poll(1, 0)) == [b"x"]


async def test_closing_the_log_ends_a_poll_that_waits(small: MemoryLog) -> None:
    reader = await small.reader(MESSAGES, [0])
    waiting = asyncio.create_task(reader.poll(1, 60))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await small.close()
    with pytest.raises(Unavailable):
        await waiting


async def test_a_poll_gives_the_others_a_turn_even_with_a_backlog(small: MemoryLog) -> None:
    await fill(small, 5)
    reader = await small.reader(MESSAGES, [0])
    reader.seek(0, 0)
    turns: list[int] = []
    asyncio.get_running_loop().call_soon(turns.append, 1)
    await reader.poll(1, 0)
    assert turns == [1]


async def test_a_partition_with_a_backlog_does_not_starve_the_others(clock: SteppedClock) -> None:
    log = MemoryLog(TOPICS, clock)
    writer, reader = await log.writer(durable=True), await log.reader(MESSAGES, [0, 1])
    for number in range(50):
        await writer.append(MESSAGES, 0, None, b"%d" % number)
    await writer.append(MESSAGES, 1, None, b"other")
    polled = [await reader.poll(5, 0) for _ in range(3)]
    assert any(1 in found for found in polled)


async def test_a_reader_that_the_group_threw_out_is_fenced_until_it_polls_and_joins_anew(clock: SteppedClock) -> None:
    log = MemoryLog(TOPICS, clock)
    zombie_noted, heir_noted = Noted(), Noted()
    zombie = await log.group_reader(MESSAGES, "g", zombie_noted)
    heir = await log.group_reader(MESSAGES, "g", heir_noted)
    await zombie.poll(1, 0)
    assert isinstance(zombie, MemoryGroupReader)
    zombie.lapse()
    await heir.poll(1, 0)
    assert heir_noted.told[-1] == ("assigned", [0, 1])
    assert zombie_noted.told == [("assigned", [0])], "it has not heard of it"
    with pytest.raises(Fenced):
        await zombie.commit({0: 1})
    await zombie.poll(1, 0)
    await zombie.poll(1, 0)
    assert zombie_noted.told[1:] == [("revoked", [0]), ("assigned", [1])]
    assert heir_noted.told[-1] == ("assigned", [0])


async def test_a_position_that_nobody_reads_is_fenced(small: MemoryLog) -> None:
    reader = await small.reader(MESSAGES, [0])
    with pytest.raises(Fenced):
        reader.position(1)
    with pytest.raises(Fenced):
        reader.seek(1, 0)


async def test_only_named_twins_are_shared(clock: SteppedClock) -> None:
    shared = [await open_log("memory://one", topics=TOPICS, clock=clock) for _ in range(2)]
    apart = [await open_log("memory", topics=TOPICS, clock=clock) for _ in range(2)]
    assert shared[0] is shared[1]
    assert apart[0] is not apart[1]


async def test_a_url_that_no_adapter_knows_is_named_in_the_error(clock: SteppedClock) -> None:
    with pytest.raises(ValueError, match="mysql"):
        await open_log("mysql://x", topics=TOPICS, clock=clock)
    with pytest.raises(ValueError, match="mysql"):
        await open_store("mysql://x", prefix="p", clock=clock)
    with pytest.raises(ValueError, match="mysql"):
        await apply_topics("mysql://x", TOPICS, replication=1)
    with pytest.raises(ValueError, match="kafka"):
        await open_log("kafka://", topics=TOPICS, clock=clock)


async def test_applying_topics_in_memory_says_so() -> None:
    assert await apply_topics("memory", TOPICS, replication=1) == [
        "unit.messages: 2 partitions, in memory",
        "unit.members: 1 partitions, in memory",
    ]
