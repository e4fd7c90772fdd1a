"""How near this process is to its limit of file descriptors, where accept fails, and reconnects to the log too."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Callable
from typing import Final

from fanout.core.limits import DESCRIPTORS_SPARE

_UNLOOKED_MAX: Final = 16  # connections between two looks; below what is spared even where the limit is very low


def free_descriptors() -> int:
    """Return how many more clients there are descriptors for: 0 and below where only those kept from clients are left.

    ``-spared_descriptors()`` where there is none at all.

    The kernel hands out the lowest free number, so the number of one that is opened now says how many are in use.
    Three system calls, about 3 µs.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return 1 << 31
    try:
        lowest = os.open(os.devnull, os.O_RDONLY)
    except OSError:
        lowest = limit
    else:
        os.close(lowest)
    return limit - spared(limit) - lowest


def raise_limit() -> None:
    """Let this process open as many files as it is allowed to: the soft limit is a default for programs of old."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def spared_descriptors() -> int:
    """Return how many descriptors are kept from clients."""
    return spared(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def spared(limit: int) -> int:
    """Return how many descriptors are kept from clients: an eighth of a limit that is very low."""
    return min(DESCRIPTORS_SPARE, limit // 8)


class Descriptors:
    """Says for each connection whether it is one too many, looking seldom: where ``n`` were free, ``n/2`` still are."""

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
