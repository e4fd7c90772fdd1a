"""The log's twin: topics in the memory of one process, on one event loop.

It ships: ``fanout serve`` without servers, the demo, tests and simulations run on it. It is bounded: a partition keeps
at most so many records, bytes and milliseconds, ``earliest`` moves up, and a reader behind it gets ``OutOfRange``.

Unlike Kafka it keeps nothing across a restart, an append never waits, a rebalance takes one turn of the loop, and
``available`` (for tests and simulations) takes the whole log away and gives it back.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Final, NamedTuple

import msgspec

from fanout.core.errors import Fenced, OutOfRange, Unavailable
from fanout.core.limits import RECORD_BYTES_MAX
from fanout.core.records import CHUNKS, DEAD, MEMBERS, MESSAGES, TASKS
from fanout.ports import Appended, Assignment, Clock, Topics

_DAY_MS: Final = 86_400_000
_OFFSET: Final = attrgetter("offset")
_TIME: Final = attrgetter("timestamp")
_COMPACT_MIN: Final = 1_024  # below so many records compacting costs more than it frees


class Retention(NamedTuple):
    """What a partition keeps. ``compacted``: of every key the newest record, tombstones for as long as nothing else."""

    records_max: int
    bytes_max: int
    age_ms: int
    compacted: bool = False


# The ages are DESIGN §3's; records and bytes bound one process: a room's records all stand in one partition.
RETENTION: Final[dict[str, Retention]] = {
    MESSAGES: Retention(65_536, 32 << 20, 7 * _DAY_MS),
    MEMBERS: Retention(1_048_576, 64 << 20, 1 << 62, compacted=True),
    TASKS: Retention(65_536, 32 << 20, 3_600_000),
    CHUNKS: Retention(16_384, 64 << 20, 600_000),
    DEAD: Retention(10_000, 16 << 20, 30 * _DAY_MS),
}


class Record(msgspec.Struct, frozen=True, gc=False):
    """A record of the twin; see ``ports.LogRecord``."""

    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None

    @property
    def size(self) -> int:
        """Bytes of key and value."""
        return len(self.key or b"") + len(self.value or b"")


class _Partition:
    """Records of one partition, oldest first; ``_start`` is the index of the first that is still held."""

    def __init__(self, topic: str, number: int, retention: Retention) -> None:
        self.topic = topic
        self.number = number
        self.earliest = 0
        self.end = 0
        self.readers: set[MemoryReader] = set()
        self._retention = retention
        self._records: list[Record] = []
        self._start = 0
        self._bytes = 0
        self._last_ms = 0
        self._compact_at = _COMPACT_MIN

    def append(self, key: bytes | None, value: bytes | None, wall_ms: int) -> Record:
        """Add a record; its time is the clock's, but never below that of the record before it."""
        self._last_ms = max(self._last_ms, wall_ms)
        record = Record(self.number, self.end, self._last_ms, key, value)
        self.end += 1
        self._records.append(record)
        self._bytes += record.size
        if self._retention.compacted and len(self._records) >= self._compact_at:
            self._compact()
        self.expire(wall_ms)
        return record

    def expire(self, wall_ms: int) -> None:
        """Let go of what is beyond the retention."""
        records, keep = self._records, self._retention
        oldest_ms = wall_ms - keep.age_ms
        while self._start < len(records) and (
            len(records) - self._start > keep.records_max
            or self._bytes > keep.bytes_max
            or records[self._start].timestamp < oldest_ms
        ):
            self._bytes -= records[self._start].size
            self.earliest = records[self._start].offset + 1
            self._start += 1
        if self._start > 1_024 and self._start * 2 > len(records):  # amortised: each record is moved once at most
            del records[: self._start]
            self._start = 0

    def _compact(self) -> None:
        """Keep the newest record of every key. Offsets and ``earliest`` stay, so there are holes, as in Kafka."""
        newest = {record.key: record for record in self._records[self._start :]}
        self._records = sorted((r for r in newest.values() if r.value is not None), key=_OFFSET)
        self._start = 0
        self._bytes = sum(record.size for record in self._records)
        self._compact_at = max(_COMPACT_MIN, 2 * len(self._records))

    def read(self, offset: int, records_max: int) -> list[Record]:
        """Return records from ``offset`` on; raises OutOfRange."""
        if not self.earliest <= offset <= self.end:
            raise OutOfRange(self.topic, self.number, offset, self.earliest, self.end)
        records, start = self._records, self._start
        if start == len(records):
            return []
        index = start + max(0, offset - records[start].offset)  # exact unless compaction left holes
        if index >= len(records) or records[index].offset > offset:
            index = bisect_left(records, offset, start, key=_OFFSET)
        return records[index : index + records_max]

    def offset_at(self, at_ms: int) -> int:
        """Return the offset of the first record at or after ``at_ms``, or the end."""
        index = bisect_left(self._records, at_ms, self._start, key=_TIME)
        return self._records[index].offset if index < len(self._records) else self.end


