"""The member worker: polls ``members`` and writes durable membership through to the store, shard by shard.

Key ``app/room/user``, value a JOINED record, or none = left. One batch per room shard and poll, then the partition's
mark (everything before it is written: an absent user is no member), then the commit. Applying is idempotent by log
offset, so a crash at any point repeats work and changes nothing.

In this version the lists live in the store alone; presence keys (``app/room/user/slot``) are parked.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import structlog

from fanout.core.errors import FanoutError, Fenced, OutOfRange, RecordError, Refused, Unavailable
from fanout.core.limits import (
    DRAIN_WORKER_S,
    MEMBER_APPLIES_AT_ONCE,
    MEMBER_SHARDS,
    POLL_RECORDS_MAX,
    SHARD_COUNTS_MAX,
)
from fanout.core.messages import check_app, check_room, check_user, room_key
from fanout.core.records import HEADER_BYTES, JOINED, MEMBERS, Joined, body, header
from fanout.ports import Clock, GroupReader, Log, LogRecord, MemberChange, Store
from fanout.runtime import metrics
from sharding.placement import partition_of, shard_key, shard_of
from workers.dead_letters import DeadLetters
from workers.poison import Poison
from workers.steady_writer import SteadyWriter

GROUP: Final = "fanout-member-workers"
POLL_S: Final = 0.2
PAUSE_MIN_S: Final = 0.05
PAUSE_MAX_S: Final = 1.0
LOOK_S: Final = 5.0

_log: Final = structlog.get_logger(__name__)


class Membership(NamedTuple):
    """One record, read: ``joined`` None = the user left."""

    room: str
    user: str
    joined: bytes | None


def read(record: LogRecord) -> Membership:
    """Return what a record says about whom; raises RecordError."""
    if record.key is None:
        raise RecordError("no_key", "a membership needs the key app/room/user")
    try:
        app, room, user, *more = record.key.decode().split("/")
        check_app(app)
        check_room(room)
        check_user(user)
    except (UnicodeDecodeError, ValueError) as error:
        raise RecordError("bad_key", f"key {record.key!r} is not app/room/user") from error
    except Refused as refused:
        raise RecordError("bad_key", f"key {record.key!r}: {refused.detail}") from refused
    if more:
        raise RecordError("not_available", "this version keeps no presence")
    if record.value is None:
        return Membership(room_key(app, room), user, None)
    kind = header(record.value).kind
    if kind != JOINED:
        raise RecordError("unknown_kind", f"kind {kind} is no membership")
    body(record.value, Joined)  # checked here, stored as it came
    return Membership(room_key(app, room), user, record.value[HEADER_BYTES:])


class _Owned:
    """A partition of ``members`` under one assignment.

    ``catch_up_to``: the store had no mark, so that an absent user means nothing until this offset is written.
    ``mark`` is what the store must have: below it, it has lost writes.
    """

    __slots__ = ("catch_up_to", "mark", "next_offset", "number")

    def __init__(self, number: int, next_offset: int, catch_up_to: int, mark: int) -> None:
        self.number = number
        self.next_offset = next_offset
        self.catch_up_to = catch_up_to
        self.mark = mark


class MemberWorker:
    """One worker process's share of the member lists. ``start``, then ``drain``, then ``close``."""

    def __init__(self, *, log: Log, store: Store, clock: Clock, group: str = GROUP) -> None:
        self._log = log
        self._store = store
        self._clock = clock
        self._group = group
        self._dead_writer = SteadyWriter(log, durable=True)
        self._dead = DeadLetters(self._dead_writer, MEMBERS)
        self._reader: GroupReader | None = None
        self._assigned: set[int] = set()
        self._owned: dict[int, _Owned] = {}
        self._has_been_assigned = False
        self._shard_counts: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._is_failing = False
        self._is_draining = False

    async def start(self) -> None:
        """Join the group and begin to work; raises Unavailable where the log does not answer."""
        await self._dead_writer.open()
        self._reader = await self._log.group_reader(MEMBERS, self._group, self)
        self._task = asyncio.create_task(self._run(), name="member worker")
        self._looking = asyncio.create_task(self._look_at_lag(), name="member worker: lag")

    async def drain(self) -> None:
        """Stop polling, finish the batch in hand (within 10 s, else it stays uncommitted), leave the group."""
        self._is_draining = True
        if self._task is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._task), DRAIN_WORKER_S)
        await self._leave()

    async def close(self) -> None:
        """End everything at once."""
        self._is_draining = True
        tasks = [task for task in (self._task, self._looking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._dead.close()
        await self._leave()
        await self._dead_writer.close()

    def readiness(self) -> dict[str, bool]:
        """Return what this worker needs, and whether it is there."""
        return {
            "members_written": not self._is_failing,
            "members_partitions": self._has_been_assigned and self._assigned == self._owned.keys(),
        }

    # --- the group's listener (ports.Assignment) ---

    def assigned(self, partitions: Iterable[int]) -> None:
        """Note partitions that the group gives; they are taken over before the next poll."""
        self._has_been_assigned = True
        self._assigned |= set(partitions)

    def revoked(self, partitions: Iterable[int]) -> None:
        """Forget partitions that the group takes away."""
        for number in set(partitions):
            self._assigned.discard(number)
            self._owned.pop(number, None)

    # --- work ---

    async def _run(self) -> None:
        pause_s = PAUSE_MIN_S
        while not self._is_draining:
            try:
                await self._turn()
            except OutOfRange as error:
                self._pass_gap(error)
            except Fenced:  # the group is sharing anew, and tells soon
                _log.info("another owner has the partition", group=self._group)
                await asyncio.sleep(PAUSE_MIN_S)
            except Exception as error:  # what is not committed is polled again after the seek
                self._is_failing = True
                level = _log.warning if isinstance(error, Unavailable) else _log.error
                level("members not written, trying again", error=repr(error))
                self._owned.clear()
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, PAUSE_MAX_S)
            else:
                self._is_failing = False
                pause_s = PAUSE_MIN_S

    async def _turn(self) -> None:
        reader = self._reader
        if reader is None:
            await asyncio.sleep(PAUSE_MIN_S)
            return
        for number in self._assigned - self._owned.keys():
            await self._take_over(reader, number)
        polled = await reader.poll(POLL_RECORDS_MAX, POLL_S)
        taken = {number: self._due(number, records) for number, records in polled.items()}
        taken = {number: records for number, records in taken.items() if records}
        if taken:
            metrics.RECORDS_POLLED.labels(MEMBERS).inc(sum(map(len, taken.values())))
            for number, records in taken.items():
                await self._write(number, records)
            await self._commit(reader, taken)

    async def _take_over(self, reader: GroupReader, number: int) -> None:
        """Find where to go on. Without a mark the store knows nothing: all that the log holds is written again. A mark
        below the commit: the store has lost writes since (a failover)."""
        earliest, end = (await self._log.ends(MEMBERS, [number]))[number]
        mark = await self._store.members.marked(number)
        committed = await reader.committed(number)
        start = earliest
        if mark is not None and committed is not None and earliest <= min(mark, committed) <= end:
            start = min(mark, committed)
        reader.seek(number, start)
        if mark is None:
            self._shard_counts.clear()  # the store has lost them as well
        if start >= end:
            await self._store.members.mark(number, start)
            mark = start
        metrics.TAKEOVERS.labels("kept" if mark is not None else "renewed").inc()
        if number in self._assigned:
            known = -1 if mark is None else min(mark, start)
            self._owned[number] = _Owned(number, start, end if mark is None else 0, known)
        metrics.PARTITIONS_OWNED.labels(MEMBERS).set(len(self._owned))

    def _due(self, number: int, records: Sequence[LogRecord]) -> Sequence[LogRecord]:
        owned = self._owned.get(number)
        if owned is None:
            return ()  # its take-over seeks
        # Holes are normal here: the topic is compacted.
        return [record for record in records if record.offset >= owned.next_offset]

    async def _write(self, number: int, records: Sequence[LogRecord]) -> None:
        """Write one partition's records: the last word on each user counts, one batch per room shard."""
        parked: list[Poison] = []
        shards: dict[tuple[str, int], dict[str, bytes | None]] = {}
        for record in records:
            try:
                room, user, joined = read(record)
                shard = await self._shard(number, room, user)
            except RecordError as error:
                parked.append(Poison(number, record, error))
            else:
                shards.setdefault((room, shard), {})[user] = joined
        applied = records[-1].offset + 1
        gate = asyncio.Semaphore(MEMBER_APPLIES_AT_ONCE)

        async def apply(room: str, shard: int, users: Mapping[str, bytes | None]) -> None:
            async with gate:
                changes = [MemberChange(user, joined) for user, joined in users.items()]
                await self._store.members.apply(room, shard, changes, applied)

        await asyncio.gather(*(apply(room, shard, users) for (room, shard), users in shards.items()))
        if parked:
            await self._park(parked)
        owned = self._owned.get(number)
        if owned is None:
            return
        owned.next_offset = applied
        if applied >= owned.catch_up_to and not await self._has_forgotten(owned):
            await self._store.members.mark(number, applied)
            owned.mark = applied

    async def _has_forgotten(self, owned: _Owned) -> bool:
        """Look whether the store still has the mark; where not, give the partition up: it is taken over anew."""
        mark = owned.mark
        stands = await self._store.members.marked(owned.number)
        if mark < 0 or (stands is not None and stands >= mark):
            return False
        if self._owned.get(owned.number) is owned:
            _log.warning("the store has forgotten members", partition=owned.number, mark=mark, stands=stands)
            del self._owned[owned.number]
        return True

    async def _park(self, parked: Sequence[Poison]) -> None:
        done = asyncio.Event()
        self._dead.put(parked, done.set)
        await done.wait()

    async def _shard(self, number: int, room: str, user: str) -> int:
        shards = self._shard_counts.get(room)
        if shards is None:
            shards = await self._store.members.shards(room, MEMBER_SHARDS)
            if len(self._shard_counts) >= SHARD_COUNTS_MAX:
                self._shard_counts.clear()
            self._shard_counts[room] = shards
        shard = shard_of(user, shards)
        if partition_of(shard_key(room, shard), self._log.partitions(MEMBERS)) != number:
            raise RecordError("wrong_partition", f"{user!r} in {room!r} belongs to shard {shard}, another partition")
        return shard

    async def _commit(self, reader: GroupReader, taken: Iterable[int]) -> None:
        offsets = {number: self._owned[number].next_offset for number in taken if number in self._owned}
        if offsets:
            await reader.commit(offsets)

    def _pass_gap(self, error: OutOfRange) -> None:
        owned = self._owned.pop(error.partition, None)
        if owned is not None and error.earliest > owned.next_offset:
            metrics.LOG_GAPS.labels(MEMBERS).inc(error.earliest - owned.next_offset)
        _log.error("members are not on the log any more", partition=error.partition, offset=error.offset)

    async def _leave(self) -> None:
        reader, self._reader = self._reader, None
        self.revoked(list(self._assigned))
        if reader is not None:
            await reader.close()

    async def _look_at_lag(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                for owned in list(self._owned.values()):
                    await self._has_forgotten(owned)
                # The reader's own positions: where the newest records were compacted away, the last one read is older.
                reader = self._reader
                positions = {number: reader.position(number) for number in self._owned} if reader else {}
                ends = await self._log.ends(MEMBERS, list(positions)) if positions else {}
            except FanoutError:
                continue  # readiness says so
            lag = sum(max(0, ends[number][1] - at) for number, at in positions.items())
            metrics.LOG_LAG.labels(MEMBERS).set(lag)
