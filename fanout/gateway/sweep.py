"""Sweeps: rounds that bring those in step to the head of their rooms. All publications leave here or in ``catch_up``.

What arrives during a round goes to those who are still to come with what they wait for, and to the others on the next
round: at low rates each publication goes out at once, under load they join into one frame by themselves, and nobody
waits for longer than one round. A frame is built once per wire format, and compressed once for those who negotiated
that; the same bytes are handed to all at the same cursor. What only one session is given goes uncompressed. A session
whose socket is full leaves the step and is served from its own cursor; a sweep never waits for one. After 2,000 writes
or 2 ms everything else gets its turn, and rooms with work take turns, weighted by app.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from fanout.core.limits import SWEEP_SLICE_S, SWEEP_WRITES_MAX, SWEEP_YIELDS
from fanout.core.room_log import times
from fanout.gateway.catch_up import CatchUp
from fanout.gateway.edge_ledger import DropReason, Written
from fanout.gateway.fairness import FairTurns
from fanout.gateway.history import EdgeHistory
from fanout.gateway.hub import Hub
from fanout.gateway.pace import Pace
from fanout.gateway.room import Room, Subscription
from fanout.gateway.wires import Frame
from fanout.ports import Clock
from fanout.runtime.metrics import PUBLISH_TO_WRITE, SWEEP_SECONDS
from fanout.runtime.tcp_memory import TcpMemory

logger = structlog.get_logger(__name__)

_BEHIND_TURN: Final = 64  # subscriptions served from their own cursors between two rooms
_NEVER_MS: Final = 1 << 62  # nothing droppable is that young
_SLICE: Final = 100  # writes between two looks at the clock: under 1 ms


def _equal(_app: str) -> int:
    return 1


class Sweeper:
    """One task that sweeps all rooms. ``hub`` is set by ``use`` before ``start``."""

    def __init__(
        self, *, history: EdgeHistory, clock: Clock, weight_of: Callable[[str], int] = _equal, pace: Pace | None = None
    ) -> None:
        self.written = Written()
        self._clock = clock
        self._pace = pace or Pace(TcpMemory().share)
        self._catch_up = CatchUp(history=history, clock=clock, written=self.written, again=self.is_behind)
        self._rooms = FairTurns(weight_of)
        self._behind: deque[Subscription] = deque()
        self._stalled: list[Subscription] = []
        self._wake = asyncio.Event()
        self._progress = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._writes = 0  # since the loop had its turn
        self._turn_ends_s = 0.0
        self._slowest_s = 0.0

    def use(self, hub: Hub) -> None:
        """Sweep the rooms of this hub."""
        self.hub = self._catch_up.hub = hub

    def start(self) -> None:
        """Begin to sweep."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="sweep")

    async def close(self) -> None:
        """Stop; what is pending stays pending."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._catch_up.close()

    def room_has_work(self, room: Room) -> None:
        """Queue a room whose log has something for those in step."""
        if not room.queued:
            room.queued = True
            self._rooms.add(room)
            self._wake.set()

    def is_behind(self, subscription: Subscription) -> None:
        """Queue a subscription that has to be served from its own cursor."""
        behind = subscription.behind
        if behind is not None and not behind.queued and not subscription.session.paused:
            behind.queued = True
            self._behind.append(subscription)
            self._wake.set()

    def stalled(self, subscriptions: Iterable[Subscription]) -> None:
        """The socket of a session is full: before anything else is written, its subscriptions leave the step."""
        self._stalled.extend(subscriptions)
        self._wake.set()  # in a silent room nothing else would take them off the list

    async def below(self, publications: int) -> None:
        """Return when fewer publications than that wait for those in step: the brake on reading chunks."""
        while self.hub.unswept >= publications:
            self._progress.clear()
            await self._progress.wait()

    def slowest_s(self) -> float:
        """Return how long the longest round took that has ended since this was asked last."""
        slowest_s, self._slowest_s = self._slowest_s, 0.0
        return slowest_s

    @property
    def is_idle(self) -> bool:
        """True where nothing waits for a sweep (sessions with full sockets do not count)."""
        return not self._rooms and not self._behind and self._catch_up.is_idle and not self._wake.is_set()

    # --- turns --------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        self._new_turn()
        while True:
            if not self._rooms and not self._behind:
                self._wake.clear()
                await self._wake.wait()
                self._new_turn()
            if self._stalled:
                self._leave_step()
            if self._rooms:
                self._guarded(self._rooms.next())
            for _ in range(min(len(self._behind), _BEHIND_TURN)):
                self._catch_up.serve(self._behind.popleft())
                self._writes += 1
            self._progress.set()
            if self._is_turn_over():
                await self._yield()

    async def _yield(self) -> None:
        """Give everything else its turn, and readers time where the kernel holds too much for them."""
        for _ in range(SWEEP_YIELDS):
            await asyncio.sleep(0)
        pause_s = self._pace.pause_s(self._clock.monotonic_s())
        while pause_s:
            await asyncio.sleep(pause_s)
            pause_s = self._pace.pause_s(self._clock.monotonic_s())
        self._new_turn()

    def _new_turn(self) -> None:
        self._writes = 0
        self._turn_ends_s = self._clock.monotonic_s() + SWEEP_SLICE_S

    def _is_turn_over(self) -> bool:
        return self._writes >= SWEEP_WRITES_MAX or self._clock.monotonic_s() >= self._turn_ends_s

    def _guarded(self, room: Room) -> None:
        """Sweep a room until it is done or the turn is over; what goes wrong in one room stays there."""
        room.queued = False
        before = self._writes
        try:
            self._sweep(room)
        except Exception:
            logger.exception("sweep failed", room=room.key)
            self.hub.resync(room)
            for subscription in room:  # could not even be told
                if subscription.is_in_step:
                    room.ledger.drop(DropReason.RESYNC, room.pending_of(subscription))
            room.skip_to_end()
            self.hub.swept(room)  # nobody is left to be given it, and the brake counts it
        if room.counted_unswept:
            self.room_has_work(room)
        self._rooms.charge(room.app, self._writes - before)

    # --- in step ------------------------------------------------------------------------------------------------------

    def _sweep(self, room: Room) -> None:
        """Hand out frames until everybody in step has everything, or the turn is over."""
        if room.log is None:
            return
        self._begin_round(room)
        wire = room.due()
        while wire is not None:
            self._hand_out(room, wire)
            if self._is_turn_over():
                break
            wire = room.due()
        self.hub.swept(room)
        self._end_round(room)

    def _hand_out(self, room: Room, wire: int) -> None:
        """Hand one frame to those whose turn it is on a wire, until it was given to all at their cursor."""
        group, log = room.in_step[wire], room.known_log
        after = group.at_turn
        if after == log.end:  # they came later, and have what others wait for
            group.pass_over(after)
            return
        frame = room.frames.held(log, wire, after) or self._build(room, wire, after)
        if not frame.data:
            self._settle(room, frame, group.pass_over(frame.sent))
            return
        given = 0
        try:
            while group and group.at_turn == after and room.frames.held(log, wire, after) is frame:
                written = group.give(frame.data, frame.sent, _SLICE)
                given += written
                self._writes += written
                room.frames.given(wire, written)
                if self._stalled:
                    self._leave_step()
                if self._is_turn_over():
                    break
        finally:
            self._settle(room, frame, given)

    def _build(self, room: Room, wire: int, after: int) -> Frame:
        since_ms = _NEVER_MS if self.hub.is_shedding else 0
        frame = room.frames.build(room.known_log, wire, after, droppable_since_ms=since_ms)
        self._observe(frame)
        return frame

    def _leave_step(self) -> None:
        """Those whose sockets are full are behind from here on; they have what they were given."""
        stalled, self._stalled = self._stalled, []
        for subscription in stalled:
            if subscription.is_in_step and subscription.session.paused:
                subscription.room.fall_behind(subscription)

    def _begin_round(self, room: Room) -> None:
        """A round brings all those in step to where the log ends now."""
        if room.round is None:
            room.round = (room.known_log.end, self._clock.monotonic_s())

    def _end_round(self, room: Room) -> None:
        end = room.known_log.end
        if room.round is not None and end - room.counted_unswept >= room.round[0]:
            took_s = self._clock.monotonic_s() - room.round[1]
            self._slowest_s = max(self._slowest_s, took_s)
            SWEEP_SECONDS.observe(took_s)
            room.round = None
        if not room.counted_unswept:
            room.frames.clear()

    def _settle(self, room: Room, frame: Frame, sessions: int) -> None:
        """Count ``sessions`` writes of a frame; before anybody else runs, so that the ledger is exact at every step."""
        if sessions:
            room.ledger.write_many(frame.written, sessions)
            room.ledger.drop(DropReason.BINARY, times(frame.binary, sessions))
            room.ledger.drop(DropReason.MEMORY, times(frame.skipped, sessions))
            self.written.count(frame.data, sum(frame.written), sessions, saved=frame.saved)

    def _observe(self, frame: Frame) -> None:
        """Observe the oldest publication of a frame: one sample a sweep."""
        if frame.publications and frame.publications[0].entry.sent_ms:
            age_ms = self._clock.wall_ms() - frame.publications[0].entry.sent_ms
            PUBLISH_TO_WRITE.observe(max(0, age_ms) / 1_000)
