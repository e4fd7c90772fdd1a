"""The Kafka adapter when the broker dies, hangs and comes back (FAULTS 4, 6): bounded waits, then on by itself."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from fanout.adapters import apply_topics, open_log
from fanout.adapters.kafka_topics import TopicMismatch
from fanout.core.errors import Unavailable
from fanout.core.records import CHUNKS, MESSAGES
from fanout.ports import Log, LogReader, LogWriter, Topics
from scripts.parts import Running, start_kafka
from tests.support.clocks import SteppedClock
from tests.support.parts import freeze, need

pytestmark = pytest.mark.real
BOUND_S = 6.0  # the adapter's own bound is 5 s
BACK_S = 40.0
TOPICS = Topics(prefix="faults", partitions={MESSAGES: 2, CHUNKS: 2})


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Running]:
    """A broker of this test's own."""
    part = need(lambda: start_kafka(tmp_path / "kafka"))
    yield part
    part.stop()


class Silent:
    """An Assignment that does not care."""

    def assigned(self, partitions: Iterable[int]) -> None:
        """Do nothing."""

    def revoked(self, partitions: Iterable[int]) -> None:
        """Do nothing."""


async def append_until_it_stands(writer: LogWriter, value: bytes) -> None:
    """Append until the log takes it; every attempt is bounded."""
    deadline_s = time.monotonic() + BACK_S
    while True:
        started_s = time.monotonic()
        try:
            await writer.append(MESSAGES, 0, None, value)
            return
        except Unavailable:
            assert time.monotonic() - started_s < BOUND_S
            assert time.monotonic() < deadline_s, "the writer did not come back"
            await asyncio.sleep(0.1)


async def read_until(reader: LogReader, value: bytes) -> list[bytes | None]:
    """Poll until ``value`` comes; return all values."""
    seen: list[bytes | None] = []
    deadline_s = time.monotonic() + BACK_S
    while value not in seen:
        assert time.monotonic() < deadline_s, f"the reader did not come back; it has {seen[-3:]}"
        try:
            for records in (await reader.poll(1_000, 0.5)).values():
                seen += [record.value for record in records]
        except Unavailable:
            await asyncio.sleep(0.1)
    return seen


async def open_here(broker: Running) -> Log:
    return await open_log(f"kafka://{broker.address}", topics=TOPICS, clock=SteppedClock())


async def test_writers_and_readers_outlive_a_killed_broker(broker: Running) -> None:
    log = await open_here(broker)
    try:
        writer = await log.writer(durable=True)
        named = await log.reader(MESSAGES, [0])
        grouped = await log.group_reader(MESSAGES, "g", Silent())
        await append_until_it_stands(writer, b"before")
        await asyncio.gather(read_until(named, b"before"), read_until(grouped, b"before"))
        await grouped.commit({0: 1})
        broker.kill()
        started_s = time.monotonic()
        with pytest.raises(Unavailable):
            await log.ping()
        with pytest.raises(Unavailable):
            await writer.append(MESSAGES, 0, None, b"lost or late")
        assert time.monotonic() - started_s < 2 * BOUND_S
        broker.spawn()
        await append_until_it_stands(writer, b"after")
        by_name, by_group = await asyncio.gather(read_until(named, b"after"), read_until(grouped, b"after"))
        assert by_name[-1] == b"after"
        assert b"before" not in by_name
        assert by_group[-1] == b"after"
        await log.ping()
    finally:
        await log.close()


async def test_a_broker_that_hangs_blocks_nobody_beyond_the_bound(broker: Running) -> None:
    log = await open_here(broker)
    try:
        writer, reader = await log.writer(durable=True), await log.reader(MESSAGES, [0])
        await append_until_it_stands(writer, b"before")
        await read_until(reader, b"before")
        freeze(broker.processes[0].pid)
        started_s = time.monotonic()
        results = await asyncio.gather(
            writer.append(MESSAGES, 0, None, b"hangs"),
            writer.append_many(MESSAGES, 1, [(None, b"hangs")]),
            log.ping(),
            log.ends(MESSAGES, [0]),
            return_exceptions=True,
        )
        assert all(isinstance(result, Unavailable) for result in results), results
        assert time.monotonic() - started_s < BOUND_S
        broker.processes[0].send_signal(signal.SIGCONT)
        await append_until_it_stands(writer, b"after")
        assert (await read_until(reader, b"after"))[-1] == b"after"
    finally:
        broker.processes[0].send_signal(signal.SIGCONT)
        await log.close()


async def test_another_partition_count_is_refused_and_missing_topics_are_reported(broker: Running) -> None:
    url = f"kafka://{broker.address}"
    said = await apply_topics(url, TOPICS, replication=1)
    assert sorted(said) == ["faults.chunks: created with 2 partitions", "faults.messages: created with 2 partitions"]
    more = Topics(prefix="faults", partitions={MESSAGES: 3, CHUNKS: 2})
    with pytest.raises(TopicMismatch, match=r"faults\.messages has 2, not 3"):
        await apply_topics(url, more, replication=1)
    with pytest.raises(TopicMismatch):
        await open_log(url, topics=more, clock=SteppedClock())
    differing = await apply_topics(url, TOPICS, replication=3)
    assert all("min.insync.replicas is 1, not 2" in line for line in differing)


async def test_a_kafka_that_is_not_there_is_unavailable_at_once() -> None:
    started_s = time.monotonic()
    with pytest.raises(Unavailable):
        await open_log("kafka://127.0.0.1:1", topics=TOPICS, clock=SteppedClock())
    assert time.monotonic() - started_s < BOUND_S
