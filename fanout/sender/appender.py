"""Group commit: what is published to a partition while an append is under way goes to the log together with the next.

One append a partition is in flight at a time, so the order of a partition is the order of ``append`` calls, and at
high rates a hundred messages cost one round trip. At low rates every message leaves at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import structlog

from fanout.core.errors import UNAVAILABLE, Refused, Unavailable
from fanout.core.limits import (
    APPEND_BYTES_MAX,
    APPEND_RECORDS_MAX,
    APPENDS_WAITING_BYTES_MAX,
    APPENDS_WAITING_MAX,
    RETRY_AFTER_S,
)
from fanout.core.records import MESSAGES
from fanout.ports import LogWriter
from fanout.runtime.metrics import APPEND_SECONDS

logger = structlog.get_logger(__name__)

KeyedValue = tuple[bytes | None, bytes | None]


class _Group(NamedTuple):
    """Records of one caller that stand next to one another; ``placed`` gets the log offset of the first."""

    records: Sequence[KeyedValue]
    size: int
    placed: asyncio.Future[int]


class Appender:
    """Appends to ``messages`` through one durable writer. Bounded in messages and bytes; belongs to one loop."""

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer
        self._waiting: dict[int, deque[_Group]] = {}  # a partition is here while its task runs
        self._tasks: set[asyncio.Task[None]] = set()
        self._messages = 0
        self._bytes = 0

    @property
    def waiting(self) -> int:
        """Messages between ``append`` and the log's answer."""
        return self._messages

    def append(self, partition: int, records: Sequence[KeyedValue]) -> asyncio.Future[int]:
        """Return a future of the first record's log offset; the others follow it without a gap.

        At most APPEND_RECORDS_MAX records and (but for a single one) APPEND_BYTES_MAX bytes. The future raises
        Unavailable when the log did not answer in time; it may have the records. Raises Refused ``unavailable`` at once
        where too much is waiting already; nothing was appended then.
        """
        size = sum(len(key or b"") + len(value or b"") for key, value in records)
        if self._messages + len(records) > APPENDS_WAITING_MAX or self._bytes + size > APPENDS_WAITING_BYTES_MAX:
            raise Refused(UNAVAILABLE, "too many messages wait for the log", retry_after_s=RETRY_AFTER_S)
        self._messages += len(records)
        self._bytes += size
        placed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        group = _Group(records, size, placed)
        waiting = self._waiting.get(partition)
        if waiting is not None:
            waiting.append(group)
            return placed
        self._waiting[partition] = deque((group,))
        task = asyncio.create_task(self._run(partition))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return placed

    async def drain(self, timeout_s: float) -> bool:
        """Wait until the log has answered for everything; False where that took longer."""
        if not self._tasks:
            return True
        _, late = await asyncio.wait(set(self._tasks), timeout=timeout_s)
        return not late

    async def close(self) -> None:
        """Stop; who still waits gets Unavailable, because nothing is known about their records."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._writer.close()

    async def _run(self, partition: int) -> None:
        """Append what waits for a partition until nothing does.

        Where the log does not answer, those who waited behind are told at once: with a wait of their own they would
        be answered only after twice the bound.
        """
        waiting = self._waiting[partition]
        try:
            while waiting:
                failure = await self._append(partition, _take(waiting))
                if failure is not None:
                    behind = list(waiting)
                    waiting.clear()
                    self._settle(behind, failure)
        finally:
            del self._waiting[partition]
            self._settle(list(waiting), Unavailable("the sender stops"))

    async def _append(self, partition: int, groups: list[_Group]) -> Unavailable | None:
        """Append groups and tell their callers; return why the log did not answer, if so."""
        records = [record for group in groups for record in group.records] if len(groups) > 1 else groups[0].records
        outcome: int | BaseException = Unavailable("the append was cut off")
        try:
            with APPEND_SECONDS.time():
                outcome = (await self._writer.append_many(MESSAGES, partition, records)).offset
        except Unavailable as error:
            outcome = error
            return error
        except Exception as error:  # an append that fails for another reason must not end the partition's task
            logger.error("append failed", partition=partition, records=len(records), exc_info=error)
            outcome = Unavailable(f"the append failed ({type(error).__name__})")
        finally:
            self._settle(groups, outcome)
        return None

    def _settle(self, groups: list[_Group], outcome: int | BaseException) -> None:
        """Tell the callers; one that no longer waits (its connection is gone) is passed over."""
        for group in groups:
            self._messages -= len(group.records)
            self._bytes -= group.size
            if not group.placed.done():
                if isinstance(outcome, int):
                    group.placed.set_result(outcome)
                else:
                    group.placed.set_exception(outcome)
            if isinstance(outcome, int):
                outcome += len(group.records)


def _take(waiting: deque[_Group]) -> list[_Group]:
    """Return the first groups, as many as one append may hold; at least one."""
    groups = [waiting.popleft()]
    records, size = len(groups[0].records), groups[0].size
    while waiting:
        records += len(waiting[0].records)
        size += waiting[0].size
        if records > APPEND_RECORDS_MAX or size > APPEND_BYTES_MAX:
            break
        groups.append(waiting.popleft())
    return groups
