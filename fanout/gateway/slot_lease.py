"""The gateway's chunk slot: leased, renewed, and leased anew when a higher generation was seen. Sessions stay.

The order on a new lease: read the partition's end, then attach. Whatever was published meanwhile is a hole of its room,
and the answer to the attach shows it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from fanout.core.errors import Unavailable
from fanout.core.limits import CHUNK_SLOTS
from fanout.gateway.announce import Announcer
from fanout.gateway.chunk_reader import ChunkReader
from fanout.ports import SLOTS, Clock, Lease, Leases
from fanout.runtime.node_lease import LeaseKeeper, NoReservation

logger = structlog.get_logger(__name__)

_PAUSE_S: Final = 0.5


class _Follower(NoReservation):
    """Tells of every new lease."""

    def __init__(self, tell: Callable[[Lease], None]) -> None:
        self._tell = tell

    def leased(self, lease: Lease) -> None:
        self._tell(lease)


class SlotLease:
    """Holds one slot and points the reader and the announcer to it. ``reader`` is set before ``start``."""

    reader: ChunkReader

    def __init__(self, *, leases: Leases, clock: Clock, holder: str, address: str, announcer: Announcer) -> None:
        self._announcer = announcer
        self._keeper = LeaseKeeper(
            leases=leases,
            clock=clock,
            pool=SLOTS,
            size=CHUNK_SLOTS,
            holder=holder,
            address=address,
            user=_Follower(self._leased),
        )
        self._new: Lease | None = None
        self._changed = asyncio.Event()
        self._used: Lease | None = None
        self._task: asyncio.Task[None] | None = None
        self._first = asyncio.Event()

    @property
    def lease(self) -> Lease | None:
        """The lease in use: its partition is read, and rooms attach to it."""
        return self._used

    @property
    def is_ready(self) -> bool:
        """True while chunks can come."""
        return self._used is not None and self._keeper.lease is not None and self.reader.is_open

    async def start(self, timeout_s: float) -> bool:
        """Begin; return True once the slot is in use, False after ``timeout_s`` (it goes on trying)."""
        self._task = asyncio.get_running_loop().create_task(self._follow(), name="slot")
        if not await self._keeper.start(timeout_s):
            return False
        try:
            async with asyncio.timeout(timeout_s):
                await self._first.wait()
        except TimeoutError:
            return False
        return True

    def fence(self, generation: int) -> None:
        """A chunk of a higher generation stands in our partition: somebody else holds the slot."""
        self._keeper.fence(generation)

    async def close(self) -> None:
        """Give the slot back."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._announcer.use(None)
        await self.reader.close()
        await self._keeper.close()

    def _leased(self, lease: Lease) -> None:
        self._new = lease
        self._changed.set()

    async def _follow(self) -> None:
        """Put each new lease to use; again and again while the log does not answer."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            lease = self._new
            while lease is not None and not self._changed.is_set():
                try:
                    await self._use(lease)
                    break
                except Unavailable as error:
                    logger.warning("slot cannot be read yet", slot=lease.number, error=str(error))
                    await asyncio.sleep(_PAUSE_S)
                except Exception:  # whoever follows leases must outlive anything: without it no chunk comes again
                    logger.exception("slot could not be put to use", slot=lease.number)
                    await asyncio.sleep(_PAUSE_S)

    async def _use(self, lease: Lease) -> None:
        self._announcer.use(None)
        await self.reader.open(lease)
        self._used = lease
        self._announcer.use(lease)
        self._first.set()
