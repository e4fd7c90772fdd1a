"""Who of a reconnect herd is let in when: a token bucket, a line in front of it, and a word for those beyond the line.

Each return costs its share of a core (a handshake, a connect, a subscribe with its replay), and without a bound ten
thousand of them at once would have it all, for seconds, while those who stayed wait. So connections are let in at a
rate. Nothing of a request is read before its turn but that it asks for WebSocket; whoever asks for anything else does
not stand in line. SDKs give up on a connection after 5 s: what cannot be let in well before that is refused at once,
with a time to come back that is spread, instead of being served when nobody listens any more.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from typing import Final, NamedTuple, Protocol

import structlog

from fanout.core.errors import DRAINING, OVERLOADED, Problem
from fanout.core.limits import CONNECT_BURST, CONNECT_WAIT_S_MAX, CONNECTS_PER_S
from fanout.ports import Clock
from fanout.runtime.metrics import CONNECT_WAIT, CONNECTS_REFUSED, CONNECTS_WAITING

logger = structlog.get_logger(__name__)

_LOOK_S: Final = 0.002  # between two looks at the line: some of it comes in at each, and others have their turn
_PLACES_SHARE: Final = 0.65  # of what the rate lets in within the wait: better refused at once than after waiting
_RETRY_SPREAD: Final = (0.5, 2.0)  # of the longest wait: most of a full line is in by then


class ConnectRate(NamedTuple):
    """Connections a second that one process lets in, and at once.

    ``burst`` is the herd's share of a busy loop, too: however late a look at the line comes, it lets in no more.
    """

    per_s: float = CONNECTS_PER_S
    burst: int = CONNECT_BURST


DEFAULT_RATE: Final = ConnectRate()


class Waiting(Protocol):
    """A connection in line."""

    def admitted(self) -> None:
        """It is your turn."""

    def refused(self, problem: Problem, retry_after_s: float) -> None:
        """There is no room for you now; come back in a while."""


class Bucket:
    """A token bucket on an injected clock; full at the beginning."""

    __slots__ = ("_at_s", "_burst", "_per_s", "_tokens")

    def __init__(self, rate: ConnectRate) -> None:
        if rate.per_s <= 0 or rate.burst < 1:
            raise ValueError("a rate is above 0, a burst at least 1")
        self._per_s, self._burst = rate.per_s, float(rate.burst)
        self._tokens = self._burst
        self._at_s = -math.inf

    def take(self, now_s: float) -> bool:
        """Take a token if there is one."""
        self._tokens = min(self._burst, self._tokens + max(0.0, now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    @property
    def wait_s(self) -> float:
        """Seconds from the last ``take`` until there is a token."""
        return max(0.0, (1.0 - self._tokens) / self._per_s)


class Admission:
    """The line of one process: two thirds of what the rate lets in within ``wait_s_max``, as a busy loop is slower."""

    def __init__(
        self,
        rate: ConnectRate,
        clock: Clock,
        *,
        dice: random.Random | None = None,
        wait_s_max: float = CONNECT_WAIT_S_MAX,
    ) -> None:
        self._clock = clock
        self._dice = dice or random.Random()
        self._bucket = Bucket(rate)
        self._wait_s_max = wait_s_max
        self._places_max = max(rate.burst, int(rate.per_s * wait_s_max * _PLACES_SHARE))
        self._line: deque[tuple[Waiting, float]] = deque()  # with those who have left; they are passed over
        self._waiting: set[Waiting] = set()
        self._look: asyncio.TimerHandle | None = None
        self._is_closed = False
        self.is_full = False  # memory runs short: nobody is let in until there is room

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self) -> bool:
        """Return True where a connection may come in at once: nobody stands in line, and there is a token."""
        return not (self._is_closed or self.is_full or self._waiting) and self._bucket.take(self._clock.monotonic_s())

    def wait(self, waiting: Waiting) -> None:
        """Stand in line. One of its two methods is called once, at once where the line is full."""
        if self._is_closed or self.is_full or len(self._line) >= self._places_max:
            self._refuse(waiting, "draining" if self._is_closed else "memory" if self.is_full else "line_full")
            return
        self._line.append((waiting, self._clock.monotonic_s()))
        self._waiting.add(waiting)
        CONNECTS_WAITING.inc()
        if self._look is None:
            self._look_later()

    def leave(self, waiting: Waiting) -> None:
        """A connection has ended; it may stand in line."""
        if waiting in self._waiting:
            self._out(waiting)

    def close(self) -> None:
        """Refuse all who stand in line, and whoever comes."""
        self._is_closed = True
        if self._look is not None:
            self._look.cancel()
            self._look = None
        while self._line:
            waiting, _ = self._line.popleft()
            if waiting in self._waiting:
                self._out(waiting)
                self._refuse(waiting, "draining")

    def retry_after_s(self) -> float:
        """Return when somebody who is refused now should come back, in seconds; everybody is told another time."""
        return self._wait_s_max * self._dice.uniform(*_RETRY_SPREAD)

    def _look_later(self) -> None:
        pause_s = max(_LOOK_S, self._bucket.wait_s)
        self._look = asyncio.get_running_loop().call_later(pause_s, self._let_in)

    def _let_in(self) -> None:
        """Let in as many as there are tokens for, oldest first."""
        self._look = None
        now_s = self._clock.monotonic_s()
        try:
            while self._line:
                waiting, since_s = self._line[0]
                if waiting in self._waiting:
                    is_late = now_s - since_s > self._wait_s_max
                    if not is_late and not self._bucket.take(now_s):
                        break
                    self._end(waiting, now_s - since_s, is_late=is_late)
                self._line.popleft()
        finally:  # one that cannot be let in does not keep the others out
            if self._line:
                self._look_later()

    def _end(self, waiting: Waiting, waited_s: float, *, is_late: bool) -> None:
        """Somebody's turn has come, or has come too late."""
        self._out(waiting)
        if is_late:
            self._refuse(waiting, "waited_too_long")
            return
        CONNECT_WAIT.observe(waited_s)
        try:
            waiting.admitted()
        except Exception:
            logger.exception("letting a connection in failed")

    def _out(self, waiting: Waiting) -> None:
        self._waiting.discard(waiting)
        CONNECTS_WAITING.dec()

    def _refuse(self, waiting: Waiting, reason: str) -> None:
        CONNECTS_REFUSED.labels(reason).inc()
        waiting.refused(DRAINING if self._is_closed else OVERLOADED, self.retry_after_s())
