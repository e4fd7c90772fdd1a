"""Ticks: where a partition has open folds and nobody speaks any more, its owner appends a record that ends the windows.

Any record of the partition does; so a tick is appended only after a silence of two windows, and costs nothing where
there is traffic. What it does follows from its place and time on the log, whoever appended it and however often.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

import structlog

from fanout.core.limits import TICK_AFTER_S
from fanout.core.records import MESSAGES, TICK, Tick, encode
from fanout.ports import Clock
from fanout.runtime import metrics
from workers.partition import Partition
from workers.steady_writer import SteadyWriter

LOOK_S: Final = 0.1
_log: Final = structlog.get_logger(__name__)
_TICK: Final = encode(TICK, Tick())


class Ticker:
    """Appends ticks to the partitions of one worker, one in flight each."""

    def __init__(self, writer: SteadyWriter, clock: Clock) -> None:
        self._writer = writer
        self._clock = clock
        self._said_s: dict[int, float] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def look(self, partitions: Iterable[Partition]) -> None:
        """Append a tick where one is due: open folds, and silent for long enough since its last record and tick."""
        now_s = self._clock.monotonic_s()
        for owned in partitions:
            number = owned.number
            quiet_s = now_s - max(owned.taken_s, self._said_s.get(number, 0.0))
            if owned.windows and quiet_s >= TICK_AFTER_S and number not in self._tasks:
                self._said_s[number] = now_s
                self._tasks[number] = asyncio.create_task(self._tick(number), name=f"tick of {number}")

    async def close(self) -> None:
        """Give up what is in flight."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _tick(self, number: int) -> None:
        try:
            await self._writer.append_once(MESSAGES, number, ((None, _TICK),))
            metrics.TICKS_APPENDED.inc()
        except Exception as error:  # a producer in trouble raises whatever its library raises
            # Tried once: if the log has not taken it, the partition is as silent at the next look.
            _log.debug("tick not appended", partition=number, error=repr(error))
        finally:
            del self._tasks[number]
