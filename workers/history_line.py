"""The waiting line of the history: changes of acknowledged turns, stored in the order of turns, then committed.

The policies that a turn put in force go first: they must be known to the next owner before their record is committed.

Runs behind delivery: chunks never wait for it. While one pipeline is under way the next turns gather, and what they
changed in one room is joined to one step: the busier the rooms, the fewer steps per message. With the store away the
line grows to a bound (the worker stops polling then) and goes on where it was; commits wait with it.

Errors are read per room: a fenced room ends the ownership of its partition, anything else is tried again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

import msgspec
import structlog

from fanout.core.errors import Fenced
from fanout.core.limits import HISTORY_BYTES_PER_STORE, HISTORY_ROOMS_PER_STORE
from fanout.core.policies import PolicyAt
from fanout.core.room_state import RoomState
from fanout.ports import Clock, History, HistoryBatch
from fanout.runtime import metrics
from workers.turn import Change, Ownership, Turn

PAUSE_MIN_S: Final = 0.05
PAUSE_MAX_S: Final = 1.0

_log: Final = structlog.get_logger(__name__)


class HistoryLine:
    """Stores what turns changed. ``done`` is called for each turn whose changes all stand in the history (or concern
    nobody any more), in order; ``fenced`` when another owner has been seen."""

    def __init__(
        self,
        history: History,
        clock: Clock,
        *,
        keep_policy: Callable[[int, int, PolicyAt], Awaitable[None]],
        done: Callable[[Turn], None],
        fenced: Callable[[Ownership], None],
    ) -> None:
        self._history = history
        self._clock = clock
        self._keep_policy = keep_policy
        self._done = done
        self._fenced = fenced
        self._turns: deque[Turn] = deque()
        self._wake = asyncio.Event()
        self._is_failing = False
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._turns)

    @property
    def is_failing(self) -> bool:
        """True while the last pipeline did not store everything."""
        return self._is_failing

    def oldest_s(self) -> float:
        """Return how long the first turn in the line has waited."""
        return self._clock.monotonic_s() - self._turns[0].begun_s if self._turns else 0.0

    def put(self, turn: Turn) -> None:
        """Add a turn, in the order of turns; it is stored once it is acknowledged (``acked``)."""
        self._turns.append(turn)
        self.bytes += turn.bytes
        if not turn.awaited:
            self._wake.set()

    def acked(self, _turn: Turn) -> None:
        """The log has everything of a turn: it may be stored as soon as the turns before it may."""
        self._wake.set()

    async def run(self) -> None:
        """Store for ever; cancel to stop."""
        pause_s = PAUSE_MIN_S
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._turns and not self._turns[0].awaited:
                if await self._store_some():
                    self._is_failing, pause_s = False, PAUSE_MIN_S
                    await asyncio.sleep(0)  # a store in memory never waits, and others want their turn
                else:
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, PAUSE_MAX_S)

    async def _store_some(self) -> bool:
        """Store the changes of the turns at the head of the line; False where something must be tried again."""
        due = self._due()
        are_kept = await self._keep_policies(due)
        steps = _joined(change for turn in due for change in turn.changes)
        begun_s = self._clock.monotonic_s()
        results: Sequence[BaseException | None]
        try:
            results = await self._history.store([step.batch for step in steps]) if steps else ()
        except Exception as error:
            results = [error] * len(steps)
        if steps:
            metrics.HISTORY_SECONDS.observe(self._clock.monotonic_s() - begun_s)
        failed = {step.room for step, error in zip(steps, results, strict=True) if self._has_failed(step, error)}
        self._settle(due, failed)
        return are_kept and not failed

    async def _keep_policies(self, due: Iterable[Turn]) -> bool:
        """Keep the policies that turns put in force, in order; False where the store did not take one of them."""
        for turn in due:
            while turn.policies:
                ownership, at = turn.policies[0]
                try:
                    if not ownership.is_over:
                        await self._keep_policy(ownership.partition, ownership.owner, at)
                except Fenced:
                    if not ownership.is_over:
                        self._fenced(ownership)
                except Exception as error:
                    self._fails("policies not stored, trying again", app=at.app, error=repr(error))
                    return False
                turn.policies.pop(0)
        return True

    def _due(self) -> list[Turn]:
        due: list[Turn] = []
        rooms = size = 0
        for turn in self._turns:
            if turn.awaited or rooms >= HISTORY_ROOMS_PER_STORE or size >= HISTORY_BYTES_PER_STORE:
                break
            due.append(turn)
            rooms += len(turn.changes)
            size += turn.bytes
        return due

    def _has_failed(self, step: Change, error: BaseException | None) -> bool:
        if error is None:
            return False
        if isinstance(error, Fenced):
            if not step.ownership.is_over:
                self._fenced(step.ownership)
            return False
        self._fails("history not stored, trying again", room=step.batch.key, error=repr(error))
        return True

    def _fails(self, what: str, **fields: str) -> None:
        if not self._is_failing:
            _log.warning(what, **fields)
        self._is_failing = True

    def _settle(self, due: Iterable[Turn], failed: set[RoomState]) -> None:
        for turn in due:
            for change in turn.changes:
                if change.room not in failed:
                    change.room.loans -= 1
                    self.bytes -= change.bytes
            turn.changes = [change for change in turn.changes if change.room in failed]
        turns = self._turns
        while turns and not (turns[0].awaited or turns[0].changes or turns[0].policies):
            self._done(turns.popleft())


def _joined(changes: Iterable[Change]) -> list[Change]:
    """Return one step per room: entries in order, everything else from its newest change."""
    by_room: dict[RoomState, list[Change]] = {}
    for change in changes:
        if not change.ownership.is_over:
            by_room.setdefault(change.room, []).append(change)
    return [some[0] if len(some) == 1 else _join(some) for some in by_room.values()]


def _join(changes: Sequence[Change]) -> Change:
    newest = changes[-1]
    batch: HistoryBatch = msgspec.structs.replace(
        newest.batch,
        entries=[entry for change in changes for entry in change.batch.entries],
        keyed=[one for change in changes for one in change.batch.keyed],
    )
    if any(change.batch.openings or change.batch.outcomes for change in changes):
        batch = msgspec.structs.replace(
            batch,
            openings=[one for change in changes for one in change.batch.openings],
            outcomes=[one for change in changes for one in change.batch.outcomes],
        )
    return Change(newest.ownership, newest.room, batch, 0)
