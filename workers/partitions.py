"""The partitions that the group gives to this process: take-over, loss, fencing. One object per worker.

The rebalance callback only notes and pauses. A task per partition then claims it, seeks and resumes; until that is
done its records are not taken. Fenced: another owner has been seen, or the store lost the claim. If the group still
says that the partition is ours, it is claimed again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

import structlog

from fanout.core.errors import OutOfRange
from fanout.core.limits import CLAIMS_AT_ONCE
from fanout.core.policies import InForce
from fanout.core.profiles import Profiles
from fanout.core.records import MESSAGES
from fanout.ports import Clock, Epochs, GroupReader, Log
from fanout.runtime import metrics
from workers.partition import Partition, TakenOver, take_over
from workers.turn import Ownership

PAUSE_MIN_S: Final = 0.05
PAUSE_MAX_S: Final = 1.0
RECLAIM_AFTER_S: Final = 1.0  # a rebalance that is under way tells within this time who the owner is

_log: Final = structlog.get_logger(__name__)


class Partitions:
    """What this process owns: ``active`` partitions by number. Is the listener (ports.Assignment) of its reader."""

    def __init__(self, log: Log, epochs: Epochs, profiles: Profiles, clock: Clock) -> None:
        self._log = log
        self._epochs = epochs
        self._profiles = profiles
        self._clock = clock
        self._claims_at_once = asyncio.Semaphore(CLAIMS_AT_ONCE)
        self._claims: dict[int, asyncio.Task[None]] = {}
        self._assigned: set[int] = set()
        self._has_been_assigned = False
        self.reader: GroupReader | None = None
        self.active: dict[int, Partition] = {}

    @property
    def are_claimed(self) -> bool:
        """True where the group has spoken and everything it gave is being worked on."""
        return self._has_been_assigned and self._assigned == self.active.keys()

    def use(self, reader: GroupReader) -> None:
        """Work with this reader; it may have been given partitions already."""
        self.reader = reader
        self._begin(self._assigned)

    def assigned(self, partitions: Iterable[int]) -> None:
        """Note partitions that the group gives, and pause them until they are claimed."""
        numbers = set(partitions)
        self._has_been_assigned = True
        self._assigned |= numbers
        if self.reader is not None:
            self._begin(numbers)

    def revoked(self, partitions: Iterable[int]) -> None:
        """Forget partitions that the group takes away; what is under way for them changes nothing any more."""
        for number in set(partitions):
            self._assigned.discard(number)
            self._forget(number)
        self._tell()

    def fence(self, ownership: Ownership) -> None:
        """Another owner generation stands in the store: stop, and claim again if the group still says it is ours."""
        if ownership.is_over:
            return
        number = ownership.partition
        metrics.FENCED.labels("owner").inc()
        _log.warning("partition is fenced", partition=number, owner=ownership.owner)
        partition = self.active[number]
        self._forget(number)
        assert self.reader is not None
        self.reader.pause([number])
        self._claims[number] = asyncio.create_task(self._reclaim(number, partition.commits.next_offset))

    def out_of_range(self, error: OutOfRange) -> None:
        """The log does not hold what is due: pass a gap, or claim anew where the log ends before it."""
        partition = self.active.get(error.partition)
        if partition is None:
            return  # its claim seeks to what there is
        assert self.reader is not None
        if error.offset > error.end:
            _log.error("the log ends before what was read", partition=error.partition, at=error.offset, end=error.end)
            self._forget(error.partition)
            self._begin([error.partition])
        else:
            self._count_gap(error.partition, error.earliest - partition.next_offset)
            partition.next_offset = error.earliest
            self.reader.seek(error.partition, error.earliest)

    async def close(self) -> None:
        """End all take-overs and ownerships."""
        claims = list(self._claims.values())
        self.revoked(list(self._assigned))
        self.reader = None
        await asyncio.gather(*claims, return_exceptions=True)

    def _forget(self, number: int) -> None:
        claim = self._claims.pop(number, None)
        if claim is not None:
            claim.cancel()
        partition = self.active.pop(number, None)
        if partition is not None:
            partition.ownership.is_over = True
            partition.commits.end()

    def _begin(self, numbers: Iterable[int]) -> None:
        assert self.reader is not None
        numbers = list(numbers)
        self.reader.pause(numbers)
        for number in numbers:
            self._forget(number)
            self._claims[number] = asyncio.create_task(self._claim(number), name=f"take over {number}")
        self._tell()

    async def _reclaim(self, number: int, finished: int) -> None:
        # To claim from a living owner would fence it and be fenced back. The group decides: it takes a commit (of what
        # is finished anyway) only from the owner.
        while True:
            await asyncio.sleep(RECLAIM_AFTER_S)
            try:
                assert self.reader is not None
                await self.reader.commit({number: finished})
                break
            except Exception as error:  # as in _claim: it must be tried again whatever it was
                _log.debug("partition is not claimed again yet", partition=number, error=repr(error))
        await self._claim(number)

    async def _claim(self, number: int) -> None:
        pause_s = PAUSE_MIN_S
        while True:
            try:
                assert self.reader is not None
                async with self._claims_at_once:
                    taken = await take_over(
                        number, log=self._log, reader=self.reader, epochs=self._epochs, clock=self._clock
                    )
                self.reader.seek(number, taken.start.offset)
                break
            except Exception as error:  # a partition nobody works on is the worst outcome: try whatever it was
                if pause_s == PAUSE_MIN_S:
                    _log.warning("take-over failed, trying again", partition=number, error=repr(error))
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_MAX_S)
        self._activate(number, taken)

    def _activate(self, number: int, taken: TakenOver) -> None:
        assert self.reader is not None
        del self._claims[number]
        self._count_gap(number, taken.start.lost)
        metrics.TAKEOVERS.labels("renewed" if taken.renewed else "kept").inc()
        start = taken.start.offset
        policies = InForce(taken.policies, start)
        for at in policies.unreadable:  # the engine that wrote it was newer than this one
            _log.error("a stored policy is unreadable", partition=number, app=at.app, version=at.version)
        self.active[number] = Partition(
            taken.ownership, start, self._log.partitions(MESSAGES), self._profiles, policies
        )
        self.reader.resume([number])
        self._tell()

    def _count_gap(self, number: int, records: int) -> None:
        if records > 0:
            metrics.LOG_GAPS.labels(MESSAGES).inc(records)
            _log.error("records are not on the log any more", partition=number, records=records)

    def _tell(self) -> None:
        metrics.PARTITIONS_OWNED.labels(MESSAGES).set(len(self.active))
