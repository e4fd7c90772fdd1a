"""When the kernel's memory for TCP runs short, sweeps slow down: what waits in the rings joins into fewer frames.

Bytes that clients have not read stand in the kernel, and above its limit it drops segments of everybody. A pause gives
readers time to empty their sockets; it is short, because those who never read would hold up the others for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fanout.runtime.metrics import SWEEPS_PACED

_LOOK_S: Final = 0.01
_PAUSE_S: Final = 0.005
_PAUSES_MAX: Final = 10  # in a row, then a turn is due whatever the kernel holds
_SHARE_MAX: Final = 0.8


class Pace:
    """Tells how long to wait before the next writes. ``share`` is the memory in use over the limit."""

    def __init__(self, share: Callable[[], float]) -> None:
        self._share = share
        self._look_at_s = 0.0
        self._pauses = 0

    def pause_s(self, now_s: float) -> float:
        """Return seconds to wait now (0 = none); looks at the memory every 10 ms at most."""
        if now_s < self._look_at_s:
            return 0.0
        if self._pauses < _PAUSES_MAX and self._share() > _SHARE_MAX:
            self._pauses += 1
            SWEEPS_PACED.inc()
            return _PAUSE_S
        self._pauses = 0
        self._look_at_s = now_s + _LOOK_S
        return 0.0
