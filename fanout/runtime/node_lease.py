"""Keeps a lease of a pool alive: id nodes for the sender, chunk slots for a gateway; and gives ids on a leased node.

A keeper always tries to hold one lease: it acquires (again and again, with growing pauses), renews every LEASE_RENEW_S,
and acquires anew once another generation was seen. ``fresh`` is the only thing to ask before the number is used for
something that must be unique: it ends at half the TTL without an answer, well before anybody else may get the number.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import structlog

from fanout.core.errors import OutOfIds, Unavailable
from fanout.core.ids import IdGenerator, restart_ms, time_of
from fanout.core.limits import ID_NODES, LEASE_RENEW_S, LEASE_TTL_S
from fanout.ports import NODES, Clock, Lease, Leases
from fanout.runtime.metrics import FENCED, LEASES_HELD

logger = structlog.get_logger(__name__)

_RETRY_S: Final = 0.1  # first pause after a failure; doubles up to LEASE_RENEW_S
_TTL_MS: Final = round(LEASE_TTL_S * 1_000)


class Holder(Protocol):
    """What uses the number of a lease, where it also reserves time for it (ports.Lease.used_ms)."""

    async def wait_s(self, lease: Lease) -> float:
        """Return how long a new lease must be held before it is used: holders of before may still be about."""

    def leased(self, lease: Lease) -> None:
        """Take a new lease over; nothing is reserved yet."""

    def wanted_ms(self) -> int:
        """Return up to which Unix ms the next renewal shall reserve."""

    def reserved(self, used_ms: int) -> None:
        """The store has noted the reservation."""

    def used_ms(self) -> int | None:
        """Return the newest Unix ms really used, for a release."""


class NoReservation:
    """Holder of a number that needs none: chunk slots are told apart by generation alone."""

    async def wait_s(self, lease: Lease) -> float:
        return 0.0

    def leased(self, lease: Lease) -> None: ...

    def wanted_ms(self) -> int:
        return 0

    def reserved(self, used_ms: int) -> None: ...

    def used_ms(self) -> int | None:
        return None


class LeaseKeeper:
    """One lease of one pool. ``user`` hears of every new lease before ``lease`` shows it."""

    def __init__(
        self,
        *,
        leases: Leases,
        clock: Clock,
        pool: str,
        size: int,
        holder: str,
        address: str = "",
        user: Holder | None = None,
    ) -> None:
        self._leases = leases
        self._clock = clock
        self._pool, self._size = pool, size
        self._holder, self._address = holder, address
        self._user: Holder = user or NoReservation()
        self._lease: Lease | None = None
        self._fresh_until_s = 0.0
        self._task: asyncio.Task[None] | None = None
        self._held = asyncio.Event()
        self._soon = asyncio.Event()

    @property
    def lease(self) -> Lease | None:
        """The lease that is held, fresh or not; None while there is none."""
        return self._lease

    @property
    def fresh(self) -> bool:
        """True while nobody else can hold the number: renewed less than half a TTL ago."""
        return self._lease is not None and self._clock.monotonic_s() < self._fresh_until_s

    async def start(self, timeout_s: float = 5.0) -> bool:
        """Begin; return True once a lease is held, False after ``timeout_s`` (the keeper goes on trying)."""
        self._task = asyncio.create_task(self._run(), name=f"lease {self._pool}")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._held.wait(), timeout_s)
        return self._lease is not None

    def fence(self, generation: int) -> None:
        """Somebody saw ``generation`` on our number: give the lease up where that is a higher one, and get another."""
        if self._lease is not None and generation > self._lease.generation:
            self._lose()
            self._soon.set()

    def renew_soon(self) -> None:
        """Renew now and not in a few seconds: more time must be reserved."""
        self._soon.set()

    async def close(self) -> None:
        """Stop and give the number back, as far as the store answers."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        lease = self._lease
        if lease is not None:
            self._drop()
            with contextlib.suppress(Unavailable):
                await self._leases.release(lease, self._user.used_ms())

    async def _run(self) -> None:
        pause_s = _RETRY_S
        while True:
            if await self._step():
                pause_s = _RETRY_S
                wait_s = LEASE_RENEW_S
            else:
                wait_s = pause_s
                pause_s = min(pause_s * 2, LEASE_RENEW_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._soon.wait(), wait_s)
            self._soon.clear()

    async def _step(self) -> bool:
        """Acquire or renew once; False where it must be tried again soon."""
        # Counted from before the call: the store's TTL begins after it, so ours ends first.
        asked_s = self._clock.monotonic_s()
        try:
            lease = self._lease
            if lease is None:
                return await self._acquire(asked_s)
            if await self._renew(lease):
                if self._lease is lease:
                    self._fresh_until_s = asked_s + LEASE_TTL_S / 2
                return True
        except Unavailable as error:
            logger.warning("lease not answered", pool=self._pool, error=str(error))
            return False
        except Exception as error:  # whatever it is: a keeper that has ended would never get a lease again
            logger.error("lease failed", pool=self._pool, exc_info=error)
            return False
        if self._lease is lease:
            self._lose()
        return False

    async def _acquire(self, asked_s: float) -> bool:
        lease = await self._leases.acquire(
            self._pool, self._size, self._holder, self._address, self._clock.wall_ms(), _TTL_MS
        )
        if lease is None:
            logger.error("no free number in the pool", pool=self._pool, size=self._size)
            return False
        wait_s = await self._user.wait_s(lease)
        if wait_s > 0:
            logger.info("lease outwaits holders of before", pool=self._pool, number=lease.number, wait_s=wait_s)
            await asyncio.sleep(wait_s)
            asked_s = self._clock.monotonic_s()
            standing = (await self._leases.table(self._pool)).get(lease.number)
            if standing is None or standing.generation != lease.generation:
                return False
            lease = standing
        self._user.leased(lease)
        if self._user.wanted_ms() and not await self._renew(lease):
            return False
        self._lease, self._fresh_until_s = lease, asked_s + LEASE_TTL_S / 2
        LEASES_HELD.labels(self._pool).inc()
        self._held.set()
        logger.info("lease acquired", pool=self._pool, number=lease.number, generation=lease.generation)
        return True

    async def _renew(self, lease: Lease) -> bool:
        wanted_ms = self._user.wanted_ms()
        renewed = await self._leases.renew(lease, _TTL_MS, wanted_ms)
        if renewed:
            self._user.reserved(wanted_ms)
        return renewed

    def _lose(self) -> None:
        assert self._lease is not None, "only a held lease can be lost"
        logger.warning("lease lost to a newer generation", pool=self._pool, number=self._lease.number)
        FENCED.labels(f"lease_{self._pool}").inc()
        self._drop()

    def _drop(self) -> None:
        self._lease = None
        LEASES_HELD.labels(self._pool).dec()


