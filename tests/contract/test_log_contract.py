"""What every log keeps, the twin and Kafka alike."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import pytest

from fanout.adapters import apply_topics, open_log
from fanout.core.errors import Fenced, OutOfRange, Unavailable
from fanout.core.limits import RECORD_BYTES_MAX
from fanout.core.records import CHUNKS, MESSAGES
from fanout.ports import GroupReader, Log, LogReader, LogRecord, Topics
from tests.support.clocks import SteppedClock

WAIT_S = 20.0


class Noted:
    """An Assignment that notes what it is told."""

    def __init__(self) -> None:
        self.owned: set[int] = set()
        self.told: list[tuple[str, list[int]]] = []

    def assigned(self, partitions: Iterable[int]) -> None:
        """Note partitions that came."""
        self.told.append(("assigned", list(partitions)))
        self.owned.update(self.told[-1][1])

    def revoked(self, partitions: Iterable[int]) -> None:
        """Note partitions that went."""
        self.told.append(("revoked", list(partitions)))
        self.owned.difference_update(self.told[-1][1])


async def read(reader: LogReader, count: int) -> list[LogRecord]:
    """Poll until ``count`` records have come; partitions one after the other."""
    return [record for records in (await read_by_partition(reader, count)).values() for record in records]


async def read_by_partition(reader: LogReader, count: int) -> dict[int, list[LogRecord]]:
    """Poll until ``count`` records have come."""
    found: dict[int, list[LogRecord]] = {}
    deadline_s = time.monotonic() + WAIT_S
    while (came := sum(map(len, found.values()))) < count:
        assert time.monotonic() < deadline_s, f"only {came} of {count} records came"
        for partition, records in (await reader.poll(1_000, 0.5)).items():
            found.setdefault(partition, []).extend(records)
    return found


async def poll_until(readers: Sequence[GroupReader], done: Callable[[], bool]) -> None:
    """Poll all readers until ``done``; what they read is of no interest."""
    deadline_s = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < deadline_s, "the group did not settle"
        await asyncio.gather(*(reader.poll(1_000, 0.1) for reader in readers))


def group_name() -> str:
    return f"g-{uuid.uuid4().hex[:8]}"


async def test_records_come_in_the_order_they_were_appended_with_their_log_offsets(log: Log) -> None:
    writer = await log.writer(durable=True)
    reader = await log.reader(MESSAGES, [1])
    placed = [await writer.append(MESSAGES, 1, b"key", b"%d" % number) for number in range(20)]
    found = await read_by_partition(reader, 20)
    assert list(found) == [1]
    records = found[1]
    assert [record.value for record in records] == [b"%d" % number for number in range(20)]
    assert [record.offset for record in records] == [place.offset for place in placed] == list(range(20))
    assert {record.key for record in records} == {b"key"}
    assert [record.timestamp for record in records] == [place.at_ms for place in placed]


async def test_appends_of_one_caller_keep_their_order_without_being_awaited_one_by_one(log: Log) -> None:
    writer = await log.writer(durable=True)
    reader = await log.reader(MESSAGES, [0])
    places = await asyncio.gather(*(writer.append(MESSAGES, 0, None, b"%d" % number) for number in range(500)))
    assert [place.offset for place in places] == list(range(500))
    assert [record.value for record in await read(reader, 500)] == [b"%d" % number for number in range(500)]


@pytest.mark.parametrize("durable", [True, False])
async def test_records_of_append_many_stand_side_by_side(log: Log, durable: bool) -> None:
    writer, other = await log.writer(durable=durable), await log.writer(durable=durable)
    reader = await log.reader(CHUNKS, [2])
    mine = [(b"a", b"a%d" % number) for number in range(300)]
    theirs = [(b"b", b"b%d" % number) for number in range(300)]
    first, second = await asyncio.gather(writer.append_many(CHUNKS, 2, mine), other.append_many(CHUNKS, 2, theirs))
    records = {record.offset: record.value for record in await read(reader, 600)}
    assert [records[first.offset + index] for index in range(300)] == [value for _, value in mine]
    assert [records[second.offset + index] for index in range(300)] == [value for _, value in theirs]


async def test_append_many_beyond_one_batch_of_the_log_arrives_whole_and_in_order(log: Log) -> None:
    writer = await log.writer(durable=True)
    reader = await log.reader(CHUNKS, [0])
    values = [b"%02d" % number + b"." * 100_000 for number in range(25)]
    place = await writer.append_many(CHUNKS, 0, [(None, value) for value in values])
    records = await read(reader, 25)
    assert [record.value for record in records] == values
    assert records[0].offset == place.offset


async def test_a_record_that_no_log_takes_is_refused_at_once_and_for_good(log: Log) -> None:
    writer = await log.writer(durable=True)
    with pytest.raises(ValueError, match="at most"):
        await writer.append(MESSAGES, 0, None, b"." * (RECORD_BYTES_MAX + 1))
    with pytest.raises(ValueError, match="at most"):
        await writer.append_many(MESSAGES, 0, [(None, b"fits"), (None, b"." * (RECORD_BYTES_MAX + 1))])
    with pytest.raises(ValueError, match="needs a record"):
        await writer.append_many(MESSAGES, 0, [])
    assert await log.ends(MESSAGES, [0]) == {0: (0, 0)}
    assert (await writer.append(MESSAGES, 0, None, b"." * RECORD_BYTES_MAX)).offset == 0


async def test_a_tombstone_is_a_record_without_a_value(log: Log) -> None:
    writer = await log.writer(durable=True)
    reader = await log.reader("members", [0])
    await writer.append("members", 0, b"app/room/alice", None)
    (record,) = await read(reader, 1)
    assert (record.key, record.value) == (b"app/room/alice", None)


async def test_append_times_are_the_logs_and_never_go_back(log: Log, clock: SteppedClock) -> None:
    writer = await log.writer(durable=True)
    places = []
    for step_ms in (0, 5, -60_000, 5):
        clock.advance(step_ms)
        places.append(await writer.append(MESSAGES, 0, None, b"x"))
    times = [place.at_ms for place in places]
    assert times == sorted(times)
    assert abs(times[-1] - time.time() * 1_000) < 30_000


async def test_a_reader_starts_at_the_end_and_goes_where_it_is_sent(log: Log) -> None:
    writer = await log.writer(durable=True)
    await writer.append_many(MESSAGES, 3, [(None, b"%d" % number) for number in range(10)])
    reader = await log.reader(MESSAGES, [3])
    assert reader.position(3) == 10
    assert await reader.poll(10, 0.05) == {}
    reader.seek(3, 7)
    assert reader.position(3) == 7
    assert [record.offset for record in await read(reader, 3)] == [7, 8, 9]
    assert reader.position(3) == 10


async def test_a_poll_returns_no_more_than_asked_for_and_the_rest_next_time(log: Log) -> None:
    writer = await log.writer(durable=True)
    reader = await log.reader(MESSAGES, [0, 1])
    for partition in (0, 1):
        await writer.append_many(MESSAGES, partition, [(None, b"x")] * 10)
    sizes: list[int] = []
    while sum(sizes) < 20:
        found = await reader.poll(7, 1.0)
        sizes.append(sum(len(records) for records in found.values()))
    assert max(sizes) <= 7


async def test_a_waiting_poll_ends_with_the_append_and_not_with_its_timeout(log: Log) -> None:
    writer = await log.writer(durable=False)
    reader = await log.reader(CHUNKS, [1])
    await writer.append(CHUNKS, 1, None, b"warm")
    await read(reader, 1)
    waiting = asyncio.create_task(_values(reader, 10.0))
    await asyncio.sleep(0.05)
    started_s = time.monotonic()
    await writer.append(CHUNKS, 1, None, b"now")
    assert await waiting == [b"now"]
    assert time.monotonic() - started_s < 2.0


async def _values(reader: LogReader, timeout_s: float) -> list[bytes | None]:
    return [record.value for records in (await reader.poll(10, timeout_s)).values() for record in records]


@pytest.mark.parametrize("offset", [100, 11])
async def test_a_position_beyond_the_log_is_out_of_range_and_says_what_there_is(log: Log, offset: int) -> None:
    writer = await log.writer(durable=True)
    await writer.append_many(MESSAGES, 0, [(None, b"x")] * 10)
    reader = await log.reader(MESSAGES, [0])
    reader.seek(0, offset)
    with pytest.raises(OutOfRange) as caught:
        for _ in range(20):
            await reader.poll(10, 0.5)
    assert (caught.value.partition, caught.value.offset) == (0, offset)
    assert (caught.value.earliest, caught.value.end) == (0, 10)
    reader.seek(0, 9)
    assert [record.offset for record in await read(reader, 1)] == [9]


async def test_ends_tell_the_earliest_offset_and_that_of_the_next_record(log: Log) -> None:
    writer = await log.writer(durable=True)
    await writer.append_many(MESSAGES, 2, [(None, b"x")] * 3)
    assert await log.ends(MESSAGES, [1, 2]) == {1: (0, 0), 2: (0, 3)}


async def test_a_time_is_found_as_the_offset_of_the_first_record_at_or_after_it(log: Log, clock: SteppedClock) -> None:
    writer = await log.writer(durable=True)
    assert await log.offset_at(MESSAGES, 2, 0) == 0
    places = []
    for _ in range(3):
        clock.advance(5)
        await asyncio.sleep(0.005)  # the broker's clock is not the test's
        places.append(await writer.append(MESSAGES, 2, None, b"x"))
    for place in places:
        first = min(one.offset for one in places if one.at_ms >= place.at_ms)
        assert await log.offset_at(MESSAGES, 2, place.at_ms) == first
    assert await log.offset_at(MESSAGES, 2, places[0].at_ms + 1) == 1
    assert await log.offset_at(MESSAGES, 2, places[0].at_ms - 60_000) == 0
    assert await log.offset_at(MESSAGES, 2, places[-1].at_ms + 1) == 3
    assert await log.offset_at(MESSAGES, 2, places[-1].at_ms + 3_600_000) == 3


async def test_a_group_reads_from_the_earliest_and_then_from_what_was_committed(log: Log) -> None:
    writer = await log.writer(durable=True)
    await writer.append_many(MESSAGES, 1, [(None, b"%d" % number) for number in range(10)])
    group, noted = group_name(), Noted()
    first = await log.group_reader(MESSAGES, group, noted)
    assert [record.offset for record in await read(first, 10)] == list(range(10))
    assert noted.told == [("assigned", [0, 1, 2, 3])]
    assert await first.committed(1) is None
    await first.commit({1: 6})
    assert await first.committed(1) == 6
    await first.close()
    second = await log.group_reader(MESSAGES, group, Noted())
    assert [record.offset for record in await read(second, 4)] == [6, 7, 8, 9]
    assert second.position(1) == 10
    assert second.position(0) == 0


async def test_two_readers_of_a_group_share_the_partitions_and_one_takes_over(log: Log) -> None:
    group, left, right = group_name(), Noted(), Noted()
    first = await log.group_reader(MESSAGES, group, left)
    await poll_until([first], lambda: left.owned == {0, 1, 2, 3})
    second = await log.group_reader(MESSAGES, group, right)
    await poll_until([first, second], lambda: len(left.owned) == len(right.owned) == 2)
    assert left.owned | right.owned == {0, 1, 2, 3}
    assert ("revoked", [0, 1, 2, 3]) in left.told
    writer = await log.writer(durable=True)
    for partition in range(4):
        await writer.append(MESSAGES, partition, None, b"%d" % partition)
    mine, theirs = await asyncio.gather(read_by_partition(first, 2), read_by_partition(second, 2))
    assert (set(mine), set(theirs)) == (left.owned, right.owned)
    await second.close()
    await poll_until([first], lambda: left.owned == {0, 1, 2, 3})


async def test_equal_partitions_of_two_topics_share_an_owner(log: Log, log_url: str, topics: Topics) -> None:
    other = log if log_url == "memory" else await open_log(log_url, topics=topics, clock=SteppedClock())
    noted = [Noted() for _ in range(4)]
    readers = [
        await log.group_reader("members", "members-group", noted[0]),
        await log.group_reader("tasks", "tasks-group", noted[1]),
        await other.group_reader("members", "members-group", noted[2]),
        await other.group_reader("tasks", "tasks-group", noted[3]),
    ]
    await poll_until(readers, lambda: all(len(one.owned) == 1 for one in noted))
    assert noted[0].owned == noted[1].owned
    assert noted[2].owned == noted[3].owned
    await asyncio.gather(*(reader.close() for reader in readers))
    if other is not log:
        await other.close()


async def test_a_commit_for_a_partition_of_another_owner_is_fenced(log: Log) -> None:
    group, left, right = group_name(), Noted(), Noted()
    first = await log.group_reader(MESSAGES, group, left)
    await poll_until([first], lambda: left.owned == {0, 1, 2, 3})
    await first.commit({0: 0, 3: 0})
    second = await log.group_reader(MESSAGES, group, right)
    await poll_until([first, second], lambda: len(left.owned) == len(right.owned) == 2)
    lost, kept = min(right.owned), min(left.owned)
    with pytest.raises(Fenced):
        await first.commit({kept: 1, lost: 1})
    with pytest.raises(Fenced):
        first.position(lost)
    with pytest.raises(Fenced):
        first.seek(lost, 0)
    await first.commit({kept: 1})
    assert await first.committed(kept) == 1
    assert await second.committed(lost) in (0, None)


async def test_a_paused_partition_gives_nothing_until_it_is_resumed(log: Log) -> None:
    noted = Noted()
    reader = await log.group_reader(MESSAGES, group_name(), noted)
    await poll_until([reader], lambda: bool(noted.owned))
    writer = await log.writer(durable=True)
    reader.pause([0, 99])
    await writer.append(MESSAGES, 0, None, b"later")
    await writer.append(MESSAGES, 1, None, b"now")
    assert [record.value for record in await read(reader, 1)] == [b"now"]
    assert await reader.poll(10, 0.3) == {}
    reader.resume([0, 99])
    assert [record.value for record in await read(reader, 1)] == [b"later"]


async def test_a_listener_can_pause_what_it_is_given_before_a_record_comes(log: Log) -> None:
    writer = await log.writer(durable=True)
    await writer.append_many(MESSAGES, 0, [(None, b"%d" % number) for number in range(3)])

    class Pausing(Noted):
        reader: GroupReader

        def assigned(self, partitions: Iterable[int]) -> None:
            given = list(partitions)
            super().assigned(given)
            self.reader.pause(given)

    noted = Pausing()
    noted.reader = reader = await log.group_reader(MESSAGES, group_name(), noted)
    found: list[Mapping[int, Sequence[LogRecord]]] = []
    while not noted.owned or len(found) < 3:
        found.append(await reader.poll(10, 0.2))
    assert not any(found)
    reader.seek(0, 1)
    reader.resume([0])
    assert [record.offset for record in await read(reader, 2)] == [1, 2]


async def test_what_is_closed_answers_unavailable(log: Log) -> None:
    writer, reader = await log.writer(durable=True), await log.reader(MESSAGES, [0])
    await writer.close()
    await reader.close()
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: writer.append(MESSAGES, 0, None, b"x"),
        lambda: reader.poll(1, 0.1),
    ]
    for call in calls:
        with pytest.raises(Unavailable):
            await call()


async def test_ping_and_partitions_answer(log: Log) -> None:
    await log.ping()
    assert [log.partitions(topic) for topic in (MESSAGES, CHUNKS)] == [4, 4]


async def test_applying_topics_twice_says_that_they_are_there(log: Log, log_url: str, topics: Topics) -> None:
    said = await apply_topics(log_url, topics, replication=1)
    assert len(said) == len(topics.partitions)
    assert not [line for line in said if "differs" in line]


async def test_records_of_many_partitions_all_arrive(log: Log) -> None:
    reader = await log.reader(MESSAGES, [0, 1, 2, 3])
    writer = await log.writer(durable=True)
    for partition, _ in itertools.product(range(4), range(5)):
        await writer.append_many(MESSAGES, partition, [(None, b"x")] * 100)
    found = await read_by_partition(reader, 2_000)
    assert {partition: [record.offset for record in records] for partition, records in found.items()} == {
        partition: list(range(500)) for partition in range(4)
    }
