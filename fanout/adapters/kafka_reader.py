"""Reads from Kafka: partitions named by hand, and partitions that a group gives.

A consumer can go silent without an error (aiokafka issues 1154, 1037, 983, 703: after a broker restart or a lost
request). So a watch compares the position with the log's end, through another connection; where the end is ahead and
the position stands still although the reader is polled, the consumer is replaced and goes on at its position.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)

from fanout.adapters.kafka_client import Questions, bounded, close_quietly, is_cancelled
from fanout.adapters.kafka_records import hand_out_bare_records
from fanout.core.errors import Fenced, OutOfRange, Unavailable
from fanout.ports import Assignment, LogRecord
from fanout.runtime.metrics import REBUILDS

WATCH_S: Final = 3.0
SILENT_S: Final = 6.0  # behind, standing still, and polls came back empty
STARVED_S: Final = 30.0  # the same while polls bring other partitions: it may only be waiting for its turn
SESSION_MS: Final = 6_000
HEARTBEAT_MS: Final = (
    1_000  # a rebalance reaches the others with their next heartbeat: rooms move within a second or so
)
REBALANCE_MS: Final = 8_000
_GROUP_METADATA_MS: Final = 5_000  # a topic that was deleted and made anew is noticed no sooner than this
_FETCH_WAIT_MS: Final = 250  # an idle fetch; a record ends it at once
_GROUP_FETCH_WAIT_MS: Final = 100  # a partition that was sought or resumed waits for the fetch under way
_PARTITION_FETCH_BYTES: Final = 4 << 20
_GRACE_S: Final = 1.0  # getmany ends by itself, except while the group rebalances


class KafkaReader:
    """``ports.LogReader``: named partitions, from their ends."""

    kind = "reader"

    def __init__(self, bootstrap: Sequence[str], client_id: str, topic: str, questions: Questions) -> None:
        self._bootstrap = bootstrap
        self._client_id = client_id
        self._topic = topic  # with the prefix
        self._questions = questions
        self._consumer: Any = None
        self._positions: dict[int, int] = {}
        self._paused: set[int] = set()
        self._watch: asyncio.Task[None] | None = None
        self._stalled: dict[int, tuple[int, float]] = {}  # partition → (position, since when it stands there, behind)
        self._polls = self._empty_polls = 0
        self._silent = False
        self.closed = False

    async def start(self, partitions: Sequence[int]) -> None:
        """Connect and stand at the end of each partition; raises Unavailable."""
        ends = await self._questions.ends(self._topic, partitions)
        self._positions = {partition: end for partition, (_, end) in ends.items()}
        await self._build()
        self._watch = asyncio.create_task(self._watch_loop())

    async def poll(self, records_max: int, timeout_s: float) -> Mapping[int, Sequence[LogRecord]]:
        """Return records by partition; empty after ``timeout_s``. Raises OutOfRange, Unavailable."""
        if self.closed:
            raise Unavailable("this reader is closed")
        if self._silent or self._consumer is None:
            await self._rebuild()
        deadline_s = time.monotonic() + timeout_s
        while True:
            left_ms = max(0, int((deadline_s - time.monotonic()) * 1_000))
            try:
                found = await self._getmany(records_max, left_ms)
            except OffsetOutOfRangeError as error:
                await self._out_of_range(error)
            except NoOffsetForPartitionError:
                pass  # it was told before `_placed` sought; the position stands by now
            else:
                break
        self._polls += 1
        if not found:
            self._empty_polls += 1
        return {partition.partition: records for partition, records in found.items()}

    async def _getmany(self, records_max: int, timeout_ms: int) -> Mapping[TopicPartition, Sequence[Any]]:
        """Read, and move the positions; raises the two errors about offsets, Unavailable for the rest."""
        consumer = self._consumer
        try:
            async with asyncio.timeout(timeout_ms / 1_000 + _GRACE_S):
                found: Mapping[TopicPartition, Sequence[Any]] = await consumer.getmany(
                    timeout_ms=timeout_ms, max_records=records_max
                )
        except TimeoutError:
            return {}
        except (OffsetOutOfRangeError, NoOffsetForPartitionError):
            raise
        except (KafkaError, OSError, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and is_cancelled():
                raise
            self._silent = True  # whatever it is: the next poll begins with a fresh consumer
            raise Unavailable(f"kafka, read {self._topic}: {str(error) or type(error).__name__}") from error
        kept = {one: records for one, records in found.items() if records and one.partition in self._positions}
        for partition, records in kept.items():
            self._positions[partition.partition] = records[-1].offset + 1
        return kept

    async def _out_of_range(self, error: OffsetOutOfRangeError) -> None:
        """Raise OutOfRange, unless the caller has sought elsewhere since that fetch."""
        offsets: Mapping[TopicPartition, int] = error.args[0]
        for one, offset in offsets.items():
            if self._positions.get(one.partition) == offset:
                ((_, (earliest, end)),) = (await self._questions.ends(self._topic, [one.partition])).items()
                raise OutOfRange(self._topic, one.partition, offset, earliest, end) from error

    def position(self, partition: int) -> int:
        """Return the log offset that ``poll`` returns next; raises Fenced for a partition that is not read here."""
        if partition not in self._positions:
            raise Fenced(f"{self._topic}[{partition}] is not read here")
        return self._positions[partition]

    def seek(self, partition: int, offset: int) -> None:
        """Go on at ``offset``; raises Fenced for a partition that is not read here."""
        self.position(partition)
        self._positions[partition] = offset
        self._stalled.pop(partition, None)
        if self._consumer is not None:
            try:
                self._consumer.seek(TopicPartition(self._topic, partition), offset)
            except IllegalStateError as error:
                raise Fenced(f"{self._topic}[{partition}] is not read here any more") from error

    async def close(self) -> None:
        """Stop reading and close the connections."""
        self.closed = True
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await close_quietly(consumer.stop())

    # --- the consumer, and its replacement ---------------------------------------------------------------------------

    async def _build(self) -> None:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            client_id=self._client_id,
            enable_auto_commit=False,
            auto_offset_reset="none",
            fetch_min_bytes=1,
            fetch_max_wait_ms=_FETCH_WAIT_MS,
            max_partition_fetch_bytes=_PARTITION_FETCH_BYTES,
            request_timeout_ms=5_000,
            retry_backoff_ms=50,
            metadata_max_age_ms=60_000,
        )
        await _start(consumer)
        consumer.assign([TopicPartition(self._topic, partition) for partition in self._positions])
        for partition, offset in self._positions.items():
            consumer.seek(TopicPartition(self._topic, partition), offset)
        self._consumer = consumer

    async def _rebuild(self) -> None:
        """Replace the consumer; raises Unavailable (the next poll tries again)."""
        consumer, self._consumer = self._consumer, None
        self._silent = True
        if consumer is not None:
            await close_quietly(consumer.stop())
        await self._build()
        self._silent = False
        self._stalled.clear()
        REBUILDS.labels(self.kind).inc()

    async def _watch_loop(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            reading = [partition for partition in self._positions if partition not in self._paused]
            try:
                ends = await self._questions.ends(self._topic, reading) if reading else {}
            except Unavailable:
                continue  # the log is down for everybody: nothing is known about this consumer
            if self._is_silent({partition: end for partition, (_, end) in ends.items()}, time.monotonic()):
                self._silent = True

    def _is_silent(self, ends: Mapping[int, int], now_s: float) -> bool:
        """True when a partition is behind and stands still for too long although the reader is polled."""
        polls, empty, self._polls, self._empty_polls = self._polls, self._empty_polls, 0, 0
        if not polls:  # its owner is busy or has paused: nothing can be expected to move
            self._stalled.clear()
            return False
        stalled = {}
        for partition, end in ends.items():
            position = self._positions.get(partition)
            if position is not None and position < end:
                known = self._stalled.get(partition)
                stalled[partition] = known if known and known[0] == position else (position, now_s)
        self._stalled = stalled
        bound_s = SILENT_S if empty else STARVED_S
        return any(now_s - since_s >= bound_s for _, since_s in stalled.values())


async def _start(consumer: Any) -> None:
    """Start a consumer, which has nothing to read yet; raises Unavailable."""
    try:
        async with bounded("connect"):
            await consumer.start()
    except BaseException:
        await close_quietly(consumer.stop())
        raise
    hand_out_bare_records(consumer)


class KafkaGroupReader(KafkaReader):
    """``ports.GroupReader``: partitions come and go with the group (range assignment, eager)."""

    kind = "group_reader"

    def __init__(
        self,
        bootstrap: Sequence[str],
        client_id: str,
        topic: str,
        questions: Questions,
        group: str,
        assignment: Assignment,
    ) -> None:
        super().__init__(bootstrap, client_id, topic, questions)
        self._group = group
        self._assignment = assignment

    async def join(self) -> None:
        """Connect and ask to join; partitions come later. Raises Unavailable."""
        await self._build()
        self._watch = asyncio.create_task(self._watch_loop())

    def pause(self, partitions: Iterable[int]) -> None:
        """Return nothing of these partitions until ``resume``; those of others are passed over."""
        for partition in partitions:
            if self._owned_now(partition):
                self._paused.add(partition)
                self._stalled.pop(partition, None)
                self._consumer.pause(TopicPartition(self._topic, partition))

    def resume(self, partitions: Iterable[int]) -> None:
        """Go on where ``pause`` stopped."""
        for partition in partitions:
            if partition in self._paused:
                self._paused.discard(partition)
                if self._owned_now(partition):
                    self._consumer.resume(TopicPartition(self._topic, partition))

    def _owned_now(self, partition: int) -> bool:
        return (
            partition in self._positions
            and self._consumer is not None
            and TopicPartition(self._topic, partition) in self._consumer.assignment()
        )

    async def committed(self, partition: int) -> int | None:
        """Return the committed offset, or None; raises Unavailable."""
        if self._consumer is None:
            raise Unavailable("kafka, committed offset: the reader is being rebuilt")
        async with bounded(f"committed offset of {self._topic}[{partition}]"):
            offset: int | None = await self._consumer.committed(TopicPartition(self._topic, partition))
        return offset

    async def commit(self, offsets: Mapping[int, int]) -> None:
        """Store offsets; raises Fenced where a partition is not this reader's any more, Unavailable."""
        if not offsets:
            return
        lost = [partition for partition in offsets if not self._owned_now(partition)]
        if lost:
            raise Fenced(f"{self._topic}{sorted(lost)} belongs to another owner")
        try:
            async with bounded(f"commit of {self._topic}"):
                await self._consumer.commit({TopicPartition(self._topic, p): offset for p, offset in offsets.items()})
        except Unavailable as error:
            if isinstance(error.__cause__, CommitFailedError | IllegalStateError):
                raise Fenced(f"{self._topic}{sorted(offsets)}: the group has rebalanced") from error
            raise

    async def _build(self) -> None:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            client_id=self._client_id,
            group_id=self._group,
            enable_auto_commit=False,
            auto_offset_reset="none",
            partition_assignment_strategy=(RangePartitionAssignor,),
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=HEARTBEAT_MS,
            rebalance_timeout_ms=REBALANCE_MS,
            fetch_min_bytes=1,
            fetch_max_wait_ms=_GROUP_FETCH_WAIT_MS,
            max_partition_fetch_bytes=_PARTITION_FETCH_BYTES,
            request_timeout_ms=REBALANCE_MS + 4_000,  # joining waits for the other members
            retry_backoff_ms=100,
            metadata_max_age_ms=_GROUP_METADATA_MS,
        )
        await _start(consumer)
        self._consumer = consumer
        consumer.subscribe([self._topic], listener=_Listener(self, consumer))

    async def _rebuild(self) -> None:
        """Leave and join anew: the group decides what this reader gets, as after any absence."""
        self.lose(list(self._positions))
        await super()._rebuild()

    def lose(self, partitions: Iterable[int]) -> None:
        """Forget partitions and tell the listener (for the rebalance)."""
        lost = [partition for partition in partitions if self._positions.pop(partition, None) is not None]
        self._paused.difference_update(lost)
        if lost:
            self._assignment.revoked(sorted(lost))

    async def gain(self, consumer: Any, partitions: Sequence[int]) -> None:
        """Stand at the committed offset of each partition, else at the earliest, then tell the listener."""
        places = [TopicPartition(self._topic, partition) for partition in partitions]
        committed = await asyncio.gather(*(consumer.committed(place) for place in places))
        fresh = [place for place, offset in zip(places, committed, strict=True) if offset is None]
        earliest = await consumer.beginning_offsets(fresh) if fresh else {}
        for place, offset in zip(places, committed, strict=True):
            start = offset if offset is not None else earliest[place]
            consumer.seek(place, start)
            self._positions[place.partition] = start
        self._assignment.assigned(sorted(partitions))

    def fail(self) -> None:
        """Have the consumer replaced at the next poll (for the rebalance)."""
        self._silent = True

    def is_current(self, consumer: Any) -> bool:
        """True unless the consumer has been replaced; a late callback of an old one says nothing."""
        return consumer is self._consumer and not self.closed


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Passes rebalances on. It takes no lock that a poll might hold (aiokafka issue 335), and only asks for offsets."""

    def __init__(self, reader: KafkaGroupReader, consumer: Any) -> None:
        self._reader = reader
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        if self._reader.is_current(self._consumer):
            self._reader.lose([one.partition for one in revoked])

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        if not self._reader.is_current(self._consumer):
            return
        try:
            async with bounded("positions of a new assignment"):
                await self._reader.gain(self._consumer, [one.partition for one in assigned])
        except Unavailable:
            self._reader.fail()
