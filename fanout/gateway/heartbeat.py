"""One wheel for all sessions: pings, missing pongs, and connections that are late with what they owe.

Time is counted in turns of the wheel, and at each turn the sockets are read before anybody is judged: after a stall of
the loop nobody is closed for a pong, a handshake or a connect that has arrived but was not read yet (FAULTS 33).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

import structlog

from fanout.gateway.session import Session
from fanout.gateway.wires import PING_FRAMES
from fanout.ports import Clock
from fanout.runtime.metrics import PINGS

logger = structlog.get_logger(__name__)

_TURN_S_MAX: Final = 1.0
_PINGS_AT_ONCE: Final = 500  # then the loop gets a turn
_TURNS_TO_READ: Final = 2


class Late(Protocol):
    """Something that owes an action by a deadline."""

    def overdue(self) -> None:
        """The deadline has passed."""


class Deadlines:
    """Things that all have the same time: the oldest is due first, so looking costs nothing."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._due: dict[Late, float] = {}

    def __len__(self) -> int:
        return len(self._due)

    def add(self, late: Late, now_s: float) -> None:
        """Begin to wait for something, or begin anew."""
        self._due.pop(late, None)
        self._due[late] = now_s + self._seconds

    def discard(self, late: Late) -> None:
        """It has come, or does not matter any more."""
        self._due.pop(late, None)

    def pass_by(self, now_s: float) -> None:
        """Tell everything whose time is over."""
        overdue = []
        for late, due_s in self._due.items():
            if due_s > now_s:
                break
            overdue.append(late)
        for late in overdue:
            del self._due[late]
            late.overdue()


class Heartbeat:
    """The wheel. Sessions are spread evenly over its buckets, so pings go out evenly too."""

    def __init__(
        self,
        *,
        clock: Clock,
        ping_s: float,
        pong_s: float,
        deadlines: tuple[Deadlines, ...],
        every_turn: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._turn_s = min(_TURN_S_MAX, ping_s / 4, pong_s / 2)
        size = max(2, round(ping_s / self._turn_s))
        self._buckets: list[set[Session]] = [set() for _ in range(size)]
        self._pong_turns = min(size - 1, max(1, round(pong_s / self._turn_s)))
        self._deadlines = deadlines
        self._every_turn = every_turn
        self._next = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to turn."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="heartbeat")

    async def close(self) -> None:
        """Stop turning."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def add(self, session: Session) -> None:
        """Ping a session from now on."""
        self._next = (self._next + 1) % len(self._buckets)
        self._buckets[self._next].add(session)
        session.bucket = self._next

    def discard(self, session: Session) -> None:
        """A session has ended."""
        if session.bucket >= 0:
            self._buckets[session.bucket].discard(session)

    async def _run(self) -> None:
        turn = 0
        while True:
            await asyncio.sleep(self._turn_s)
            await _sockets_are_read()
            now_s = self._clock.monotonic_s()
            turn += 1
            try:
                await self._turn(turn, now_s)
            except Exception:  # whatever fails must not stop the wheel for all
                logger.exception("a turn of the heartbeat failed")

    async def _turn(self, turn: int, now_s: float) -> None:
        size = len(self._buckets)
        for deadlines in self._deadlines:
            deadlines.pass_by(now_s)
        self._every_turn()
        for session in list(self._buckets[(turn - self._pong_turns) % size]):
            _guarded(session, session.check_pong)
        await self._ping(self._buckets[turn % size])

    async def _ping(self, bucket: set[Session]) -> None:
        for count, session in enumerate(list(bucket), 1):
            if not session.closed:
                _guarded(session, partial(session.ping, PING_FRAMES[session.wire]))
                PINGS.inc()
            if count % _PINGS_AT_ONCE == 0:
                await asyncio.sleep(0)


async def _sockets_are_read() -> None:
    """Return when the loop has looked at its sockets: timers run before them, callbacks of one turn after them."""
    for _ in range(_TURNS_TO_READ):
        await asyncio.sleep(0)


def _guarded(session: Session, look: Callable[[], None]) -> None:
    """Look after one session; what fails there is not the business of those after it."""
    try:
        look()
    except Exception:
        logger.exception("looking after a session failed", session=session.number)
