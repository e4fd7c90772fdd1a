"""The quota of HIGH: average, burst, and one integer."""

from __future__ import annotations

import pytest

from fanout.core import quota
from fanout.core.profiles import Policy

POLICY = Policy(high_per_s=10, high_burst=3)
NOW_US = 1_790_000_000_000_000


def take(full_at_us: int, now_us: int, policy: Policy = POLICY) -> tuple[int, bool]:
    """Return the bucket, and whether there was a token."""
    if quota.wait_us(full_at_us, now_us, policy):
        return full_at_us, False
    return quota.taken(full_at_us, now_us, policy), True


def test_a_bucket_gives_its_burst_at_once_and_then_its_rate() -> None:
    full_at_us, given = 0, []
    for _ in range(5):
        full_at_us, ok = take(full_at_us, NOW_US)
        given.append(ok)
    assert given == [True, True, True, False, False]
    assert quota.wait_us(full_at_us, NOW_US, POLICY) == 100_000
    assert quota.wait_us(full_at_us, NOW_US + 60_000, POLICY) == 40_000
    full_at_us, ok = take(full_at_us, NOW_US + 100_000)
    assert ok
    assert quota.wait_us(full_at_us, NOW_US + 100_000, POLICY) == 100_000


def test_a_bucket_that_rests_is_full_again_and_not_fuller() -> None:
    full_at_us = 0
    for _ in range(3):
        full_at_us, _ = take(full_at_us, NOW_US)
    given = 0
    for _ in range(10):
        full_at_us, ok = take(full_at_us, NOW_US + 3_600_000_000)
        given += ok
    assert given == 3


def test_a_burst_of_none_admits_none() -> None:
    assert quota.wait_us(0, NOW_US, Policy(high_per_s=100, high_burst=0)) > 0


@pytest.mark.parametrize("per_s", [0.001, 1_000_000])
def test_the_bucket_of_every_good_policy_fits_into_64_bits(per_s: float) -> None:
    policy = Policy(high_per_s=per_s, high_burst=1_000_000)
    full_at_us = NOW_US
    for _ in range(100):
        full_at_us = quota.taken(full_at_us, NOW_US, policy)
    assert NOW_US < full_at_us < NOW_US + policy.high_burst * round(1e6 / per_s) < 1 << 62


def test_the_quota_is_kept_by_room_and_by_the_policy_that_it_is_asked_with() -> None:
    high, policy = quota.HighQuota(), Policy(high_per_s=10, high_burst=2)
    for _ in range(2):
        assert high.wait_s("app/live:a", policy, 100.0) == 0
        high.take("app/live:a", policy, 100.0)
    assert high.wait_s("app/live:a", policy, 100.0) == pytest.approx(0.1)
    assert high.wait_s("app/live:b", policy, 100.0) == 0
    assert high.wait_s("app/live:a", Policy(high_per_s=10, high_burst=3), 100.0) == 0


def test_the_quota_of_the_least_recently_used_room_is_forgotten_beyond_the_bound() -> None:
    high, policy = quota.HighQuota(buckets_max=2), Policy(high_per_s=1, high_burst=1)
    for room in ("a", "b", "a", "c"):
        high.take(room, policy, 0.0)
    assert len(high) == 2
    assert high.wait_s("b", policy, 0.0) == 0
    assert high.wait_s("a", policy, 0.0) > 0
