"""Token buckets by name. Pure; memory is bounded by forgetting full ones first.

A bucket is one float (generic cell rate algorithm): the time at which it would be full again.
Source: ITU-T I.371 annex A.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from fanout.core.limits import BUCKETS_MAX

_ROUNDING_S: Final = 1e-6  # sums of floats are not exact: the last of a burst must still fit


class Rate(NamedTuple):
    """So many a second on average, and at once."""

    per_s: float
    burst: int


class Buckets:
    """Token buckets by name, all of one rate, at most ``buckets_max`` of them."""

    def __init__(self, rate: Rate, buckets_max: int = BUCKETS_MAX) -> None:
        self._interval_s = 1.0 / rate.per_s
        self._depth_s = rate.burst * self._interval_s
        self._full_at: OrderedDict[str, float] = OrderedDict()  # least recently used first
        self._buckets_max = buckets_max

    def __len__(self) -> int:
        return len(self._full_at)

    def wait_s(self, name: str, now_s: float, messages: int = 1) -> float:
        """Return 0 where ``messages`` fit now, else how long until they do. Takes nothing."""
        full_at = max(self._full_at.get(name, now_s), now_s)
        wait_s = full_at + messages * self._interval_s - now_s - self._depth_s
        return wait_s if wait_s > _ROUNDING_S else 0.0

    def take(self, name: str, now_s: float, messages: int = 1) -> None:
        """Take tokens, also more than there are: the caller has asked ``wait_s``."""
        full_at = self._full_at
        full_at[name] = max(full_at.get(name, now_s), now_s) + messages * self._interval_s
        full_at.move_to_end(name)
        if len(full_at) > self._buckets_max:
            full_at.popitem(last=False)
