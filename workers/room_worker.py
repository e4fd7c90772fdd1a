"""The room worker: polls ``messages``, decides, hands chunks to the gateways' slots, keeps the history, commits.

A thin shell: who owns what (``partitions``), what a record does (``decide``), appends (``lanes``, ``dead_letters``)
and the history (``history_line``) stand in their own files. A poll is a turn, decided in slices of 1,000 records, so
that the loop's other roles get theirs every few milliseconds.

    poll → turn (decide) → chunks acknowledged → history stored → epoch's highest offset → commit
           no waiting      per slot, in order    in order, behind   every 0.2 s            every 0.2 s
           in slices       slice by slice        turn by turn
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Final

import structlog

from fanout.core.errors import Fenced, OutOfRange, Unavailable
from fanout.core.limits import (
    BUDGET_S,
    CHUNKS_WAITING_BYTES_MAX,
    DRAIN_WORKER_S,
    HISTORY_WAITING_BYTES_MAX,
    HISTORY_WAITING_S_MAX,
    LEASE_TABLE_POLL_S,
    LOAD_ROOMS_MAX,
    POLL_RECORDS_MAX,
    ROOMS_IN_MEMORY_MAX,
    TURN_RECORDS,
)
from fanout.core.profiles import Profiles
from fanout.core.records import MESSAGES
from fanout.ports import SLOTS, Clock, GroupReader, Log, LogRecord, Store
from fanout.runtime import metrics
from workers import decide
from workers.budgets import Budgets, Quota, no_quota
from workers.dead_letters import DeadLetters
from workers.history_line import HistoryLine
from workers.lanes import ChunkLanes
from workers.lease_watch import LeaseWatch
from workers.partition import Partition
from workers.partitions import Partitions
from workers.steady_writer import SteadyWriter
from workers.ticker import LOOK_S, Ticker
from workers.turn import Turn
from workers.turn_metrics import count

GROUP: Final = "fanout-workers"
POLL_S: Final = 0.2
SETTLE_S: Final = 0.2  # commits: what is redone after a crash, against calls to store and log
LAG_LOOK_S: Final = 5.0
FULL_POLL_S: Final = 0.05
OUT_OF_RANGE_S: Final = 0.01
FORGET_AFTER_TURNS: Final = 1_000
FORGET_ROOMS: Final = 2_000

_log: Final = structlog.get_logger(__name__)


class RoomWorker:
    """One worker process's share of the rooms. ``start``, then ``drain`` (finishes what it holds), then ``close``.

    ``quota`` gives the deliveries a second that a room of an app may make at most, by the app's contract.
    """

    def __init__(
        self,
        *,
        log: Log,
        store: Store,
        profiles: Profiles,
        clock: Clock,
        group: str = GROUP,
        quota: Quota = no_quota,
    ) -> None:
        self._log = log
        self._store = store
        self._clock = clock
        self._group = group
        self._partitions = Partitions(log, store.epochs, profiles, clock)
        self._chunk_writer = SteadyWriter(log, durable=False)
        self._dead_writer = SteadyWriter(log, durable=True)
        self._lanes = ChunkLanes(self._chunk_writer, self._acked)
        self._dead = DeadLetters(self._dead_writer, MESSAGES)
        self._ticker = Ticker(self._dead_writer, clock)
        self._budgets = Budgets(self._dead_writer, quota)
        self._line = HistoryLine(
            store.history,
            clock,
            keep_policy=store.epochs.keep_policy,
            done=self._done,
            fenced=self._partitions.fence,
        )
        self._leases = LeaseWatch()
        self._wanted = asyncio.Event()
        self._moved = asyncio.Event()  # a turn is done
        self._tasks: list[asyncio.Task[None]] = []
        self._poll_task: asyncio.Task[None] | None = None
        self._turns = 0
        self._open: Turn | None = None  # of the poll that is being decided
        self._rooms = 0
        self._is_draining = False
        self._ready = {"log": False, "store": False}

    # --- lifecycle ---

    async def start(self) -> None:
        """Open writers, join the group, begin to work; raises Unavailable where the log does not answer."""
        await self._chunk_writer.open()
        await self._dead_writer.open()
        await self._look_at_health()
        self._partitions.use(await self._log.group_reader(MESSAGES, self._group, self._partitions))
        self._poll_task = asyncio.create_task(self._poll_for_ever(), name="room worker: poll")
        self._tasks = [
            asyncio.create_task(work, name=f"room worker: {name}")
            for name, work in (
                ("load", self._load_for_ever()),
                ("history", self._line.run()),
                ("settle", self._repeat(SETTLE_S, self._settle)),
                ("leases", self._repeat(LEASE_TABLE_POLL_S, self._look_at_leases)),
                ("ticks", self._repeat(LOOK_S, self._look_at_silence)),
                ("health", self._repeat(LEASE_TABLE_POLL_S, self._look_at_health)),
                ("lag", self._repeat(LAG_LOOK_S, self._look_at_lag)),
                ("budgets", self._repeat(BUDGET_S, self._look_at_budgets)),
            )
        ]

    async def drain(self) -> None:
        """Stop polling, finish what is held within 10 s, commit, leave the group. The rest stays uncommitted."""
        self._is_draining = True
        deadline_s = self._clock.monotonic_s() + DRAIN_WORKER_S
        if self._poll_task is not None:
            await asyncio.gather(self._poll_task, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s - self._clock.monotonic_s()):
                await self._finish()
        with contextlib.suppress(Unavailable):
            await self._settle()
        await self._leave()

    async def close(self) -> None:
        """End everything at once; what is not committed is the next owner's."""
        self._is_draining = True
        tasks = [*self._tasks, *([self._poll_task] if self._poll_task is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._lanes.close()
        await self._dead.close()
        await self._ticker.close()
        await self._leave()
        await self._chunk_writer.close()
        await self._dead_writer.close()

    def readiness(self) -> dict[str, bool]:
        """Return what this worker needs, and whether it is there."""
        return {
            "worker_log": self._ready["log"] and not self._chunk_writer.is_failing,
            "worker_store": self._ready["store"] and not self._line.is_failing,
            "worker_partitions": self._partitions.are_claimed,
        }

    def position(self, partition: int) -> int:
        """Return the log offset below which every record of ``messages`` is decided, chunked and stored; 0 where the
        partition is not worked on here."""
        owned = self._partitions.active.get(partition)
        return owned.commits.next_offset if owned is not None else 0

    async def _leave(self) -> None:
        reader = self._partitions.reader
        await self._partitions.close()
        if reader is not None:
            await reader.close()

    async def _finish(self) -> None:
        while self._line or any(partition.held for partition in self._partitions.active.values()):
            self._moved.clear()
            await self._moved.wait()

    async def _repeat(self, every_s: float, look: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(every_s)
            try:
                await look()
            except Unavailable:
                continue  # readiness says so
            except Exception as error:  # one failed look must not end all later ones
                _log.error("a look failed", look=look.__name__, error=repr(error))

    # --- poll and decide ---

    async def _poll_for_ever(self) -> None:
        while not self._is_draining:
            reader = self._partitions.reader
            assert reader is not None, "the reader stays until the worker leaves"
            try:
                if self._is_full(1.0):
                    await self._wait_until_not_full(reader)
                await self._take(reader, await reader.poll(POLL_RECORDS_MAX, POLL_S))
            except OutOfRange as error:
                self._partitions.out_of_range(error)
                await asyncio.sleep(OUT_OF_RANGE_S)  # until a take-over under way has sought
            except Unavailable:
                await asyncio.sleep(POLL_S)
            except Exception as error:  # a bug must not stop all rooms; what was not taken is polled again
                _log.error("a poll failed", error=repr(error), exc_info=True)
                await asyncio.sleep(POLL_S)

    async def _take(self, reader: GroupReader, polled: Mapping[int, Sequence[LogRecord]]) -> None:
        """Decide about polled records, in slices; between two of them the loop's other roles get their turn."""
        begun_s = self._clock.monotonic_s()
        places = TURN_RECORDS
        try:
            for number, records in polled.items():
                owned = self._partitions.active.get(number)
                taken = 0
                due = self._due(reader, owned, records) if owned is not None else ()
                while owned is not None and taken < len(due) and not owned.ownership.is_over:
                    part = due[taken : taken + places]
                    owned.take(self._open or self._begin(begun_s), part)
                    taken += len(part)
                    places -= len(part)
                    if not places:
                        self._pass_on()
                        await asyncio.sleep(0)
                        places = TURN_RECORDS
        finally:
            self._end()
        metrics.RECORDS_POLLED.labels(MESSAGES).inc(sum(map(len, polled.values())))

    def _due(self, reader: GroupReader, owned: Partition, records: Sequence[LogRecord]) -> Sequence[LogRecord]:
        due = owned.due(records)
        if due is None:
            reader.seek(owned.number, owned.next_offset)
            return ()
        if due and due[0].offset > owned.next_offset:
            metrics.LOG_GAPS.labels(MESSAGES).inc(due[0].offset - owned.next_offset)
            _log.error("records are missing on the log", partition=owned.number, offset=owned.next_offset)
        return due

    # --- turns ---

    def _turn(self, begun_s: float) -> Turn:
        self._turns += 1
        return Turn(self._turns, begun_s, self._clock.wall_ms())

    def _begin(self, begun_s: float) -> Turn:
        """Open a turn: what anybody decides joins it, until it ends."""
        self._open = self._turn(begun_s)
        self._open.awaited = 1
        return self._open

    def _pass_on(self) -> None:
        """Hand over what the open turn has decided. It goes on, so that a room makes one step of the history a poll."""
        if self._open is None or self._open.is_large:
            self._end()
        else:
            decide.cut(self._open)
            self._hand_over(self._open)

    def _end(self) -> None:
        """End the open turn, where there is one."""
        turn, self._open = self._open, None
        if turn is not None:
            self._send(turn)
            self._part_acked(turn)

    def _send(self, turn: Turn) -> None:
        """Close a turn and send it on its way: chunks and parked records now, history behind them."""
        decide.close(turn)
        self._hand_over(turn)
        self._line.put(turn)
        count(turn)

    def _decided(self, turn: Turn) -> None:
        """Send what was decided beside the polls: at once, or with the open turn that it has joined."""
        if turn is self._open:
            self._pass_on()
        else:
            self._send(turn)

    def _hand_over(self, turn: Turn) -> None:
        self._leases.note((slot.slot, slot.generation) for slot in turn.slots)
        if turn.parked:
            turn.awaited += 1
            self._dead.put(turn.parked, partial(self._part_acked, turn))
            turn.parked = []
        self._lanes.put(turn)
        if any(partition.wanted for partition in self._partitions.active.values()):
            self._wanted.set()

    def _part_acked(self, turn: Turn) -> None:
        turn.awaited -= 1
        if not turn.awaited:
            self._acked(turn)

    def _acked(self, turn: Turn) -> None:
        metrics.BATCH_SECONDS.observe(self._clock.monotonic_s() - turn.begun_s)
        self._line.acked(turn)

    def _done(self, turn: Turn) -> None:
        for ownership, position in turn.touched.items():
            ownership.stored = max(ownership.stored, position)
        for commits, ticket in turn.tickets:
            commits.finish(ticket)
        self._moved.set()

    # --- rooms that are not in memory ---

    async def _load_for_ever(self) -> None:
        pause_s = FULL_POLL_S
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while asked := self._ask():
                if await self._load(asked):
                    pause_s = FULL_POLL_S
                else:
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, 1.0)

    def _ask(self) -> dict[Partition, list[bytes]]:
        asked: dict[Partition, list[bytes]] = {}
        places = LOAD_ROOMS_MAX
        for owned in self._partitions.active.values():
            if owned.wanted and places:
                asked[owned] = owned.ask(places)
                places -= len(asked[owned])
        return asked

    async def _load(self, asked: Mapping[Partition, list[bytes]]) -> bool:
        """Load rooms in one pipeline and decide about their records; False where the store does not answer."""
        rooms = [(owned.held[key].key, owned.ownership.epoch) for owned, keys in asked.items() for key in keys]
        try:
            metas = iter(await self._store.history.load(rooms))
        except Exception as error:
            _log.warning("rooms not loaded, trying again", rooms=len(rooms), error=repr(error))
            for owned, keys in asked.items():
                owned.ask_again(keys)
            return False
        turn = self._open or self._turn(self._clock.monotonic_s())
        for owned, keys in asked.items():
            found = dict(zip(keys, islice(metas, len(keys)), strict=True))
            if not owned.ownership.is_over:
                owned.loaded(turn, found, self._leases.is_gone)
        self._decided(turn)
        return True

    def _forget_rooms(self) -> None:
        partitions = self._partitions.active.values()
        self._rooms = sum(len(owned.rooms) for owned in partitions)
        beyond = self._rooms - ROOMS_IN_MEMORY_MAX
        if beyond > 0:
            share = max(FORGET_ROOMS, beyond) // max(1, len(partitions)) + 1
            for owned in partitions:
                owned.forget(share, self._turns - FORGET_AFTER_TURNS)

    # --- bounds ---

    def _is_full(self, share: float) -> bool:
        """True where more than ``share`` of what may wait is waiting."""
        partitions = self._partitions.active.values()
        held = sum(owned.held_bytes for owned in partitions)
        waiting = self._line.bytes + self._dead.bytes + held
        return (
            waiting > share * HISTORY_WAITING_BYTES_MAX
            or self._lanes.bytes > share * CHUNKS_WAITING_BYTES_MAX
            or self._line.oldest_s() > share * HISTORY_WAITING_S_MAX
            or any(held_s > share * HISTORY_WAITING_S_MAX for held_s in map(self._held_s, partitions))
        )

    def _held_s(self, owned: Partition) -> float:
        # Rooms are held in the order in which they were seen, so the first is the one that has waited longest.
        for held in owned.held.values():
            return self._clock.monotonic_s() - held.since_s
        return 0.0

    async def _wait_until_not_full(self, reader: GroupReader) -> None:
        """Pause, until less than three quarters wait; polls go on, because the group throws silent members out."""
        _log.warning("polling pauses", waiting_bytes=self._line.bytes, oldest_s=round(self._line.oldest_s(), 1))
        paused: set[int] = set()
        while self._is_full(0.75) and not self._is_draining:
            paused = set(self._partitions.active)
            reader.pause(paused)
            await self._take(reader, await reader.poll(1, FULL_POLL_S))
        reader.resume(paused & self._partitions.active.keys())

    # --- behind and beside ---

    async def _settle(self) -> None:
        """Tell the store how far the log was seen, then commit: nothing is committed whose epoch could be mistaken."""
        due = [
            owned
            for owned in self._partitions.active.values()
            if owned.commits.is_due or owned.ownership.stored > owned.ownership.seen
        ]
        seen = await asyncio.gather(*map(self._saw, due))
        offsets = {
            owned.number: owned.commits.next_offset
            for owned, ok in zip(due, seen, strict=True)
            if ok and not owned.ownership.is_over
        }
        reader = self._partitions.reader
        if not offsets or reader is None:
            return
        try:
            await reader.commit(offsets)
        except Fenced:
            return  # the group is sharing anew; whoever gets the partition starts from the last commit
        for owned in due:
            owned.commits.committed = offsets.get(owned.number, owned.commits.committed)

    async def _saw(self, owned: Partition) -> bool:
        ownership = owned.ownership
        stored = ownership.stored
        if ownership.is_over:
            return False
        if stored <= ownership.seen:
            return True
        try:
            await self._store.epochs.saw(owned.number, ownership.owner, stored, ownership.seen)
        except Fenced:
            self._partitions.fence(ownership)
            return False
        except Unavailable:
            return False
        ownership.seen = stored
        return True

    async def _look_at_leases(self) -> None:
        try:
            table = await self._store.leases.table(SLOTS)
        except Unavailable:
            self._leases.unanswered()
            return
        for slot, generation in self._leases.answered(table, self._clock.monotonic_s()):
            _log.warning("gateway is gone", slot=slot, generation=generation)
            await self._expire(slot, generation)

    async def _expire(self, slot: int, generation: int) -> None:
        for owned in list(self._partitions.active.values()):
            keys = iter(list(owned.rooms))
            while part := list(islice(keys, TURN_RECORDS)):
                turn = self._open or self._turn(self._clock.monotonic_s())
                owned.expire(turn, part, slot, generation)
                self._decided(turn)
                await asyncio.sleep(0)
                if owned.ownership.is_over:
                    break

    async def _look_at_silence(self) -> None:
        if not self._is_draining and not self._is_full(1.0):  # else there is no silence: nobody listens
            self._ticker.look(self._partitions.active.values())

    async def _look_at_health(self) -> None:
        for name, ping in (("log", self._log.ping), ("store", self._store.backend.ping)):
            try:
                await ping()
            except Unavailable as error:
                if self._ready[name]:
                    _log.warning("a dependency does not answer", dependency=name, error=repr(error))
                self._ready[name] = False
            else:
                self._ready[name] = True
        self._forget_rooms()
        metrics.ROOMS_IN_MEMORY.set(self._rooms)
        metrics.HISTORY_WAITING.set(self._line.bytes)

    async def _look_at_budgets(self) -> None:
        await self._budgets.look(self._partitions.active)

    async def _look_at_lag(self) -> None:
        active = self._partitions.active
        metrics.ROUTES.set(sum(len(room.targets) for one in active.values() for room in one.rooms.values()))
        # Noted before the ends are asked for: what is read meanwhile may lie above them.
        owned = {number: (one, one.next_offset) for number, one in active.items()}
        lag = 0
        for number, (earliest, end) in (await self._log.ends(MESSAGES, list(owned))).items() if owned else ():
            one, at = owned[number]
            lag += max(0, end - at)
            if at > end and active.get(number) is one:
                # cut short or made anew; a reader with nothing to read may not notice
                self._partitions.out_of_range(OutOfRange(MESSAGES, number, at, earliest, end))
        metrics.LOG_LAG.labels(MESSAGES).set(lag)
