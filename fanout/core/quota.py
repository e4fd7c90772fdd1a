"""The quota of HIGH in a room: a token bucket that is one integer, so that it fits into a room's stored state. Pure.

The integer is the time at which the bucket will be full again, in microseconds of the caller's clock (generic cell rate
algorithm, ITU-T I.371 annex A). Admission asks with its monotonic clock, for one process; the room worker asks with
record time, for foreign producers, and a replay finds the same answer.
"""

from __future__ import annotations

from collections import OrderedDict

from fanout.core.limits import BUCKETS_MAX
from fanout.core.profiles import Policy


class HighQuota:
    """The quota of HIGH by room, each by the policy that it is asked with; at most ``buckets_max`` rooms."""

    def __init__(self, buckets_max: int = BUCKETS_MAX) -> None:
        self._full_at_us: OrderedDict[str, int] = OrderedDict()  # least recently used first
        self._buckets_max = buckets_max

    def __len__(self) -> int:
        return len(self._full_at_us)

    def wait_s(self, room: str, policy: Policy, now_s: float) -> float:
        """Return 0 where one more HIGH message fits now, else how long until one does. Takes nothing."""
        return wait_us(self._full_at_us.get(room, 0), int(now_s * 1e6), policy) / 1e6

    def take(self, room: str, policy: Policy, now_s: float) -> None:
        """Take a token; the caller has asked ``wait_s``."""
        full_at_us = self._full_at_us
        full_at_us[room] = taken(full_at_us.get(room, 0), int(now_s * 1e6), policy)
        full_at_us.move_to_end(room)
        if len(full_at_us) > self._buckets_max:
            full_at_us.popitem(last=False)


def wait_us(full_at_us: int, now_us: int, policy: Policy) -> int:
    """Return 0 where one more HIGH message fits into the quota now, else the microseconds until one does."""
    interval_us = _interval_us(policy)
    free_us = now_us + policy.high_burst * interval_us  # as far ahead of now as a bucket may be filled
    return max(0, max(full_at_us, now_us) + interval_us - free_us)


def taken(full_at_us: int, now_us: int, policy: Policy) -> int:
    """Return the bucket with one message more; the caller has asked ``wait_us``."""
    return max(full_at_us, now_us) + _interval_us(policy)


def _interval_us(policy: Policy) -> int:
    return max(1, round(1_000_000 / policy.high_per_s))
