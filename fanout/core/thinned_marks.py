"""How many messages of a room were thinned up to which position, as a gateway is told. Pure; time is an argument.

Each room batch that a worker closes at the end of a turn says up to which record it has decided, and how many messages
of each class were dropped by policy or for being late since the room began. The difference of two such marks is what
nobody was shown between them: exact for the range between the marks, which is told with it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Final, NamedTuple

from fanout.core.limits import RING_AGE_S_MAX, THINNED_MARK_MS
from fanout.core.room_log import NONE, Tally, minus

_AGE_MS: Final = int(RING_AGE_S_MAX * 1_000)


class Mark(NamedTuple):
    """``counts`` of all positions up to ``upto``; it came at ``held_ms``."""

    upto: int
    counts: Tally
    held_ms: int


class Thinned(NamedTuple):
    """What was thinned after ``after`` up to ``upto``; both are positions, not always of publications."""

    after: int
    upto: int
    counts: Tally


class ThinnedMarks:
    """The marks of the last minute, a quarter of a second apart: some 240 at most, three while nothing is thinned."""

    __slots__ = ("_marks",)

    def __init__(self) -> None:
        self._marks: list[Mark] = []

    def __len__(self) -> int:
        return len(self._marks)

    def note(self, upto: int, counts: Tally, now_ms: int) -> None:
        """Take a mark; one that is not above the newest says nothing new.

        Counts that are lower than they were are another ledger's (the store has lost its state): it begins anew.
        """
        marks = self._marks
        if marks and upto <= marks[-1].upto:
            return
        if marks and min(minus(counts, marks[-1].counts)) < 0:
            marks.clear()
        if len(marks) > 1 and (now_ms - marks[-2].held_ms < THINNED_MARK_MS or counts == marks[-2].counts):
            marks.pop()
        marks.append(Mark(upto, counts, now_ms))
        self.trim(now_ms)

    def trim(self, now_ms: int) -> None:
        """Forget what is older than a minute, but for the mark that the minute begins with."""
        gone = bisect_left(self._marks, now_ms - _AGE_MS, key=_held_at)
        del self._marks[: max(0, gone - 1)]

    def between(self, after: int, upto: int) -> Thinned | None:
        """Return what was thinned in the narrowest known range around (``after``, ``upto``]; None without a mark.

        Where that lies beyond the marks the range ends with them.
        """
        marks = self._marks
        if not marks:
            return None
        first = marks[max(0, bisect_right(marks, after, key=_upto_of) - 1)]
        last = marks[min(len(marks) - 1, bisect_left(marks, upto, key=_upto_of))]
        if last.upto < first.upto:
            last = first
        return Thinned(first.upto, last.upto, minus(last.counts, first.counts) if last is not first else NONE)


def _upto_of(mark: Mark) -> int:
    return mark.upto


def _held_at(mark: Mark) -> int:
    return mark.held_ms
