"""Token buckets: average, burst, and a bounded memory."""

from __future__ import annotations

import pytest

from fanout.core.buckets import Buckets, Rate


def test_a_bucket_gives_its_burst_at_once_and_then_its_rate() -> None:
    buckets = Buckets(Rate(per_s=5, burst=20))
    for _ in range(20):
        assert buckets.wait_s("ann", 100.0) == 0
        buckets.take("ann", 100.0)
    assert buckets.wait_s("ann", 100.0) == pytest.approx(0.2)
    assert buckets.wait_s("ann", 100.1) == pytest.approx(0.1)
    assert buckets.wait_s("ann", 100.21) == 0
    assert buckets.wait_s("bob", 100.0) == 0


def test_a_bucket_that_rests_is_full_again_and_not_fuller() -> None:
    buckets = Buckets(Rate(per_s=5, burst=2))
    buckets.take("ann", 0.0, 2)
    buckets.take("ann", 1_000.0, 2)
    assert buckets.wait_s("ann", 1_000.0) > 0


def test_asking_takes_nothing() -> None:
    buckets = Buckets(Rate(per_s=1, burst=1))
    for _ in range(5):
        assert buckets.wait_s("ann", 0.0) == 0


def test_the_least_recently_used_bucket_is_forgotten_beyond_the_bound() -> None:
    buckets = Buckets(Rate(per_s=1, burst=1), buckets_max=2)
    for name in ("ann", "bob", "ann", "cyd"):
        buckets.take(name, 0.0)
    assert len(buckets) == 2
    assert buckets.wait_s("bob", 0.0) == 0
    assert buckets.wait_s("ann", 0.0) > 0
