"""What a gateway asks of the history: pages after a position, positions of rooms. Equal questions share one answer.

Ten thousand sessions that resume at once on a cold gateway ask about one position, so a question that is already out is
never asked a second time (FAULTS 30).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Hashable
from typing import Any, Generic, NamedTuple, TypeVar

from fanout.core.errors import RecordError, Unavailable
from fanout.core.records import Entry, decode_body
from fanout.core.room_log import Position
from fanout.ports import RoomMeta, Store

T = TypeVar("T")
READS_MAX = 64  # questions in flight; the others wait their turn


class SingleFlight(Generic[T]):
    """Runs one coroutine per key at a time; everybody who asks meanwhile gets its result."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, asyncio.Task[T]] = {}

    async def run(self, key: Hashable, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of ``work``, or of the flight with that key; one caller's end does not end the flight."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = asyncio.ensure_future(work)
            flight.add_done_callback(lambda done: self._landed(key, done))
        else:
            work.close()
        return await asyncio.shield(flight)

    def _landed(self, key: Hashable, done: asyncio.Task[T]) -> None:
        del self._flights[key]
        if not done.cancelled():
            done.exception()  # whoever asked may be gone; the outcome is known all the same


class Page(NamedTuple):
    """Stored entries after a position, oldest first; ``truncated``: more follow."""

    meta: RoomMeta | None
    entries: list[Entry]
    truncated: bool

    def up_to(self, head: int) -> Page:
        """Return the page as far as this gateway has come: the history may be ahead of it, and the rest will follow."""
        if not self.entries or self.entries[-1].offset <= head:
            return self
        return Page(self.meta, [entry for entry in self.entries if entry.offset <= head], truncated=False)


class EdgeHistory:
    """The history as gateways read it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pages: SingleFlight[Page] = SingleFlight()
        self._turn = asyncio.Semaphore(READS_MAX)

    async def page(
        self, key: str, epoch: str, *, after: int, limit: int, bytes_max: int, reverse: bool = False
    ) -> Page:
        """Return entries with offset > ``after`` (reverse: below it, newest first). Raises Unavailable."""
        question = (key, epoch, after, limit, bytes_max, reverse)
        return await self._pages.run(question, self._read(key, epoch, after, limit, bytes_max, reverse))

    async def _read(self, key: str, epoch: str, after: int, limit: int, bytes_max: int, reverse: bool) -> Page:
        async with self._turn:
            found = await self._store.history.read(
                key, epoch, after=after, limit=limit, bytes_max=bytes_max, reverse=reverse
            )
        try:
            entries = [decode_body(encoded, Entry) for encoded in found.entries]
        except RecordError as error:
            raise Unavailable(f"the history of {key} holds an entry that cannot be read") from error
        return Page(found.meta, entries, found.truncated)

    async def position(self, key: str, partition: int) -> Position | None:
        """Return where the history says that a room stands; None for a room it does not know. Raises Unavailable."""
        epoch = await self._store.epochs.current(partition)
        if epoch is None:
            return None
        meta = (await self.page(key, epoch, after=0, limit=0, bytes_max=0)).meta
        return None if meta is None else Position(meta.epoch, meta.head, meta.last, meta.floor, meta.n)
