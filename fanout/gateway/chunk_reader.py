"""Reads the gateway's own partition of ``chunks`` and hands chunks to the hub, no faster than sessions are served.

A reader that fails, or goes silent while its partition grows, is replaced; the new one goes on after the last chunk
applied. What the log no longer holds is a counted gap: the rooms notice by ``prev`` and fill it from history.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from fanout.core.errors import OutOfRange, RecordError, Unavailable
from fanout.core.records import CHUNK, CHUNKS, Chunk, body, header
from fanout.ports import Clock, Lease, Log, LogReader, LogRecord
from fanout.runtime.metrics import CHUNKS_REFUSED, FENCED, LOG_GAPS, REBUILDS, RECORDS_POLLED

logger = structlog.get_logger(__name__)

_POLL_RECORDS: Final = 64  # of up to 256 KB each
_POLL_S: Final = 1.0
_SILENT_S: Final = 5.0  # without a record while the partition has some: aiokafka's consumers have been seen to stop
_PAUSE_S: Final = 0.5


class ChunkReader:
    """One slot's chunks. ``apply`` takes one, ``brake`` returns when more may come, ``fenced`` gets generations."""

    def __init__(
        self,
        *,
        log: Log,
        clock: Clock,
        apply: Callable[[Chunk], None],
        brake: Callable[[], Awaitable[None]],
        fenced: Callable[[int], None],
    ) -> None:
        self._log, self._clock = log, clock
        self._apply, self._brake, self._fenced = apply, brake, fenced
        self._lease: Lease | None = None
        self._reader: LogReader | None = None
        self._next = 0  # log offset after the last chunk applied
        self._heard_s = 0.0
        self._task: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """True while a slot's chunks are read."""
        return self._reader is not None

    async def open(self, lease: Lease) -> None:
        """Read a slot's partition from its end, leaving the former one; raises Unavailable."""
        await self.close()
        self._reader = await self._log.reader(CHUNKS, [lease.number])
        self._lease, self._next = lease, self._reader.position(lease.number)
        self._heard_s = self._clock.monotonic_s()
        self._task = asyncio.get_running_loop().create_task(self._run(lease.number), name="chunks")

    async def close(self) -> None:
        """Stop reading."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await self._drop_reader()

    async def _run(self, slot: int) -> None:
        while True:
            try:
                await self._step(slot)
            except OutOfRange as error:
                self._skip_gap(slot, error)
            except Unavailable as error:
                logger.warning("chunks cannot be read", slot=slot, error=str(error))
                await self._give_up_reader()
            except Exception:
                logger.exception("reading chunks failed", slot=slot)
                await self._give_up_reader()

    async def _step(self, slot: int) -> None:
        if self._reader is None:
            await self._rebuild(slot)
            return
        polled = await self._reader.poll(_POLL_RECORDS, _POLL_S)
        records = polled.get(slot, ())
        for record in records:
            self._take(record)
            self._next = record.offset + 1
            await self._brake()
        if records:
            RECORDS_POLLED.labels(CHUNKS).inc(len(records))
            self._heard_s = self._clock.monotonic_s()
        elif self._clock.monotonic_s() - self._heard_s > _SILENT_S:
            await self._look(slot)

    def _take(self, record: LogRecord) -> None:
        """Judge a chunk by its slot's generation, and hand it over."""
        assert self._lease is not None, "only an open reader has records"
        try:
            if record.value is None:
                raise RecordError("no_value", "a chunk has a value")
            head = header(record.value)
            if head.kind != CHUNK:
                raise RecordError("unknown_kind", f"kind {head.kind} does not belong here")
            if head.id < self._lease.generation:
                CHUNKS_REFUSED.labels("old_slot").inc()
            elif head.id > self._lease.generation:
                FENCED.labels("slot").inc()
                self._fenced(head.id)
            else:
                self._apply(body(record.value, Chunk))
        except RecordError as error:
            CHUNKS_REFUSED.labels(error.reason).inc()
            logger.error("chunk that cannot be read", offset=record.offset, reason=error.reason, detail=error.detail)
        except Exception:
            CHUNKS_REFUSED.labels("failed").inc()
            logger.exception("applying a chunk failed", offset=record.offset)

    async def _look(self, slot: int) -> None:
        """Nothing has come for a while: is there nothing, or is the reader dead?"""
        self._heard_s = self._clock.monotonic_s()
        _, end = (await self._log.ends(CHUNKS, [slot]))[slot]
        if self._reader is not None and end > self._next and self._reader.position(slot) <= self._next:
            logger.warning("reader is silent", slot=slot, next=self._next, end=end)
            await self._rebuild(slot)

    async def _rebuild(self, slot: int) -> None:
        await self._drop_reader()
        try:
            self._reader = await self._log.reader(CHUNKS, [slot])
        except Unavailable as error:
            logger.warning("no reader", slot=slot, error=str(error))
            await asyncio.sleep(_PAUSE_S)
            return
        REBUILDS.labels("chunk_reader").inc()
        self._reader.seek(slot, self._next)
        self._heard_s = self._clock.monotonic_s()

    def _skip_gap(self, slot: int, error: OutOfRange) -> None:
        """The log has not kept what comes next: declared, counted, and found by the rooms."""
        LOG_GAPS.labels(CHUNKS).inc(max(1, error.earliest - self._next))
        self._next = error.earliest if self._next < error.earliest else error.end
        logger.warning("chunks are gone", slot=slot, earliest=error.earliest, end=error.end)
        if self._reader is not None:
            self._reader.seek(slot, self._next)

    async def _give_up_reader(self) -> None:
        """Let the next step begin with a fresh reader, after a pause."""
        await self._drop_reader()
        await asyncio.sleep(_PAUSE_S)

    async def _drop_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            with contextlib.suppress(Exception):  # of no interest any more
                await reader.close()
