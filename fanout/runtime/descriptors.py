"""How near this process is to its limit of file descriptors, where accept fails, and reconnects to the log too."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from typing import Final

from fanout.core.limits import DESCRIPTORS_SPARE

_UNLOOKED_MAX: Final = 16  # connections between two looks; below what is spared even where the limit is very low


def free_descriptors() -> int:
    """Return how many more clients' descriptors there is room for; some are kept from them (≤ 0: none).

    The kernel hands out the lowest free number, so the number of one that is opened now says how many are in use.
    Three system calls, about 3 µs.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return 1 << 31
    try:
        lowest = os.open(os.devnull, os.O_RDONLY)
    except OSError:
        return 0
    os.close(lowest)
    return limit - spared(limit) - lowest


def spared(limit: int) -> int:
    """Return how many descriptors are kept from clients: an eighth of a limit that is very low."""
    return min(DESCRIPTORS_SPARE, limit // 8)


class Descriptors:
    """Says for each connection whether it is one too many. It looks seldom: where ``n`` were left, ``n/2`` still are."""

    def __init__(self, look: Callable[[], int] = free_descriptors) -> None:
        self._look = look
        self._unlooked = 0

    def are_short(self) -> bool:
        """Return whether there is no room for one more client; to be asked once for each."""
        if self._unlooked > 0:
            self._unlooked -= 1
            return False
        free = self._look()
        self._unlooked = min(free // 2, _UNLOOKED_MAX)
        return free <= 0
