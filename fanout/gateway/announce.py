"""What a gateway says on the log: Attach for the rooms it needs, Announce with reports, Detach for those it gives up.

Each of them is a record in the room's partition, so that it acts where it stands among the room's messages. All of them
may be lost or repeated: an Attach is sent again until it is answered, a report is cumulative, an Announce attaches too.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Sequence
from typing import Any, Final, Protocol

import structlog

from fanout.core.errors import UNAVAILABLE, Refused, Unavailable
from fanout.core.limits import ANNOUNCE_S, ATTACH_TIMEOUT_S
from fanout.core.records import (
    ANNOUNCE,
    ATTACH,
    DETACH,
    MESSAGES,
    Announce,
    Attach,
    Detach,
    RoomReport,
    encode,
)
from fanout.core.room_log import NONE, minus
from fanout.gateway.history import EdgeHistory, SingleFlight
from fanout.gateway.hub import Hub
from fanout.gateway.room import Room
from fanout.ports import Clock, Lease, Log, LogWriter

logger = structlog.get_logger(__name__)

_LOOK_S: Final = 0.25
_ATTACH_AGAIN_S: Final = 2.0
_PATIENCE_S: Final = 3.0  # for a room that the history does not know either: a worker may be taking over just now
_FULL_S: Final = 60.0  # every room is announced this often, changed or not
_JITTER: Final = (0.6, 0.95)  # of ANNOUNCE_S; the rest is for the append itself
_ROOMS_MAX: Final = 1_000  # in one Announce, so that the record stays far below the log's limit
_AT_ONCE: Final = 256  # appends in flight when all rooms attach anew
_DEPARTED_MAX: Final = 10_000


class Pressure(Protocol):
    """How much of its deliveries a gateway would rather not make."""

    @property
    def percent(self) -> int: ...
    def look(self) -> None: ...


class Announcer:
    """Speaks for one gateway. ``hub`` and ``pressure`` are set before ``start``."""

    hub: Hub
    pressure: Pressure

    def __init__(self, *, log: Log, history: EdgeHistory, clock: Clock, dice: random.Random | None = None) -> None:
        self._log, self._history, self._clock = log, history, clock
        self._dice = dice or random.Random()
        self._writer: LogWriter | None = None
        self._lease: Lease | None = None
        self._former: Lease | None = None  # the last slot that was spoken for
        self._openings: SingleFlight[None] = SingleFlight()
        self._attaching: dict[Room, float] = {}  # not answered yet → when to ask again
        self._sending: set[Room] = set()
        self._partitions: dict[int, set[Room]] = {}
        self._due: dict[int, float] = {}
        self._full_due: dict[int, float] = {}
        self._departed: dict[str, tuple[int, bytes, bool]] = {}  # key → partition, Detach record, whether it is out
        self._stray_s: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begin to speak; raises Unavailable when the log does not answer."""
        self._writer = await self._log.writer(durable=True)
        self._task = asyncio.get_running_loop().create_task(self._run(), name="announce")

    async def close(self) -> None:
        """Stop speaking."""
        tasks = [task for task in (self._task, *self._tasks) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._writer is not None:
            await self._writer.close()

    @property
    def slot(self) -> int:
        """Number of the slot in use, -1 without one."""
        return -1 if self._lease is None else self._lease.number

    def use(self, lease: Lease | None) -> None:
        """Speak for a slot from now on (None: for none). Every room attaches anew, and a new stay of it begins."""
        self._lease = lease
        if lease is None:
            return
        rooms = list(self.hub.rooms.values())
        farewells: list[tuple[Room, bytes]] = []
        if self._former is not None:
            former = self._former
            farewells = [
                (room, encode(DETACH, Detach(former.number, former.generation, room.instance, closing_report(room))))
                for room in rooms
            ]
            self.hub.restart_instances()
        self._former = lease
        self._attaching = dict.fromkeys(rooms, self._clock.monotonic_s())
        self._spawn(self._move(farewells))

    async def _move(self, farewells: Sequence[tuple[Room, bytes]]) -> None:
        """Close the stays on the former slot, then attach; a farewell that is lost leaves an upper bound behind."""
        for start in range(0, len(farewells), _AT_ONCE):
            some = farewells[start : start + _AT_ONCE]
            await asyncio.gather(
                *(self._append(room.partition, room.key, record) for room, record in some), return_exceptions=True
            )
        await self._attach_due()

    # --- rooms --------------------------------------------------------------------------------------------------------

    async def make_known(self, room: Room) -> None:
        """Return when the room's position is known; raises Refused ``unavailable`` where nobody can tell it now."""
        if room.log is None:
            await self._openings.run((room.key, room.instance), self._open(room))

    async def _open(self, room: Room) -> None:
        """Attach; without an answer within a second begin from the history (the answer closes the hole later)."""
        self._partitions.setdefault(room.partition, set()).add(room)
        if room not in self._attaching:
            self._attaching[room] = self._clock.monotonic_s()
            self._spawn(self._attach(room))  # a log that is slow to take it does not hold up the answer from history
        if await self.hub.wait_until_known(room, ATTACH_TIMEOUT_S):
            return
        try:
            position = await self._history.position(room.key, room.partition)
        except Unavailable:
            position = None
        if room.log is None and position is not None and self.hub.rooms.get(room.key) is room:
            self.hub.begin(room, position, known_to=position.head)
        if not await self.hub.wait_until_known(room, _PATIENCE_S):
            raise Refused(UNAVAILABLE, "no worker has answered for this room yet; try again")

    async def _attach(self, room: Room) -> None:
        lease = self._lease
        if lease is None or room in self._sending:
            return
        self._sending.add(room)
        self._attaching[room] = self._clock.monotonic_s() + _ATTACH_AGAIN_S
        attach = Attach(lease.number, lease.generation, room.instance)
        try:
            await self._append(room.partition, room.key, encode(ATTACH, attach))
        except Unavailable as error:
            logger.warning("attach not on the log", room=room.key, error=str(error))
        finally:
            self._sending.discard(room)

    async def _attach_due(self) -> None:
        """Attach again where no answer came."""
        now_s = self._clock.monotonic_s()
        due = []
        for room, due_s in list(self._attaching.items()):
            if room.attached or self.hub.rooms.get(room.key) is not room:
                del self._attaching[room]
            elif due_s <= now_s:
                due.append(room)
        for start in range(0, len(due), _AT_ONCE):
            await asyncio.gather(*map(self._attach, due[start : start + _AT_ONCE]))

    # --- reports ------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                self.pressure.look()
                await self._attach_due()
                await self._depart(self.hub.idle())
                if self._lease is not None:
                    await self._announce_due(self._lease)
            except Unavailable as error:
                logger.warning("the log takes no announcements", error=str(error))
            except Exception:
                logger.exception("announcing failed")

    async def _announce_due(self, lease: Lease) -> None:
        now_s = self._clock.monotonic_s()
        due = [partition for partition, rooms in self._partitions.items() if rooms and self._is_due(partition, now_s)]
        results = await asyncio.gather(
            *(self._announce(lease, partition, now_s) for partition in due), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def _is_due(self, partition: int, now_s: float) -> bool:
        due_s = self._due.get(partition)
        if due_s is None:
            due_s = self._due[partition] = now_s + self._pause_s()
        return due_s <= now_s

    def _pause_s(self) -> float:
        return ANNOUNCE_S * self._dice.uniform(*_JITTER)

    async def _announce(self, lease: Lease, partition: int, now_s: float) -> None:
        """Report the rooms of a partition that changed; once a minute all of them."""
        self._due[partition] = now_s + self._pause_s()
        is_full = self._full_due.get(partition, 0.0) <= now_s
        if is_full:
            self._full_due[partition] = now_s + _FULL_S
        rooms = [one for one in self._partitions[partition] if one.log is not None and (is_full or one.touched)]
        for start in range(0, len(rooms), _ROOMS_MAX):
            some = rooms[start : start + _ROOMS_MAX]
            said = Announce(lease.number, lease.generation, self.pressure.percent, [report(room) for room in some])
            for room in some:
                room.touched = room.ledger.pending != NONE
            try:
                await self._append(partition, None, encode(ANNOUNCE, said))
            except Unavailable:
                for room in some:
                    room.touched = True
                raise

    # --- leaving ------------------------------------------------------------------------------------------------------

    async def detach_all(self) -> None:
        """Give every room up, with its last report; sessions must have left."""
        await self._depart([room for room in self.hub.rooms.values() if not room.subscriptions])

    async def _depart(self, rooms: Sequence[Room]) -> None:
        for room in rooms:
            self.hub.forget(room)
            self._partitions.get(room.partition, set()).discard(room)
            self._attaching.pop(room, None)
            if self._lease is not None:
                detach = Detach(self._lease.number, self._lease.generation, room.instance, report(room))
                self._departed[room.key] = (room.partition, encode(DETACH, detach), False)
        await self._say_departed([key for key, (_, _, is_out) in self._departed.items() if not is_out])
        while len(self._departed) > _DEPARTED_MAX:
            self._departed.pop(next(iter(self._departed)))

    async def _say_departed(self, keys: Sequence[str]) -> None:
        """Say so, many at once: thousands of rooms may fall silent together. Raises Unavailable after the last."""
        for start in range(0, len(keys), _AT_ONCE):
            results = await asyncio.gather(*map(self._farewell, keys[start : start + _AT_ONCE]), return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException):
                    raise result

    async def _farewell(self, key: str) -> None:
        said = self._departed.get(key)
        if said is None:
            return
        partition, record, _ = said
        await self._append(partition, key, record)
        if self._departed.get(key) is said:
            self._departed[key] = (partition, record, True)

    def stray(self, key: str) -> None:
        """A room is sent to us that we gave up: say so again, seldom."""
        now_s = self._clock.monotonic_s()
        if key in self._departed and self._stray_s.get(key, 0.0) <= now_s:
            if len(self._stray_s) > _DEPARTED_MAX:
                self._stray_s.clear()
            self._stray_s[key] = now_s + ANNOUNCE_S
            partition, record, _ = self._departed[key]
            self._departed[key] = (partition, record, False)

    async def _append(self, partition: int, key: str | None, record: bytes) -> None:
        if self._writer is None:
            raise Unavailable("the announcer has not been started")
        await self._writer.append(MESSAGES, partition, None if key is None else key.encode(), record)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def closing_report(room: Room) -> RoomReport:
    """Return the last report of a stay that the room outlives: what is pending moves on to the next one."""
    last = report(room)
    last.offered = list(minus(room.ledger.offered, room.ledger.pending))
    last.pending = list(NONE)
    return last


def report(room: Room) -> RoomReport:
    """Return what this gateway did for a room since its stay began. Nobody acknowledges yet: written is unconfirmed."""
    ledger = room.ledger
    return RoomReport(
        key=room.key,
        instance=room.instance,
        head=0 if room.log is None else room.log.head,
        subscriptions=room.subscriptions,
        offered=list(ledger.offered),
        written=list(ledger.written),
        dropped={reason: list(counts) for reason, counts in ledger.dropped.items()},
        pending=list(ledger.pending),
        unconfirmed=list(ledger.written),
        users=room.users,
        taken=list(room.taken),
    )
