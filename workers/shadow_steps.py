"""Counts over time, in as many steps as a plot has columns. Pure.

How long a room has spoken is known when its last record has been read. So steps begin short and are put together as
the time they cover grows: memory is bounded, and a room that spoke for a minute of a day still shows its seconds.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from fanout.core.limits import SHADOW_STEPS_MAX

_SECOND_MS: Final = 1_000
_LENGTHS_S: Final = (1, 5, 10, 30, 60, 300, 600, 1_800, 3_600, 10_800, 21_600)  # each divides the next one


class Fates(NamedTuple):
    """Messages of all classes, by what became of them."""

    kept: int = 0
    merged: int = 0
    dropped: int = 0

    def plus(self, other: Fates) -> Fates:
        """Return the sum of both."""
        return Fates(self.kept + other.kept, self.merged + other.merged, self.dropped + other.dropped)

    def minus(self, other: Fates) -> Fates:
        """Return what came since ``other``."""
        return Fates(self.kept - other.kept, self.merged - other.merged, self.dropped - other.dropped)


class Step(NamedTuple):
    """A stretch of record time from ``at_ms`` (Unix ms) on: what either policy made of its messages."""

    at_ms: int
    in_force: Fates = Fates()
    proposed: Fates = Fates()


class Steps:
    """At most ``SHADOW_STEPS_MAX`` steps of ``step_ms`` each."""

    def __init__(self) -> None:
        self.step_ms = _LENGTHS_S[0] * _SECOND_MS
        self._by_start: dict[int, Step] = {}

    def start_of(self, at_ms: int) -> int:
        """Return where the step begins that a record time lies in."""
        return at_ms - at_ms % self.step_ms

    def add(self, at_ms: int, in_force: Fates, proposed: Fates) -> None:
        """Count messages of one step."""
        self._put(Step(at_ms, in_force, proposed))
        while (max(self._by_start) - min(self._by_start)) // self.step_ms >= SHADOW_STEPS_MAX:
            self._put_together()

    def all(self) -> list[Step]:
        """Return the steps from the first to the last one, in order; those in which nobody spoke are zero."""
        if not self._by_start:
            return []
        starts = range(min(self._by_start), max(self._by_start) + 1, self.step_ms)
        return [self._by_start.get(start, Step(start)) for start in starts]

    def _put(self, step: Step) -> None:
        start = self.start_of(step.at_ms)
        known = self._by_start.get(start, Step(start))
        self._by_start[start] = Step(start, known.in_force.plus(step.in_force), known.proposed.plus(step.proposed))

    def _put_together(self) -> None:
        longer = (length_s * _SECOND_MS for length_s in _LENGTHS_S if length_s * _SECOND_MS > self.step_ms)
        self.step_ms = next(longer, 2 * self.step_ms)
        steps, self._by_start = self._by_start, {}
        for step in steps.values():
            self._put(step)
