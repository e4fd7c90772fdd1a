"""The process's clock. Tests and simulations pass another one."""

from __future__ import annotations

import time


class SystemClock:
    """Clock of the operating system."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970, UTC."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Seconds of a clock that never goes back."""
        return time.monotonic()
