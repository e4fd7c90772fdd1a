"""What a turn did, for the metrics."""

from __future__ import annotations

from fanout.core.messages import PRIORITIES
from fanout.runtime import metrics
from workers.turn import Turn


def count(turn: Turn) -> None:
    """Add a turn's counts to the metrics, once a turn."""
    for counter, counts in (
        (metrics.MESSAGES_KEPT, turn.kept),
        (metrics.MESSAGES_MERGED, turn.merged),
        (metrics.FOLDS_SENT, turn.folds),
    ):
        for priority, count in zip(PRIORITIES, counts, strict=True):
            if count:
                counter.labels(priority.word).inc(count)
    for (reason, class_), dropped in turn.dropped.items():
        metrics.MESSAGES_DROPPED.labels(reason.stage, reason.word, PRIORITIES[class_].word).inc(dropped)
    if turn.degraded:
        metrics.MESSAGES_DEGRADED.labels("worker").inc(turn.degraded)
    if turn.rooms_degraded:
        metrics.ROOMS_DEGRADED.inc(turn.rooms_degraded)
    if turn.policies:
        metrics.POLICIES_APPLIED.inc(len(turn.policies))
    for what, ignored in turn.fenced.items():
        metrics.FENCED.labels(what).inc(ignored)
