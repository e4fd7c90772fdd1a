"""Records that are none of ours: moved to the ``dead`` topic with their place and cause, for people. JSON.

A record that is applied again after a crash is parked again; (topic, partition, offset) tells repeats apart.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import structlog

from fanout.core.limits import PARKED_PER_APPEND, PARKED_VALUE_BYTES_MAX
from fanout.core.records import DEAD, Parked
from fanout.runtime import metrics
from workers.poison import Poison
from workers.steady_writer import SteadyWriter

TEXT_MAX: Final = 512

_log: Final = structlog.get_logger(__name__)


def parked(poison: Poison, topic: str) -> bytes:
    """Return the value of a dead-letter record; longer values and keys are cut, and the detail says so."""
    partition, record, error = poison
    value, key = record.value or b"", record.key or b""
    detail = error.detail[:TEXT_MAX]
    if len(value) > PARKED_VALUE_BYTES_MAX:
        detail = f"{detail} (cut from {len(value)} bytes)"
    return msgspec.json.encode(
        Parked(
            reason=error.reason,
            detail=detail,
            topic=topic,
            partition=partition,
            offset=record.offset,
            at_ms=record.timestamp,
            key=key[:TEXT_MAX].decode(errors="backslashreplace"),
            value=value[:PARKED_VALUE_BYTES_MAX],
        )
    )


class DeadLetters:
    """Parks records, in the background and in order; ``done`` is called when a group of them is on the log."""

    def __init__(self, writer: SteadyWriter, topic: str) -> None:
        self._writer = writer
        self._topic = topic
        self._waiting: deque[tuple[list[bytes], Callable[[], None]]] = deque()
        self._task: asyncio.Task[None] | None = None
        self.bytes = 0

    def put(self, records: Sequence[Poison], done: Callable[[], None]) -> None:
        """Park records; nothing is committed past them before ``done``."""
        for partition, record, error in records:
            metrics.RECORDS_PARKED.labels(error.reason).inc()
            _log.warning(
                "record parked",
                reason=error.reason,
                topic=self._topic,
                partition=partition,
                offset=record.offset,
            )
        values = [parked(poison, self._topic) for poison in records]
        self.bytes += sum(map(len, values))
        self._waiting.append((values, done))
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="dead letters")

    async def _run(self) -> None:
        try:
            while self._waiting:
                values, done = self._waiting[0]
                for start in range(0, len(values), PARKED_PER_APPEND):
                    part = values[start : start + PARKED_PER_APPEND]
                    await self._writer.append_many(DEAD, 0, [(None, value) for value in part])
                self._waiting.popleft()
                self.bytes -= sum(map(len, values))
                done()
        finally:
            self._task = None

    async def close(self) -> None:
        """Give up what waits."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
