"""The gateway's rooms, and what arrives for them: chunks are judged, holes filled, publications put in the room logs.

Lives here: which room batches are refused, epochs, holes, which rooms exist. Lives elsewhere: the ring
(``core.room_log``), subscriptions of a room (``room``), writing (``sweep``), asking for rooms (``announce``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import takewhile
from typing import Final

import structlog

from fanout.core.errors import RESYNC, CloseCode
from fanout.core.ledger import CLASSES
from fanout.core.limits import DETACH_AFTER_S, RING_BYTES_MAX, RINGS_BYTES_MAX
from fanout.core.messages import Kind
from fanout.core.profiles import Profile
from fanout.core.records import Attached, Chunk, Entry, RoomBatch
from fanout.core.room_log import SOURCE_MESSAGES, Position
from fanout.core.thinned_marks import ThinnedMarks
from fanout.gateway.edge_ledger import DropReason
from fanout.gateway.history import EdgeHistory
from fanout.gateway.holes import Hole, fetch
from fanout.gateway.room import Room, Subscription
from fanout.ports import Clock
from fanout.runtime.metrics import CHUNKS_REFUSED, HOLES, ROOMS
from sharding.placement import partition_of

logger = structlog.get_logger(__name__)
_AGE_TURNS: Final = 30
_SHED_SHARE: Final = 4  # of its ring that a room keeps when memory runs short
_RING_BYTES_MIN: Final = 16_384  # what a room keeps when the process is at its cap


class Hub:
    """Rooms of this gateway by key.

    ``on_work`` is called for a room that has something to write, ``on_behind`` for a subscription that must be brought
    up, ``on_stray`` with the key of a room that is sent to us although we gave it up.
    """

    def __init__(
        self,
        *,
        history: EdgeHistory,
        clock: Clock,
        partitions: int,
        on_work: Callable[[Room], None],
        on_behind: Callable[[Subscription], None],
        on_stray: Callable[[str], None],
        rings_bytes_max: int = RINGS_BYTES_MAX,
    ) -> None:
        self.rooms: dict[str, Room] = {}
        self.unswept = 0  # publications that those in step have not been given, all rooms
        self.is_shedding = False  # memory runs short: rings are small, and nothing droppable is shown
        self._history = history
        self._clock = clock
        self._partitions = partitions
        self._on_work, self._on_behind, self._on_stray = on_work, on_behind, on_stray
        self._owners: dict[tuple[int, int], int] = {}
        self._idle: dict[Room, float] = {}  # rooms without a subscription → when to give them up
        self._ring_bytes = 0
        self._rings_bytes_max = rings_bytes_max
        self._known: dict[Room, asyncio.Event] = {}
        self._instance = 0
        self._aging: list[Room] = []
        self._aging_step = 1

    # --- rooms --------------------------------------------------------------------------------------------------------

    def open(self, key: str, profile: Profile) -> Room:
        """Return the room, made if it is not here; it is given up after 30 s without a subscription."""
        room = self.rooms.get(key)
        if room is None:
            # Wall time: instances of one room rise across restarts of the process on the same slot.
            self._instance = max(self._instance + 1, self._clock.wall_ms())
            room = Room(key, profile, partition_of(key.encode(), self._partitions), self._instance)
            self.rooms[key] = room
            self._known[room] = asyncio.Event()
            self._idle[room] = self._clock.monotonic_s() + DETACH_AFTER_S
            ROOMS.inc()
        return room

    async def wait_until_known(self, room: Room, timeout_s: float) -> bool:
        """Return whether the room's position is known, waiting for it."""
        event = self._known.get(room)
        if event is None or room.log is not None:
            return room.log is not None
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            pass
        return room.log is not None

    def begin(self, room: Room, position: Position, *, known_to: int = 0) -> None:
        """Start a room's log. ``known_to``: stored publications up to there come from history, chunks repeat them."""
        room.begin(position)
        if known_to:
            room.known_log.mark(SOURCE_MESSAGES, room.partition, known_to, 1 << 32)
        event = self._known.pop(room, None)
        if event is not None:
            event.set()

    def subscribed(self, room: Room) -> None:
        """A subscription was added."""
        self._idle.pop(room, None)

    def unsubscribed(self, room: Room) -> None:
        """A subscription was removed."""
        if not room.subscriptions and room.key in self.rooms:
            self._idle.pop(room, None)
            self._idle[room] = self._clock.monotonic_s() + DETACH_AFTER_S

    def idle(self) -> list[Room]:
        """Return the rooms that have had no subscription for 30 s."""
        now_s = self._clock.monotonic_s()
        return list(takewhile(lambda room: self._idle[room] <= now_s, self._idle))  # in the order of their ends

    def forget(self, room: Room) -> None:
        """Give a room up; nothing may be subscribed to it."""
        assert not room.subscriptions, "sessions still listen to this room"
        del self.rooms[room.key]
        self._idle.pop(room, None)
        self._known.pop(room, None)
        self._ring_bytes -= room.counted_bytes
        self.unswept -= room.counted_unswept
        room.counted_unswept = 0  # the sweep may have it queued still
        if room.hole is not None and room.hole.task is not None:
            room.hole.task.cancel()
        ROOMS.dec()

    async def close(self) -> None:
        """Stop filling holes; what waits behind them is not taken any more."""
        tasks = [one.hole.task for one in self.rooms.values() if one.hole is not None and one.hole.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def age(self) -> None:
        """Let some of the rings forget what is older than they keep; in thirty calls it is the turn of each."""
        if not self._aging:
            self._aging = list(self.rooms.values())
            self._aging_step = -(-len(self._aging) // _AGE_TURNS)
        for room in self._aging[-self._aging_step :]:
            if self.rooms.get(room.key) is room:
                self._account(room)
                room.thinned.trim(self._now_ms())
        del self._aging[-self._aging_step :]

    def restart_instances(self) -> None:
        """On a new slot every room begins a new stay: reports count from here."""
        for room in self.rooms.values():
            self._instance = max(self._instance + 1, self._clock.wall_ms())
            room.restart(self._instance)

    # --- chunks -------------------------------------------------------------------------------------------------------

    def apply(self, chunk: Chunk) -> None:
        """Take a chunk that was addressed to this gateway's slot and generation."""
        for batch in chunk.rooms:
            place = (batch.source, batch.partition)
            owner = self._owners.get(place, 0)
            if batch.owner < owner:
                CHUNKS_REFUSED.labels("old_owner").inc()
                continue
            self._owners[place] = batch.owner
            room = self.rooms.get(batch.key)
            if room is None:
                CHUNKS_REFUSED.labels("unknown_room").inc()
                self._on_stray(batch.key)
            elif batch.sessions is not None:
                CHUNKS_REFUSED.labels("audience").inc()  # nobody addresses parts of a room in this version
            else:
                self._take_guarded(room, batch)

    def _take_guarded(self, room: Room, batch: RoomBatch) -> None:
        """Take a batch; what goes wrong in one room does not cost the other rooms of the chunk theirs."""
        try:
            if room.hole is None:
                self._take(room, batch)
            elif not room.hole.wait(batch):
                self._give_up(room, room.hole)
        except Exception:
            CHUNKS_REFUSED.labels("failed").inc()
            logger.exception("taking a room batch failed", room=room.key)
            self.resync(room)

    def _take(self, room: Room, batch: RoomBatch) -> None:
        attached = batch.attached
        if attached is not None and attached.instance != room.instance:
            attached = None  # answers an earlier stay of the room here
        if room.log is None:
            self.begin(room, _position(batch, attached))
        elif batch.epoch != room.log.epoch:
            self._renew(room, batch, attached)
        if attached is not None:
            room.attach(attached.head)
        if batch.source == SOURCE_MESSAGES:
            room.degraded = batch.degraded
        if not self._opens_hole(room, batch, attached):
            self._enter(room, batch)

    def _opens_hole(self, room: Room, batch: RoomBatch, attached: Attached | None) -> bool:
        """Begin to fill the hole before a batch, if there is one; the batch waits for that."""
        if batch.source != SOURCE_MESSAGES:
            return False
        log = room.known_log
        fresh = [one for one in batch.entries if not log.is_repeat(batch.source, batch.partition, one.offset, one.part)]
        last = max(batch.prev if fresh or not batch.entries else 0, attached.last if attached else 0)
        head = attached.head if attached else 0
        if not log.has_hole_before(last) and head <= log.head:
            return False
        upto = fresh[0].offset - 1 if fresh else max(head, last)
        self._open_hole(room, Hole(batch.epoch, last, upto, head), batch)
        return True

    def _open_hole(self, room: Room, hole: Hole, batch: RoomBatch) -> None:
        room.hole = hole
        hole.wait(batch)
        hole.task = asyncio.get_running_loop().create_task(self._fill(room, hole), name=f"fill {room.key}")

    def _enter(self, room: Room, batch: RoomBatch) -> None:
        """Enter a batch's publications in the room log, up to a hole inside of it."""
        log = room.known_log
        entries: list[Entry] = []
        last = log.last
        for place, entry in enumerate(batch.entries):
            if log.is_repeat(batch.source, batch.partition, entry.offset, entry.part):
                continue
            if batch.source == SOURCE_MESSAGES:
                if entry.prev > last:
                    self._append(room, entries, batch)
                    self._open_hole(room, Hole(batch.epoch, entry.prev, entry.offset - 1), _rest(batch, place))
                    return
                last = entry.offset if entry.kind == Kind.RELIABLE.value else last
            entries.append(entry)
        if len(entries) < len(batch.entries):
            CHUNKS_REFUSED.labels("repeat").inc(len(batch.entries) - len(entries))
        self._append(room, entries, batch)
        if batch.thinned is not None and len(batch.thinned) > CLASSES:
            upto, system, high, normal, low = batch.thinned[: CLASSES + 1]
            room.thinned.note(upto, (system, high, normal, low), self._now_ms())

    def _append(self, room: Room, entries: list[Entry], batch: RoomBatch) -> None:
        if not entries:
            return
        passed = room.take(entries, batch.source, batch.partition, self._now_ms())
        self._account(room)
        if room.counted_unswept:
            self._on_work(room)
        # Those behind whose cursor was at the end have something to read again.
        for subscription in passed:
            self._on_behind(subscription)

    # --- holes and epochs ---------------------------------------------------------------------------------------------

    async def _fill(self, room: Room, hole: Hole) -> None:
        """Fill a hole; whatever goes wrong, the room does not wait for ever."""
        try:
            await self._fill_or_give_up(room, hole)
        except Exception:
            logger.exception("filling a hole failed", room=room.key)
            if room.hole is hole:
                self._give_up(room, hole)

    async def _fill_or_give_up(self, room: Room, hole: Hole) -> None:
        log = room.known_log
        first = hole.waiting[0]

        def take(entries: list[Entry]) -> None:
            self._append(room, entries, first)

        needed = log.has_hole_before(hole.last)
        filled = await fetch(self._history, room.key, hole, log, take)
        if room.hole is not hole:
            return
        if filled or not log.has_hole_before(hole.last):
            log.raise_head(hole.head)  # what is still missing is droppable: history goes only so far with those
            HOLES.labels("filled" if needed else "recent").inc()
            self._go_on(room, hole)
        else:
            self._give_up(room, hole)

    def _give_up(self, room: Room, hole: Hole) -> None:
        """The hole cannot be filled: everybody is told to come back with their position."""
        HOLES.labels("resync").inc()
        logger.warning("hole could not be filled", room=room.key, last=room.known_log.last, wanted=hole.last)
        if hole.task is not None and hole.task is not asyncio.current_task():
            hole.task.cancel()
        log = room.known_log
        head = max(log.head, hole.last)
        self.resync(room)
        self._reset(room, Position(hole.epoch, head, hole.last, hole.last, log.n))
        self._go_on(room, hole)

    def _go_on(self, room: Room, hole: Hole) -> None:
        """Take what waited, in order; another hole may open among it."""
        room.hole = None
        for place, batch in enumerate(hole.waiting):
            self._take(room, batch)
            opened: Hole | None = room.hole
            if opened is not None:
                for later in hole.waiting[place + 1 :]:
                    opened.wait(later)
                return

    def _renew(self, room: Room, batch: RoomBatch, attached: Attached | None) -> None:
        """Another epoch is another stream: nobody's position means anything in it."""
        logger.warning("epoch changed", room=room.key, old=room.known_log.epoch, new=batch.epoch)
        self.resync(room)
        self._reset(room, _position(batch, attached))

    def _reset(self, room: Room, position: Position) -> None:
        log = room.known_log
        log.reset(position)
        room.thinned = ThinnedMarks()
        room.skip_to_end()
        self._account(room)

    def resync(self, room: Room, code: CloseCode = RESYNC) -> None:
        """Tell every subscription of a room to come back with its position."""
        for subscription in list(room):
            self.resync_one(subscription, code)

    def resync_one(self, subscription: Subscription, code: CloseCode = RESYNC) -> None:
        """Tell one subscription to come back; a session that cannot even be told does not keep others from it."""
        try:
            subscription.session.end_subscription(subscription, code, DropReason.RESYNC)
        except Exception:
            logger.exception("a session could not be told to come back", room=subscription.room.key)

    # --- sweeps -------------------------------------------------------------------------------------------------------

    def swept(self, room: Room) -> None:
        """Those in step have been given something, or have left."""
        self._account(room)

    def _account(self, room: Room) -> None:
        log = room.log
        if log is None:
            return
        bytes_max = RING_BYTES_MAX // _SHED_SHARE if self.is_shedding else None
        if self._ring_bytes > self._rings_bytes_max:
            bytes_max = max(_RING_BYTES_MIN, self._rings_bytes_max // len(self.rooms))
        step = room.step
        log.trim(self._now_ms(), step, bytes_max=bytes_max)  # what those in step have not been given stays
        unswept = log.end - step
        self.unswept += unswept - room.counted_unswept
        room.counted_unswept = unswept
        self._ring_bytes += log.bytes - room.counted_bytes
        room.counted_bytes = log.bytes

    def _now_ms(self) -> int:
        return int(self._clock.monotonic_s() * 1_000)


def _position(batch: RoomBatch, attached: Attached | None) -> Position:
    """Return where a room stands before a batch. Without ``attached`` the last reliable offset is all that is known."""
    if attached is None:
        return Position(batch.epoch, batch.prev, batch.prev, batch.prev, batch.n)
    return Position(batch.epoch, attached.head, attached.last, attached.floor, attached.n)


def _rest(batch: RoomBatch, place: int) -> RoomBatch:
    """Return the batch from an entry on."""
    entries = batch.entries[place:]
    return RoomBatch(
        batch.key,
        batch.source,
        batch.partition,
        batch.owner,
        batch.epoch,
        entries[0].prev,
        entries[0].n,
        entries,
        thinned=batch.thinned,
        degraded=batch.degraded,
    )
