"""Counts over time that fit into a plot, however long the time is."""

from __future__ import annotations

import pytest

from fanout.core.limits import SHADOW_STEPS_MAX
from workers.shadow_steps import Fates, Step, Steps

AT_MS = 1_800_000_000_000
ONE, TWO = Fates(kept=1), Fates(kept=1, merged=2, dropped=3)


def test_a_minute_is_shown_second_by_second_and_silent_seconds_are_zero() -> None:
    steps = Steps()
    steps.add(AT_MS + 200, ONE, TWO)
    steps.add(AT_MS + 900, ONE, ONE)
    steps.add(AT_MS + 2_000, ONE, TWO)
    assert steps.all() == [
        Step(AT_MS, Fates(2, 0, 0), Fates(2, 2, 3)),
        Step(AT_MS + 1_000),
        Step(AT_MS + 2_000, ONE, TWO),
    ]


def test_nothing_has_no_steps() -> None:
    assert Steps().all() == []


@pytest.mark.parametrize(
    ("covered_ms", "step_ms"),
    [
        (59_000, 1_000),
        (60_000, 5_000),
        (600_000 - 1, 10_000),
        (3_600_000 - 1, 60_000),
        (86_400_000 - 1, 1_800_000),
        (7 * 86_400_000 - 1, 10_800_000),
        (365 * 86_400_000, 345_600_000 * 2),
    ],
)
def test_steps_are_put_together_as_time_goes_on_and_nothing_is_lost(covered_ms: int, step_ms: int) -> None:
    steps = Steps()
    for part in range(1_001):
        steps.add(AT_MS + covered_ms * part // 1_000, ONE, TWO)
    found = steps.all()
    assert steps.step_ms == step_ms
    assert 10 <= len(found) <= SHADOW_STEPS_MAX + 1
    assert sum(step.in_force.kept for step in found) == 1_001
    assert sum(step.proposed.dropped for step in found) == 3 * 1_001
    assert all(step.at_ms % step_ms == 0 for step in found)


def test_a_record_time_before_the_first_one_has_its_step_as_well() -> None:
    steps = Steps()
    steps.add(AT_MS, ONE, ONE)
    steps.add(AT_MS - 3_000, ONE, ONE)
    assert [step.at_ms for step in steps.all()] == [AT_MS - 3_000, AT_MS - 2_000, AT_MS - 1_000, AT_MS]