class MemoryLog:
    """``ports.Log`` in memory. One object serves all roles of a process; it belongs to one event loop."""

    def __init__(self, topics: Topics, clock: Clock, retention: Mapping[str, Retention] | None = None) -> None:
        self.topics = topics
        self.clock = clock
        self.available = True
        keep = {**RETENTION, **(retention or {})}
        self._partitions = {
            topic: [_Partition(topics.name(topic), number, keep[topic]) for number in range(count)]
            for topic, count in topics.partitions.items()
        }
        self._groups: dict[tuple[str, str], _Group] = {}
        self._closed = False

    def check(self) -> None:
        """Raise Unavailable where the log is closed or taken away."""
        if self._closed or not self.available:
            raise Unavailable("the log in memory is closed" if self._closed else "the log in memory was taken away")

    def partition(self, topic: str, number: int) -> _Partition:
        """Return one partition (for readers and writers of this module)."""
        return self._partitions[topic][number]

    async def writer(self, *, durable: bool) -> MemoryWriter:
        """Return a writer; both kinds are the same here."""
        self.check()
        return MemoryWriter(self, durable=durable)

    async def reader(self, topic: str, partitions: Sequence[int]) -> MemoryReader:
        """Return a reader of named partitions that starts at their ends."""
        self.check()
        reader = MemoryReader(self, topic)
        for number in partitions:
            reader.take(number, self.partition(topic, number).end)
        return reader

    async def group_reader(self, topic: str, group: str, assignment: Assignment) -> MemoryGroupReader:
        """Join a group; the first partitions come in the next turn of the loop."""
        self.check()
        joined = self._groups.setdefault((topic, group), _Group(self, topic))
        reader = MemoryGroupReader(self, topic, joined, assignment)
        joined.join(reader)
        return reader

    async def ends(self, topic: str, partitions: Sequence[int]) -> Mapping[int, tuple[int, int]]:
        """Return (earliest, end) of each partition."""
        self.check()
        found = {number: self.partition(topic, number) for number in partitions}
        for partition in found.values():
            partition.expire(self.clock.wall_ms())
        return {number: (partition.earliest, partition.end) for number, partition in found.items()}

    async def offset_at(self, topic: str, partition: int, at_ms: int) -> int:
        """Return the offset of the first record at or after ``at_ms``, or the end."""
        self.check()
        found = self.partition(topic, partition)
        found.expire(self.clock.wall_ms())
        return found.offset_at(at_ms)

    def partitions(self, topic: str) -> int:
        """Return the partition count of a topic."""
        return len(self._partitions[topic])

    async def ping(self) -> None:
        """Return, or raise Unavailable when the log is closed or taken away."""
        self.check()

    async def close(self) -> None:
        """End all readers and writers; everything on the log is gone with the last reference."""
        self._closed = True
        for partitions in self._partitions.values():
            for partition in partitions:
                for reader in partition.readers:
                    reader.wake()


