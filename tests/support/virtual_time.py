"""An event loop whose time jumps: who sleeps an hour is done at once, and who waits for nothing fails.

Unlike a real loop it knows no sockets, threads or signals; what waits for these waits for ever and raises Deadlock.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")
START_MS: Final = 1_790_000_000_000


class Deadlock(Exception):
    """Everybody waits and no timer is set."""


class _JumpingSelector(selectors.SelectSelector):
    """Never waits: where nothing is ready the clock jumps to the next timer."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise Deadlock("nothing is scheduled, nothing can happen any more")
            self._loop.now_s += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop on a virtual clock."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return self.now_s


class LoopClock:
    """``ports.Clock`` by the running loop's time; ``skew_ms`` lets the wall clock be wrong."""

    def __init__(self) -> None:
        self.skew_ms = 0

    def wall_ms(self) -> int:
        return START_MS + round(self.monotonic_s() * 1_000) + self.skew_ms

    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time()


def run(main: Coroutine[Any, Any, T]) -> T:
    """Return what ``main`` returns, however many virtual hours it takes."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
