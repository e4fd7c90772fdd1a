"""What the sockets saw, as counts that add up over sockets, Users and processes."""

from __future__ import annotations

from typing import Any, Final

import msgspec

LATENCY_MS_MAX: Final = 20_000  # one bucket a millisecond; later ones count as this


class Seen(msgspec.Struct):
    """What one viewer User saw. ``latency_ms``: milliseconds → deliveries. ``closed``: close code → sockets."""

    sessions: int = 0
    failed: int = 0
    deliveries: int = 0
    bytes: int = 0
    doubled: int = 0
    disordered: int = 0
    unreadable: int = 0
    latency_ms: dict[int, int] = {}
    closed: dict[int, int] = {}

    def add(self, other: Seen) -> None:
        """Take in what another User saw."""
        for name in ("sessions", "failed", "deliveries", "bytes", "doubled", "disordered", "unreadable"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        merge(self.latency_ms, other.latency_ms)
        merge(self.closed, other.closed)


class Sent(msgspec.Struct):
    """What one publisher User did. ``accepted``: class → messages; ``refused``: HTTP status (0: none) → messages."""

    accepted: dict[str, int] = {}
    refused: dict[int, int] = {}
    late: int = 0

    def add(self, other: Sent) -> None:
        """Take in what another User did."""
        merge(self.accepted, other.accepted)
        merge(self.refused, other.refused)
        self.late += other.late


def merge(into: dict[Any, int], other: dict[Any, int]) -> None:
    """Add counts key by key."""
    for key, count in other.items():
        into[key] = into.get(key, 0) + count


def quantile(latency_ms: dict[int, int], share: float) -> float:
    """Return the latency that ``share`` of the deliveries did not pass, in ms; 0 without deliveries."""
    wanted = share * sum(latency_ms.values())
    passed = 0
    for value in sorted(latency_ms):
        passed += latency_ms[value]
        if passed >= wanted:
            return float(value)
    return 0.0