class IdNode:
    """Ids on a leased node: never one that an earlier or later holder of the number gives too.

    Ids are given only up to the time that the store knows as reserved, so a successor begins above them even after a
    crash.

    A store that was emptied knows nothing of those who hold its numbers, and they do not know it yet: for half a TTL
    they go on. So a number of which the store knows nothing is used at once only where it has known the pool for longer
    (who is about has renewed since, and stands in the table) or where the engine is new (``is_new``: the log has never
    had a message). Else the new holder waits until the pool is half a TTL old. An earlier holder that tries to renew
    meanwhile is fenced and leaves word of the time that it may have used; one that cannot reach the store gives no ids
    any more, and what it gave lies below the half TTL by which ids on an unknown number begin ahead of the clock.
    """

    def __init__(self, *, leases: Leases, clock: Clock, holder: str, is_new: Callable[[], Awaitable[bool]]) -> None:
        self._clock = clock
        self._is_new = is_new
        self._keeper = LeaseKeeper(leases=leases, clock=clock, pool=NODES, size=ID_NODES, holder=holder, user=self)
        self._ids: IdGenerator | None = None
        self._parent_ms = 0

    @property
    def fresh(self) -> bool:
        """True while ids may be given."""
        return self._keeper.fresh

    async def start(self, timeout_s: float = LEASE_TTL_S / 2 + 1.0) -> bool:
        """Lease a node; False where that took longer than ``timeout_s`` (it is tried on)."""
        return await self._keeper.start(timeout_s)

    async def close(self) -> None:
        """Give the node back."""
        await self._keeper.close()

    def next(self, wall_ms: int, parent: int = 0) -> int:
        """Return the next id, greater than ``parent``; raises OutOfIds, also while there is no fresh lease."""
        if self._ids is None or not self._keeper.fresh:
            raise OutOfIds("no lease of an id node: the store does not answer")
        try:
            return self._ids.next(wall_ms, parent)
        except OutOfIds:
            if parent and time_of(parent) >= self._ids.reserved_ms:
                self._parent_ms = time_of(parent)
                self._keeper.renew_soon()
            raise

    async def wait_s(self, lease: Lease) -> float:
        """Return how long the pool is still younger than an earlier holder may be about."""
        wait_ms = _TTL_MS // 2 - lease.pool_age_ms
        if lease.used_ms or wait_ms <= 0 or await self._is_new():
            return 0.0
        return wait_ms / 1_000

    def leased(self, lease: Lease) -> None:
        """Begin on a new number, above all that may have been given on it and all that was given here."""
        wall_ms = self._clock.wall_ms()
        start_ms = restart_ms(wall_ms, lease.used_ms) if lease.used_ms else wall_ms + _TTL_MS // 2
        self._ids = IdGenerator(lease.number, start_ms=max(start_ms, self._last_ms + 1), reserved_ms=0)

    def wanted_ms(self) -> int:
        """Return a TTL above everything that ids have reached or are about to."""
        return max(self._clock.wall_ms(), self._last_ms, self._parent_ms) + _TTL_MS

    def reserved(self, used_ms: int) -> None:
        """Ids may be given up to there."""
        assert self._ids is not None, "reserved before leased"
        self._ids.reserved_ms = used_ms

    def used_ms(self) -> int | None:
        """Return the time of the newest id."""
        return self._last_ms or None

    @property
    def _last_ms(self) -> int:
        return self._ids.last_ms if self._ids is not None else 0
