"""Fetched bytes become records: those that the client library reads in C, handed out as they are.

The library wraps each of them in an object of eleven fields made in Python, which was a fifth of what a message costs
the room worker (bench worker, a record: 1.2 µs, without it 0.3). What it has fetched waits in a dict of its fetcher;
``Fetched`` takes the place of that dict and gives each result another way to take records out. All else stays the
library's: what is fetched when, positions, pauses, rebalances, errors. These are insides of aiokafka 0.14
(``pyproject.toml`` holds it below 0.15); the tests compare with the library's own reading.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Iterator
from itertools import chain, dropwhile, islice
from typing import Any

from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.errors import CorruptRecordException

from fanout.ports import LogRecord


def hand_out_bare_records(consumer: Any) -> None:
    """Have a started consumer, which reads nothing yet, return bare records from ``getmany``."""
    assert not consumer._fetcher._records, "what was fetched before would come wrapped"
    consumer._fetcher._records = Fetched()


class Fetched(OrderedDict[TopicPartition, Any]):
    """What a fetcher holds until it is polled, by partition: results, and errors (which pass unchanged)."""

    def __setitem__(self, place: TopicPartition, result: Any) -> None:
        if type(result) is FetchResult:
            result.getall = _Rest(place, result).take
        super().__setitem__(place, result)


class _Rest:
    """What is left of a fetched partition. Holds megabytes, so nothing here may wait for the cycle collector."""

    __slots__ = ("_parsed", "_place", "_records", "_result")

    def __init__(self, place: TopicPartition, result: Any) -> None:
        self._place = place
        self._result = weakref.ref(result)  # which holds this
        self._parsed = result._partition_records
        self._parsed._records_iterator = None  # not used here, and it holds what holds it
        self._records = chain.from_iterable(_batches(place, self._parsed))

    def take(self, records_max: int | None = None) -> list[LogRecord]:
        """Return the next records and move the position behind them (in the place of ``FetchResult.getall``).

        Raises CorruptRecordException; the position stands still then.
        """
        result = self._result()
        assert result is not None, "only the result calls this"
        if not result.has_more() or not result.check_assignment(self._place):
            return []
        records = list(islice(self._records, records_max))
        is_over = records_max is None or len(records) < records_max
        if not is_over:
            self._parsed.next_fetch_offset = records[-1].offset + 1
        result._update_position()
        if is_over:
            result._partition_records = None
        return records


def _batches(place: TopicPartition, parsed: Any) -> Iterator[Iterator[LogRecord]]:
    """Yield the records of batch after batch, without those below the offset that was asked for."""
    batches, start = parsed._records, parsed.next_fetch_offset
    while batches.has_next():
        batch = batches.next_batch()
        if not batch.validate_crc():
            raise CorruptRecordException(f"wrong checksum in {place}")
        if not batch.is_control_batch:
            yield dropwhile(lambda record: record.offset < start, batch)
        # Compaction may have taken the last records of a batch away.
        parsed.next_fetch_offset = max(start, batch.next_offset)
