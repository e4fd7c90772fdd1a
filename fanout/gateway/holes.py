"""Filling holes: publications that a room batch's ``prev`` names and that never arrived are taken from history first.

Single flight per room, one second. What arrives meanwhile waits, bounded; the order of what clients see never depends
on whether there was a hole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fanout.core.errors import Unavailable
from fanout.core.limits import HOLE_FILL_TIMEOUT_S, REPLAY_BYTES_MAX, REPLAY_ENTRIES_MAX, RING_BYTES_MAX
from fanout.core.messages import Kind
from fanout.core.records import Entry, RoomBatch
from fanout.core.room_log import RoomLog
from fanout.gateway.history import EdgeHistory

WAITING_ENTRIES_MAX = 4 * REPLAY_ENTRIES_MAX  # more than that in a second, and a resync is cheaper than waiting
_RETRY_S = 0.03  # chunks are acknowledged before history has their entries, so it may lag by a script's turn


class Hole:
    """What one room lacks: reliable publications up to ``last``, stored ones up to ``upto``; and who waits for it.

    ``head`` is where the worker says that the room stands (0 where it did not say).
    """

    __slots__ = ("_bytes", "_entries", "epoch", "head", "last", "task", "upto", "waiting")

    def __init__(self, epoch: str, last: int, upto: int, head: int = 0) -> None:
        self.epoch = epoch
        self.head = head
        self.last = last
        self.upto = upto
        self.waiting: list[RoomBatch] = []
        self.task: asyncio.Task[None] | None = None
        self._entries = 0
        self._bytes = 0

    def wait(self, batch: RoomBatch) -> bool:
        """Let a batch wait; False where no more may."""
        self.waiting.append(batch)
        self._entries += len(batch.entries)
        self._bytes += sum(len(entry.data) for entry in batch.entries)
        return self._entries <= WAITING_ENTRIES_MAX and self._bytes <= RING_BYTES_MAX


async def fetch(history: EdgeHistory, key: str, hole: Hole, log: RoomLog, take: Callable[[list[Entry]], None]) -> bool:
    """Fetch what ``log`` lacks up to the hole's end, giving it to ``take`` in order; False where it failed.

    Failed: not all of its reliable publications were there within a second, or their chain is broken.
    """
    try:
        async with asyncio.timeout(HOLE_FILL_TIMEOUT_S):
            done = await _step(history, key, hole, log, take)
            while done is None:
                await asyncio.sleep(_RETRY_S)
                done = await _step(history, key, hole, log, take)
            return done
    except (Unavailable, TimeoutError):
        return False


async def _step(
    history: EdgeHistory, key: str, hole: Hole, log: RoomLog, take: Callable[[list[Entry]], None]
) -> bool | None:
    """Fetch a page; return whether the hole is filled, None where the rest is not in the history yet."""
    page = await history.page(key, hole.epoch, after=log.head, limit=REPLAY_ENTRIES_MAX, bytes_max=REPLAY_BYTES_MAX)
    if page.meta is None or page.meta.epoch != hole.epoch or log.epoch != hole.epoch:
        return False
    if hole.last > log.last < page.meta.floor:
        return False
    entries = [entry for entry in page.entries if entry.offset <= hole.upto]
    last = log.last
    for entry in entries:
        if entry.prev > last:
            return False
        last = entry.offset if entry.kind == Kind.RELIABLE.value else last
    take(entries)
    if log.last >= hole.last and (len(entries) < len(page.entries) or not page.truncated):
        return True
    return await _step(history, key, hole, log, take) if page.truncated and entries else None
