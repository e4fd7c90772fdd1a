"""How much of the memory that this process may have it takes.

The limit is a setting, or the process's share of what the cgroup (v2 or v1) has: what a container is given. Without
either nothing is known, and nothing is held back. Linux; elsewhere nobody tells.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Final

_RESIDENT: Final = Path("/proc/self/statm")
_CGROUP_LIMITS: Final = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_UNLIMITED_BYTES: Final = 1 << 60  # cgroup v1 writes no limit as nearly 2^63
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def limit_bytes(megabytes: int, processes: int, cgroup: tuple[Path, ...] = _CGROUP_LIMITS) -> int:
    """Return what one process may take: ``megabytes`` where it is set, else its share of the cgroup's; 0 = any."""
    if megabytes:
        return megabytes << 20
    for path in cgroup:
        try:
            limit = int(path.read_text())
        except (OSError, ValueError):  # not there, or "max"
            continue
        if limit < _UNLIMITED_BYTES:
            return limit // processes
    return 0


class ProcessMemory:
    """Looks at this process's resident memory; ``limit`` in bytes, 0 = any."""

    def __init__(self, limit: int, resident: Path = _RESIDENT) -> None:
        self._limit = limit
        self._resident = resident

    def share(self) -> float:
        """Return resident memory over the limit; 0 where there is none or nobody tells. About 20 µs."""
        if not self._limit:
            return 0.0
        try:
            return int(self._resident.read_text().split()[1]) * _PAGE_BYTES / self._limit
        except (OSError, ValueError, IndexError):
            return 0.0

    def give_back(self) -> None:
        """Return to the kernel what the C allocator keeps for later (malloc_trim(3)), where there is such a call."""
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