class MemoryWriter:
    """``ports.LogWriter`` in memory."""

    def __init__(self, log: MemoryLog, *, durable: bool) -> None:
        self.durable = durable
        self._log = log
        self._closed = False

    async def append(self, topic: str, partition: int, key: bytes | None, value: bytes | None) -> Appended:
        """Append one record; raises Unavailable, ValueError for one beyond ``RECORD_BYTES_MAX``."""
        return await self.append_many(topic, partition, ((key, value),))

    async def append_many(
        self, topic: str, partition: int, records: Sequence[tuple[bytes | None, bytes | None]]
    ) -> Appended:
        """Append records side by side and wake the readers; raises Unavailable, ValueError (then none is appended)."""
        self._log.check()
        if self._closed:
            raise Unavailable("this writer is closed")
        if not records:
            raise ValueError("append_many needs a record")
        for key, value in records:
            check_record_size(key, value)
        where = self._log.partition(topic, partition)
        wall_ms = self._log.clock.wall_ms()
        first = where.append(*records[0], wall_ms)
        for key, value in records[1:]:
            where.append(key, value, wall_ms)
        for reader in where.readers:
            reader.notice(partition)
        return Appended(partition, first.offset, first.timestamp)

    async def close(self) -> None:
        """End this writer."""
        self._closed = True


def check_record_size(key: bytes | None, value: bytes | None) -> None:
    """Raise ValueError for a record that the log would never take; to try again would be in vain."""
    size = len(key or b"") + len(value or b"")
    if size > RECORD_BYTES_MAX:
        raise ValueError(f"a record has at most {RECORD_BYTES_MAX} bytes, this one {size}")


class MemoryReader:
    """``ports.LogReader`` in memory. An append marks its partition as ready and wakes the poll; nothing is scanned."""

    def __init__(self, log: MemoryLog, topic: str) -> None:
        self._log = log
        self._topic = topic
        self._positions: dict[int, int] = {}
        self._paused: set[int] = set()
        self._ready: dict[int, None] = {}  # in the order of their turn
        self._wake = asyncio.Event()
        self._closed = False

    def take(self, partition: int, offset: int) -> None:
        """Begin to read a partition at ``offset`` (for the log and the group)."""
        self._positions[partition] = offset
        self._log.partition(self._topic, partition).readers.add(self)
        self.notice(partition)

    def drop(self, partition: int) -> None:
        """Stop reading a partition (for the log and the group)."""
        self._positions.pop(partition, None)
        self._paused.discard(partition)
        self._ready.pop(partition, None)
        self._log.partition(self._topic, partition).readers.discard(self)

    def notice(self, partition: int) -> None:
        """There may be something to read."""
        self._ready[partition] = None
        self._wake.set()

    def wake(self) -> None:
        """Let a waiting poll look again."""
        self._wake.set()

    async def poll(self, records_max: int, timeout_s: float) -> Mapping[int, Sequence[Record]]:
        """Return records by partition; empty after ``timeout_s``. Raises OutOfRange, Unavailable.

        Gives the loop one turn in any case: a worker with a backlog must not starve the other roles of its process.
        """
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(timeout_s):
                while not (found := self._read(records_max)):
                    self._wake.clear()
                    await self._wake.wait()
                return found
        except TimeoutError:
            return {}

    def _read(self, records_max: int) -> dict[int, Sequence[Record]]:
        self._log.check()
        if self._closed:
            raise Unavailable("this reader is closed")
        found: dict[int, Sequence[Record]] = {}
        for number in list(self._ready):
            if records_max <= 0:
                break
            del self._ready[number]
            if number in self._paused:
                continue
            records = self._log.partition(self._topic, number).read(self._positions[number], records_max)
            if not records:
                continue
            found[number] = records
            self._positions[number] = records[-1].offset + 1
            records_max -= len(records)
            self._ready[number] = (
                None  # there may be more: at the end of the queue, so that every partition has its turn
            )
        return found

    def position(self, partition: int) -> int:
        """Return the log offset that ``poll`` returns next; raises Fenced for a partition that is not read here."""
        if partition not in self._positions:
            raise Fenced(f"{self._topic}[{partition}] is not read here")
        return self._positions[partition]

    def seek(self, partition: int, offset: int) -> None:
        """Go on at ``offset``; raises Fenced for a partition that is not read here."""
        self.position(partition)
        self._positions[partition] = offset
        self.notice(partition)

    async def close(self) -> None:
        """Stop reading."""
        self._closed = True
        for number in list(self._positions):
            self.drop(number)
        self._wake.set()


