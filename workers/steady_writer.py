"""Appends that are tried until the log has them, in order: what chunks and parked records need.

Producers that are stuck for good are the adapter's business; here it is only about not giving up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from fanout.ports import Appended, Log, LogWriter

_log: Final = structlog.get_logger(__name__)

PAUSE_MIN_S: Final = 0.05
PAUSE_MAX_S: Final = 1.0


class SteadyWriter:
    """A log writer that does not give up; it pauses 0.05 to 1 s between two tries.

    An append that failed may stand on the log all the same; the readers know repeats by their position.
    """

    def __init__(self, log: Log, *, durable: bool) -> None:
        self._log = log
        self._durable = durable
        self._writer: LogWriter | None = None
        self._is_failing = False

    async def open(self) -> None:
        """Open the writer; raises Unavailable where the log does not answer."""
        self._writer = await self._log.writer(durable=self._durable)

    @property
    def is_failing(self) -> bool:
        """True while the last append did not succeed."""
        return self._is_failing

    async def append_many(
        self, topic: str, partition: int, records: Sequence[tuple[bytes | None, bytes | None]]
    ) -> None:
        """Append records side by side; returns when the log has them. Cancel to give up."""
        assert self._writer is not None, "open() comes first"
        pause_s = PAUSE_MIN_S
        while True:
            try:
                await self._writer.append_many(topic, partition, records)
            except Exception as error:  # a producer in trouble raises whatever its library raises
                if not self._is_failing:
                    _log.warning("append failed, trying again", topic=topic, partition=partition, error=repr(error))
                self._is_failing = True
            else:
                self._is_failing = False
                return
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_MAX_S)

    async def append_once(
        self, topic: str, partition: int, records: Sequence[tuple[bytes | None, bytes | None]]
    ) -> Appended:
        """Append records side by side and return where the first stands; raises what the log raises."""
        assert self._writer is not None, "open() comes first"
        return await self._writer.append_many(topic, partition, records)

    async def close(self) -> None:
        """Close the writer."""
        if self._writer is not None:
            await self._writer.close()
