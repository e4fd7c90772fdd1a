"""Sweeps: walks that bring subscriptions to the head of their rooms. Only here publications are written to sockets.

Publications that arrive during a sweep form the next one: at low rates each goes out at once, under load they join into
one frame by themselves. The frame is built once per wire format; the same bytes are handed to every session in step.
A session whose socket is full is left behind and later served from its own cursor; a sweep never waits for one. After
2,000 writes or 4 ms everything else gets its turn, and rooms take turns frame by frame.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

import structlog

from fanout.core.errors import Unavailable
from fanout.core.limits import (
    DROPPABLE_AGE_S,
    FRAME_BYTES_MAX,
    FRAME_MESSAGES_MAX,
    SWEEP_SLICE_S,
    SWEEP_WRITES_MAX,
)
from fanout.core.messages import Kind
from fanout.core.room_log import tally, times
from fanout.gateway.edge_ledger import DropReason
from fanout.gateway.history import EdgeHistory, Page
from fanout.gateway.hub import Hub
from fanout.gateway.room import Behind, Room, Subscription
from fanout.gateway.wires import WIRES, Frame, joined
from fanout.ports import Clock
from fanout.runtime.metrics import (
    BYTES_WRITTEN,
    FRAMES_WRITTEN,
    PUBLISH_TO_WRITE,
    SWEEP_SECONDS,
)

logger = structlog.get_logger(__name__)

_BEHIND_TURN: Final = 64  # subscriptions served from their own cursors between two rooms
_LOOK_EVERY: Final = 64  # writes between two looks at the clock
_HISTORY_TRIES_MAX: Final = 20
_HISTORY_RETRY_S: Final = 0.1
_DROPPABLE_AGE_MS: Final = int(DROPPABLE_AGE_S * 1_000)


class Sweeper:
    """One task that sweeps all rooms. ``hub`` is set before ``start``."""

    hub: Hub

    def __init__(self, *, history: EdgeHistory, clock: Clock) -> None:
        self.deliveries = 0
        self._history = history
        self._clock = clock
        self._rooms: deque[Room] = deque()
        self._behind: deque[Subscription] = deque()
        self._wake = asyncio.Event()
        self._progress = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._pages: set[asyncio.Task[None]] = set()
        self._writes = 0  # since the loop had its turn
        self._turn_ends_s = 0.0

    def start(self) -> None:
        """Begin to sweep."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="sweep")

    async def close(self) -> None:
        """Stop; what is pending stays pending."""
        tasks = [task for task in (self._task, *self._pages) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def room_has_work(self, room: Room) -> None:
        """Queue a room whose log has something for those in step."""
        if not room.queued:
            room.queued = True
            self._rooms.append(room)
            self._wake.set()

    def is_behind(self, subscription: Subscription) -> None:
        """Queue a subscription that has to be served from its own cursor."""
        behind = subscription.behind
        if behind is not None and not behind.queued and not subscription.session.paused:
            behind.queued = True
            self._behind.append(subscription)
            self._wake.set()

    async def below(self, publications: int) -> None:
        """Return when fewer publications than that wait for those in step: the brake on reading chunks."""
        while self.hub.unswept >= publications:
            self._progress.clear()
            await self._progress.wait()

    @property
    def is_idle(self) -> bool:
        """True where nothing waits for a sweep (sessions with full sockets do not count)."""
        return not self._rooms and not self._behind and not self._pages and not self._wake.is_set()

    # --- the walk -----------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        self._new_turn()
        while True:
            if not self._rooms and not self._behind:
                self._wake.clear()
                await self._wake.wait()
                self._new_turn()
            if self._rooms:
                room = self._rooms.popleft()
                room.queued = False
                await self._guarded(room)
            for _ in range(min(len(self._behind), _BEHIND_TURN)):
                self._serve_guarded(self._behind.popleft())
            self._progress.set()
            await self._turn()

    async def _guarded(self, room: Room) -> None:
        """Sweep a room; what goes wrong in one room stays there."""
        try:
            await self._sweep(room)
        except Exception:
            logger.exception("sweep failed", room=room.key)
            self.hub.resync(room)
            self.hub.swept(room, room.known_log.end)  # nobody is left to be given it, and the brake counts it

    async def _turn(self) -> None:
        """Give the loop its turn when this one has been used up."""
        if self._writes >= SWEEP_WRITES_MAX or asyncio.get_running_loop().time() >= self._turn_ends_s:
            await asyncio.sleep(0)
            self._new_turn()

    def _new_turn(self) -> None:
        self._writes = 0
        self._turn_ends_s = asyncio.get_running_loop().time() + SWEEP_SLICE_S

    # --- in step ------------------------------------------------------------------------------------------------------

    async def _sweep(self, room: Room) -> None:
        """Bring those in step of a room forward by one frame."""
        log = room.log
        if log is None or log.end <= room.step:
            return
        begun_s = self._clock.monotonic_s()
        start, epoch = room.step, log.epoch
        frames = _frames(room, start)
        stop = min((frame.sent for frame in frames.values()), default=log.end)
        for wire, frame in frames.items():
            await self._write_group(room, wire, start, frame)
            if log.epoch != epoch or room.step != start:
                return  # the room was reset meanwhile: everybody has been told
        self.hub.swept(room, stop)
        if log.end > room.step:
            self.room_has_work(room)
        SWEEP_SECONDS.observe(self._clock.monotonic_s() - begun_s)
        for frame in frames.values():
            self._observe(frame)
            break

    async def _write_group(self, room: Room, wire: int, start: int, frame: Frame) -> None:
        """Hand one frame to everybody of a wire format who stands at ``start``; they may come and go meanwhile."""
        own: dict[int, Frame] = {}  # for those who joined between start and the frame's end
        written = 0
        data, stop = frame.data, frame.sent
        look_at = self._writes + _LOOK_EVERY
        for subscription in list(room.in_step[wire]):
            sent = subscription.sent
            if subscription.place < 0 or sent >= stop:
                continue
            session = subscription.session
            if session.paused:
                room.fall_behind(subscription)
                continue
            if sent != start:
                self._write_own(room, subscription, own, stop)
                continue
            if data:
                session.write(data)
            subscription.sent = stop
            written += 1
            self._writes += 1
            if self._writes >= look_at:
                look_at = self._writes + _LOOK_EVERY
                if self._is_turn_over():
                    self._settle(room, frame, written)
                    written = 0
                    await self._turn()
                    look_at = self._writes + _LOOK_EVERY
                    if room.step != start:
                        return
        self._settle(room, frame, written)

    def _is_turn_over(self) -> bool:
        return self._writes >= SWEEP_WRITES_MAX or asyncio.get_running_loop().time() >= self._turn_ends_s

    def _write_own(self, room: Room, subscription: Subscription, own: dict[int, Frame], stop: int) -> None:
        sent = subscription.sent
        frame = own.get(sent)
        if frame is None:
            frame = own[sent] = room.frame(sent, subscription.session.wire, stop=stop)
        if frame.data:
            subscription.session.write(frame.data)
        subscription.sent = frame.sent
        self._writes += 1
        self._settle(room, frame, 1)

    def _settle(self, room: Room, frame: Frame, sessions: int) -> None:
        """Count ``sessions`` writes of a frame; before every await, so that the ledger is exact at every step."""
        if not sessions:
            return
        room.ledger.write_many(frame.written, sessions)
        room.ledger.drop(DropReason.BINARY, times(frame.binary, sessions))
        self._count(frame.data, sum(frame.written), sessions)

    def _count(self, data: bytes, publications: int, sessions: int) -> None:
        self.deliveries += publications * sessions
        if data:
            FRAMES_WRITTEN.inc(sessions)
            BYTES_WRITTEN.inc(len(data) * sessions)

    def _observe(self, frame: Frame) -> None:
        """Observe the oldest publication of a frame: one sample a sweep."""
        if frame.publications and frame.publications[0].entry.sent_ms:
            age_ms = self._clock.wall_ms() - frame.publications[0].entry.sent_ms
            PUBLISH_TO_WRITE.observe(max(0, age_ms) / 1_000)

    # --- behind -------------------------------------------------------------------------------------------------------

    def _serve_guarded(self, subscription: Subscription) -> None:
        try:
            self._serve(subscription)
        except Exception:
            logger.exception("serving a session that was behind failed", room=subscription.room.key)
            self._resync(subscription)

    def _serve(self, subscription: Subscription) -> None:
        """Give one frame to a subscription from its own cursor: reliable all, droppable only what is young."""
        behind = subscription.behind
        if behind is None:
            return
        behind.queued = False
        session, room = subscription.session, subscription.room
        log = room.known_log
        if session.paused:
            return
        if behind.from_history or log.is_behind_ring(subscription.sent):
            self._start_page(subscription, behind)
            return
        if not room.catch_up(subscription):
            held_since_ms = int(self._clock.monotonic_s() * 1_000) - _DROPPABLE_AGE_MS
            frame = room.frame(subscription.sent, session.wire, droppable_since_ms=held_since_ms)
            if frame.data:
                session.write(frame.data)
                self._writes += 1
            room.advance(subscription, behind, frame)
            self._count(frame.data, sum(frame.written), 1)
            if not room.catch_up(subscription):
                self.is_behind(subscription)  # a socket that is full now is queued when it has room again

    def _start_page(self, subscription: Subscription, behind: Behind) -> None:
        """Continue from history, in a task of its own; ``queued`` holds others off until it is done."""
        room = subscription.room
        room.leave_ring(subscription, behind)
        if room.known_log.chain_covers(behind.offset):  # all that left the ring was droppable
            room.enter_ring(subscription, behind)
            self.is_behind(subscription)
            return
        behind.queued = True
        task = asyncio.get_running_loop().create_task(self._page(subscription, behind), name="page from history")
        self._pages.add(task)
        task.add_done_callback(self._pages.discard)

    async def _page(self, subscription: Subscription, behind: Behind) -> None:
        """Give one page of history; whatever goes wrong, the subscription does not wait for ever."""
        try:
            await self._page_or_resync(subscription, behind)
        except Exception:
            logger.exception("serving a session from history failed", room=subscription.room.key)
            if subscription.behind is behind:
                self._resync(subscription)

    async def _page_or_resync(self, subscription: Subscription, behind: Behind) -> None:
        room = subscription.room
        epoch = room.known_log.epoch
        try:
            page = await self._history.page(
                room.key, epoch, after=behind.offset, limit=FRAME_MESSAGES_MAX, bytes_max=FRAME_BYTES_MAX
            )
        except Unavailable:
            page = None
        if subscription.behind is not behind:
            return
        behind.queued = False
        if page is None or page.meta is None or page.meta.epoch != epoch or behind.offset < page.meta.floor:
            self._resync(subscription)  # beyond history: the client is told, and comes back with its position
            return
        page = page.up_to(room.known_log.head)
        self._write_page(subscription, behind, page)
        if not self._continue(subscription, behind, page):
            await self._later(subscription, behind)

    def _write_page(self, subscription: Subscription, behind: Behind, page: Page) -> None:
        oldest_ms = self._clock.wall_ms() - _DROPPABLE_AGE_MS
        room, session = subscription.room, subscription.session
        encode = room.encoders[session.wire]
        due = [one for one in page.entries if one.kind == Kind.RELIABLE.value or one.at_ms >= oldest_ms]
        shown = [(one, push) for one in due if (push := encode(one))]
        data = joined(session.wire, [push for _, push in shown])
        if data:
            session.write(data)
        if page.entries:
            behind.offset = page.entries[-1].offset
            behind.tries = 0
        given = tally(one for one, _ in shown)
        room.ledger.replay(given)
        room.touched = True
        self._count(data, sum(given), 1)

    def _continue(self, subscription: Subscription, behind: Behind, page: Page) -> bool:
        """Go on in the ring, or with the next page; False where the history does not have yet what comes next."""
        room = subscription.room
        if room.known_log.chain_covers(behind.offset):
            room.enter_ring(subscription, behind)
        elif not page.truncated:
            return False
        self.is_behind(subscription)
        return True

    async def _later(self, subscription: Subscription, behind: Behind) -> None:
        """The store lags behind the chunks: ask again shortly, and not for ever."""
        behind.tries += 1
        if behind.tries > _HISTORY_TRIES_MAX:
            self._resync(subscription)
            return
        await asyncio.sleep(_HISTORY_RETRY_S)
        if subscription.behind is behind:
            self.is_behind(subscription)

    def _resync(self, subscription: Subscription) -> None:
        self.hub.resync_one(subscription)


def _frames(room: Room, start: int) -> dict[int, Frame]:
    """Return the next frame of each wire format in use, all up to the same cursor."""
    stop: int | None = None
    frames: dict[int, Frame] = {}
    for wire in WIRES:
        if room.in_step[wire]:
            frames[wire] = room.frame(start, wire, stop=stop)
            stop = frames[wire].sent
    for wire, frame in frames.items():
        if stop is not None and frame.sent > stop:
            frames[wire] = room.frame(start, wire, stop=stop)
    return frames
