"""Outcomes of an app are spread evenly over its shards, whatever their ids look like."""

from __future__ import annotations

from collections import Counter

from fanout.core.limits import OUTCOME_SHARDS
from fanout.core.outcome import shard_of


def test_ids_of_one_node_and_counter_are_spread_over_all_shards() -> None:
    shards = Counter(shard_of((ms << 22) | 5 << 7) for ms in range(200_000_000_000, 200_000_016_000))
    assert len(shards) == OUTCOME_SHARDS
    assert max(shards.values()) < 1.2 * min(shards.values())
