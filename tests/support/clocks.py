"""A clock that a test moves."""

from __future__ import annotations

import time


class SteppedClock:
    """Starts at the real time and stands still until it is told to go on."""

    def __init__(self, wall_ms: int | None = None) -> None:
        self.now_ms = wall_ms if wall_ms is not None else time.time_ns() // 1_000_000

    def wall_ms(self) -> int:
        """Milliseconds since 1970, as set."""
        return self.now_ms

    def monotonic_s(self) -> float:
        """Seconds, from the same clock."""
        return self.now_ms / 1_000

    def advance(self, by_ms: int) -> None:
        """Go on."""
        self.now_ms += by_ms
