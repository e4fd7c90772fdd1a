"""What ``fanout doctor`` found: a state, what is there, and the remedy where it is not well."""

from __future__ import annotations

import ctypes
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Final

OK: Final = "ok"
WARN: Final = "warn"
FAIL: Final = "fail"

# An unsynchronised kernel clock (adjtimex(2), STA_UNSYNC)
_STA_UNSYNC: Final = 0x0040
_TIMEX_BYTES: Final = 208
_TIMEX_STATUS_OFFSET: Final = 40
_TIME_ERROR: Final = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """One checked thing. ``state`` is ok, warn (works, but not at full size) or fail (will not work)."""

    name: str
    state: str
    found: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Sysctl:
    """A kernel setting with the least value that a gateway at full size wants, and why."""

    path: str
    least: int
    why: str


SYSCTLS: Final = (
    Sysctl("net/core/somaxconn", 4_096, "a reconnect herd fills shorter accept queues"),
    Sysctl("net/ipv4/tcp_max_syn_backlog", 4_096, "a reconnect herd fills shorter queues of half-open connections"),
    Sysctl("fs/file-max", 1_000_000, "each session is an open file"),
)
FILES_PER_PROCESS: Final = 100_000


def examine_files() -> Finding:
    """Return how many sessions the limit of open files allows a process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{soft} open files a process ({hard} at most): about {max(0, soft - 200)} sessions"
    if soft >= FILES_PER_PROCESS:
        return Finding("open files", OK, found)
    return Finding(
        "open files", WARN, found, f"ulimit -n {FILES_PER_PROCESS}, LimitNOFILE= in systemd, or more --processes"
    )


def examine_sysctl(sysctl: Sysctl, root: Path = Path("/proc/sys")) -> Finding:
    """Return whether a kernel setting is large enough."""
    name = sysctl.path.replace("/", ".")
    try:
        value = int((root / sysctl.path).read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return Finding(name, WARN, "cannot be read here", f"check on the host: sysctl {name}")
    if value >= sysctl.least:
        return Finding(name, OK, str(value))
    return Finding(name, WARN, f"{value}: {sysctl.why}", f"sysctl -w {name}={sysctl.least}")


def examine_clock() -> Finding:
    """Return whether the kernel believes its clock to be synchronised (adjtimex(2))."""
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)
    state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
    status = int.from_bytes(buffer.raw[_TIMEX_STATUS_OFFSET : _TIMEX_STATUS_OFFSET + 4], "little")
    if state < 0 or state == _TIME_ERROR or status & _STA_UNSYNC:
        remedy = "run chrony or systemd-timesyncd; ids and lateness rely on clocks that agree within a second"
        return Finding("clock", WARN, "not known to be synchronised", remedy)
    return Finding("clock", OK, "synchronised")


def examine_clock_difference(server: str, server_ms: int, before_ms: int, after_ms: int) -> Finding:
    """Return whether a server's clock (ms, read between two of ours) agrees with ours within a second."""
    difference_ms = server_ms - (before_ms + after_ms) // 2
    found = f"{difference_ms:+d} ms to this machine"
    if abs(difference_ms) <= 1_000:
        return Finding(f"clock of {server}", OK, found)
    return Finding(f"clock of {server}", FAIL, found, "synchronise both clocks: lateness and leases compare them")
