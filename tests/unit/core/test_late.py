"""From which time on messages are young enough, by class."""

from __future__ import annotations

from fanout.core.late import NEVER, late_before
from fanout.core.messages import PRIORITIES
from fanout.core.profiles import Policy

NOW_MS = 1_790_000_000_000
SYSTEM, HIGH, NORMAL, LOW = (priority.value for priority in PRIORITIES)


def test_chat_may_be_older_than_likes_and_high_as_old_as_it_likes() -> None:
    before = late_before(Policy(), NOW_MS)
    assert before[LOW] == NOW_MS - 2_000
    assert before[NORMAL] == NOW_MS - 10_000
    assert before[SYSTEM] == before[HIGH] == 0


def test_zero_means_never_too_late() -> None:
    assert late_before(Policy(late_low_ms=0, late_normal_ms=0), NOW_MS) == NEVER
    assert late_before(Policy(late_low_ms=0), NOW_MS)[NORMAL] == NOW_MS - 10_000


def test_without_a_clock_nothing_is_late() -> None:
    assert max(late_before(Policy(), 0)) <= 0
