"""Chunks on their way to the log: one lane per slot, so that a slot whose partition is slow holds up nobody else.

A lane appends what waits in it in one go (one append per slot and turn, or more turns at once when it is behind), and
begins the next append when the log has acknowledged the last: an append that is tried again never passes another.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from fanout.core.limits import CHUNK_APPEND_BYTES_MAX
from fanout.core.records import CHUNKS
from fanout.runtime import metrics
from workers.steady_writer import SteadyWriter
from workers.turn import Turn


class _Lane:
    __slots__ = ("task", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[tuple[Turn, bytes]] = deque()
        self.task: asyncio.Task[None] | None = None


class ChunkLanes:
    """Appends the chunks of turns; calls ``acked`` for each turn when the log has all of it.

    ``bytes`` is what waits or is in flight; the worker stops polling while it is too much.
    """

    def __init__(self, writer: SteadyWriter, acked: Callable[[Turn], None]) -> None:
        self._writer = writer
        self._acked = acked
        self._lanes: dict[int, _Lane] = {}
        self.bytes = 0

    def put(self, turn: Turn) -> None:
        """Hand a turn's chunks over; its ``awaited`` goes up by their number before this returns."""
        for slot in turn.slots:
            lane = self._lanes.setdefault(slot.slot, _Lane())
            for chunk in slot.chunks:
                lane.waiting.append((turn, chunk))
                turn.awaited += 1
                self.bytes += len(chunk)
            if lane.task is None and lane.waiting:
                lane.task = asyncio.create_task(self._run(slot.slot, lane), name=f"chunks to slot {slot.slot}")
        turn.slots = []

    async def _run(self, slot: int, lane: _Lane) -> None:
        try:
            while lane.waiting:
                taken = _take(lane.waiting)
                await self._writer.append_many(CHUNKS, slot, [(None, chunk) for _, chunk in taken])
                size = sum(len(chunk) for _, chunk in taken)
                self.bytes -= size
                metrics.CHUNKS_APPENDED.inc(len(taken))
                metrics.CHUNK_BYTES.inc(size)
                for turn, _ in taken:
                    turn.awaited -= 1
                    if not turn.awaited:
                        self._acked(turn)
        finally:
            lane.task = None

    async def close(self) -> None:
        """Give up what waits."""
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _take(waiting: deque[tuple[Turn, bytes]]) -> list[tuple[Turn, bytes]]:
    taken = [waiting.popleft()]
    size = len(taken[0][1])
    while waiting and size + len(waiting[0][1]) <= CHUNK_APPEND_BYTES_MAX:
        taken.append(waiting.popleft())
        size += len(taken[-1][1])
    return taken
