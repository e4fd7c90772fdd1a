"""Bare records out of fetched bytes: the same that the client library's own reading gives, and nothing left behind."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import FetchError, FetchResult, PartitionRecords
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.errors import CorruptRecordException, KafkaError
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c

from fanout.adapters.kafka_records import Fetched

PLACE = TopicPartition("t.messages", 3)
NONE, GZIP = 0, 1
CONTROL_BIT = 0x20
FIRST = 100


def batch(offset: int, records: int, *, codec: int = NONE) -> bytes:
    """Return a batch as a broker sends it; record times are 1,000 + log offset."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=codec,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 20,
    )
    for index in range(records):
        key = None if index % 3 == 2 else b"key %d" % (offset + index)
        value = None if index % 5 == 4 else b"value %d" % (offset + index)
        builder.append(index, 1_000 + offset + index, key, value, [])
    built = bytearray(builder.build())
    built[:8] = offset.to_bytes(8, "big")  # the checksum begins behind it
    return bytes(built)


STORED = {FIRST: batch(FIRST, 7), FIRST + 7: batch(FIRST + 7, 9, codec=GZIP), FIRST + 20: batch(FIRST + 20, 5)}
BATCHES = b"".join(STORED.values())
OFFSETS = [*range(FIRST, FIRST + 16), *range(FIRST + 20, FIRST + 25)]


class Fetch:
    """One fetched partition at ``start``, in the fetcher's dict; ``bare`` or as the library reads it."""

    def __init__(self, data: bytes, start: int = FIRST, *, bare: bool = True) -> None:
        subscription = SubscriptionState()
        subscription.assign_from_user([PLACE])
        self.assignment: Any = subscription.subscription.assignment
        self.state: Any = self.assignment.state_value(PLACE)
        self.state.reset_to(start)
        self.held: dict[TopicPartition, Any] = Fetched() if bare else {}
        parsed = PartitionRecords(PLACE, MemoryRecords(data), None, start, None, None, True, 0)
        self.parsed = weakref.ref(parsed)
        self.held[PLACE] = FetchResult(PLACE, assignment=self.assignment, partition_records=parsed, backoff=0)

    @property
    def position(self) -> int:
        """Where the next fetch begins."""
        return int(self.state.position)

    def take(self, records_max: int | None = None) -> list[Any]:
        """Take records out, as ``getmany`` does."""
        return list(self.held[PLACE].getall(records_max))

    def has_more(self) -> bool:
        return bool(self.held[PLACE].has_more())


def seen(records: Iterable[Any]) -> list[tuple[int, int, bytes | None, bytes | None]]:
    return [(record.offset, record.timestamp, record.key, record.value) for record in records]


async def test_all_batches_are_read_and_the_position_stands_behind_them() -> None:
    fetch = Fetch(BATCHES)
    records = fetch.take()
    assert [record.offset for record in records] == OFFSETS
    assert seen(records)[0] == (FIRST, 1_000 + FIRST, b"key 100", b"value 100")
    assert fetch.position == FIRST + 25
    assert not fetch.has_more() and fetch.take() == []


@pytest.mark.parametrize("start", [FIRST, FIRST + 3, FIRST + 7, FIRST + 12, FIRST + 18, FIRST + 24, FIRST + 25])
@pytest.mark.parametrize("records_max", [None, 1, 4, 7, 16, 21, 22])
async def test_records_and_positions_are_those_of_the_library(start: int, records_max: int | None) -> None:
    holding = max(offset for offset in STORED if offset <= start)  # a broker's answer begins with the batch around it
    data = b"".join(stored for offset, stored in STORED.items() if offset >= holding)
    ours, theirs = Fetch(data, start), Fetch(data, start, bare=False)
    while theirs.has_more():
        assert seen(ours.take(records_max)) == seen(theirs.take(records_max))
        assert (ours.position, ours.has_more()) == (theirs.position, theirs.has_more())


@pytest.mark.parametrize("records_max", [None, 2])
async def test_whole_batches_below_the_offset_that_was_asked_for_are_passed(records_max: int | None) -> None:
    fetch = Fetch(BATCHES, FIRST + 23)
    assert [record.offset for record in fetch.take(records_max)] == [FIRST + 23, FIRST + 24]
    beyond = Fetch(BATCHES, FIRST + 30)
    assert beyond.take(records_max) == [] and beyond.position == FIRST + 30


async def test_control_batches_give_nothing_and_are_passed() -> None:
    control = bytearray(batch(FIRST + 7, 1))
    control[22] |= CONTROL_BIT  # attributes, two bytes from 21 on; the checksum does not fit any more
    whole = batch(FIRST, 7) + resealed(control) + batch(FIRST + 8, 2)
    ours, theirs = Fetch(whole), Fetch(whole, bare=False)
    assert seen(ours.take()) == seen(theirs.take())
    assert ours.position == theirs.position == FIRST + 10


def resealed(changed: bytearray) -> bytes:
    """Return a batch with the checksum of what stands in it."""
    changed[17:21] = calc_crc32c(changed[21:]).to_bytes(4, "big")
    return bytes(changed)


async def test_a_wrong_checksum_is_raised_and_the_position_stands_still() -> None:
    broken = bytearray(BATCHES)
    broken[-1] ^= 1
    fetch = Fetch(bytes(broken))
    with pytest.raises(CorruptRecordException):
        fetch.take()
    assert fetch.position == FIRST


@pytest.mark.parametrize("start", [FIRST + 5, FIRST + 9])
async def test_nothing_is_returned_for_a_partition_that_was_sought_meanwhile(start: int) -> None:
    fetch = Fetch(BATCHES)
    assert len(fetch.take(5)) == 5
    fetch.state.seek(start)
    found = fetch.take(2)
    assert [record.offset for record in found] == ([FIRST + 5, FIRST + 6] if start == FIRST + 5 else [])
    assert fetch.has_more() == (start == FIRST + 5)


async def test_nothing_is_returned_for_a_paused_or_lost_partition() -> None:
    for fetch, end in ((Fetch(BATCHES), "pause"), (Fetch(BATCHES), "unassign")):
        if end == "pause":
            fetch.state.pause()
        else:
            fetch.assignment._unassign()
        assert fetch.take() == [] and not fetch.has_more()


async def test_errors_of_a_fetch_pass_unchanged() -> None:
    held = Fetched()
    held[PLACE] = FetchError(error=KafkaError("no"), backoff=0)
    with pytest.raises(KafkaError):
        held[PLACE].check_raise()


@pytest.mark.parametrize("takes", [[], [3], [3, 9], [None]])
async def test_fetched_bytes_are_freed_without_the_cycle_collector(takes: Sequence[int | None]) -> None:
    gc.collect()
    gc.disable()
    try:
        fetch = Fetch(BATCHES)
        for records_max in takes:
            fetch.take(records_max)
        del fetch.held[PLACE]
        assert fetch.parsed() is None
    finally:
        gc.enable()