class MemoryGroupReader(MemoryReader):
    """``ports.GroupReader`` in memory."""

    def __init__(self, log: MemoryLog, topic: str, group: _Group, assignment: Assignment) -> None:
        super().__init__(log, topic)
        self._group = group
        self._assignment = assignment

    def owned(self) -> list[int]:
        """Return the partitions of this reader, in order."""
        return sorted(self._positions)

    def give(self, partitions: Sequence[int]) -> None:
        """Take partitions over from the group, at their committed offsets, else at the earliest."""
        for number in partitions:
            earliest = self._log.partition(self._topic, number).earliest
            self.take(number, self._group.committed.get(number, earliest))
        self._assignment.assigned(partitions)

    def revoke(self) -> None:
        """Lose all partitions; the listener is told."""
        lost = self.owned()
        for number in lost:
            self.drop(number)
        if lost:
            self._assignment.revoked(lost)

    def lapse(self) -> None:
        """Be thrown out by the group without being told, as after missed heartbeats (for tests and simulations).

        Commits are refused from now on; the next poll notices, tells the listener, and joins anew.
        """
        self._group.leave(self)

    async def poll(self, records_max: int, timeout_s: float) -> Mapping[int, Sequence[Record]]:
        """As ``MemoryReader.poll``; a reader that the group has thrown out joins anew."""
        if not self._closed and self not in self._group.readers:
            self.revoke()
            self._group.join(self)
        return await super().poll(records_max, timeout_s)

    def pause(self, partitions: Iterable[int]) -> None:
        """Return nothing of these partitions until ``resume``; those of others are passed over."""
        self._paused.update(number for number in partitions if number in self._positions)

    def resume(self, partitions: Iterable[int]) -> None:
        """Go on where ``pause`` stopped."""
        for number in partitions:
            if number in self._paused:
                self._paused.discard(number)
                self.notice(number)

    async def committed(self, partition: int) -> int | None:
        """Return the committed offset, or None."""
        self._log.check()
        return self._group.committed.get(partition)

    async def commit(self, offsets: Mapping[int, int]) -> None:
        """Store offsets; raises Fenced (and stores none) where a partition is not this reader's."""
        self._log.check()
        lost = [number for number in offsets if number not in self._positions]
        if lost or self not in self._group.readers:
            raise Fenced(f"{self._topic}{sorted(lost or offsets)} belongs to another owner")
        self._group.committed.update(offsets)

    async def close(self) -> None:
        """Leave the group; the others take over."""
        await super().close()
        self._group.leave(self)


class _Group:
    """Readers that share the partitions of a topic: range assignment in the order of joining, eager as in Kafka."""

    def __init__(self, log: MemoryLog, topic: str) -> None:
        self.committed: dict[int, int] = {}
        self.readers: list[MemoryGroupReader] = []
        self._partitions = log.partitions(topic)
        self._due = False

    def join(self, reader: MemoryGroupReader) -> None:
        """Add a reader and share anew, soon."""
        self.readers.append(reader)
        self._rebalance_soon()

    def leave(self, reader: MemoryGroupReader) -> None:
        """Remove a reader and share anew, soon."""
        if reader in self.readers:
            self.readers.remove(reader)
            self._rebalance_soon()

    def _rebalance_soon(self) -> None:
        # Not at once: ``group_reader`` must have returned before its listener hears of partitions to pause.
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._rebalance)

    def _rebalance(self) -> None:
        self._due = False
        for reader in self.readers:
            reader.revoke()
        each, more = divmod(self._partitions, max(1, len(self.readers)))
        start = 0
        for index, reader in enumerate(list(self.readers)):
            count = each + (index < more)
            reader.give(range(start, start + count))
            start += count
