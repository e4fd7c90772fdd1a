"""Marks of what was thinned against a list of every drop: any range that is told is told exactly."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fanout.core.limits import THINNED_MARK_MS
from fanout.core.room_log import Tally, plus
from fanout.core.thinned_marks import ThinnedMarks

steps = st.lists(
    st.tuples(
        st.integers(1, 20),  # positions that a batch brings
        st.lists(st.integers(0, 3), max_size=6),  # classes of what was dropped among them
        st.sampled_from([0, 1, 40, 249, 250, 1_000, 30_000]),
    ),
    min_size=1,
    max_size=80,
)


def tally_of(classes: list[int]) -> Tally:
    counts = [classes.count(class_) for class_ in range(4)]
    return (counts[0], counts[1], counts[2], counts[3])


@given(steps=steps, asked=st.tuples(st.integers(0, 800), st.integers(0, 800)), repeat=st.booleans())
def test_a_range_that_is_told_is_exact_and_encloses_what_was_asked_where_it_is_known(
    steps: list[tuple[int, list[int], int]], asked: tuple[int, int], repeat: bool
) -> None:
    marks = ThinnedMarks()
    drops: list[tuple[int, int]] = []  # (position, class)
    upto, now_ms, counts = 10, 0, (0, 0, 0, 0)
    marks.note(upto, counts, now_ms)
    for positions, classes, pause_ms in steps:
        drops += [(upto + 1 + index % positions, class_) for index, class_ in enumerate(classes)]
        upto, now_ms, counts = upto + positions, now_ms + pause_ms, plus(counts, tally_of(classes))
        marks.note(upto, counts, now_ms)
        if repeat:
            marks.note(upto - 1, (0, 0, 0, 0), now_ms)  # from an older owner
    after, until = min(asked), max(asked)
    found = marks.between(after, until)
    assert found is not None
    assert found.counts == tally_of([class_ for at, class_ in drops if found.after < at <= found.upto])
    assert len(marks) <= 60_000 // THINNED_MARK_MS + 3
    oldest = marks.between(0, 0)
    assert oldest is not None
    if after >= oldest.after:
        assert found.after <= after
        assert found.upto >= min(until, upto)
    else:
        assert found.after == oldest.after


def test_without_a_mark_nothing_is_known() -> None:
    assert ThinnedMarks().between(0, 5) is None


def test_counts_that_go_back_begin_anew() -> None:
    marks = ThinnedMarks()
    marks.note(10, (0, 0, 9, 9), 0)
    marks.note(20, (0, 0, 1, 0), 1)
    found = marks.between(0, 30)
    assert found is not None
    assert (found.after, found.upto, found.counts) == (20, 20, (0, 0, 0, 0))


def test_while_nothing_is_thinned_three_marks_are_enough() -> None:
    marks = ThinnedMarks()
    marks.note(1, (0, 0, 2, 0), 0)
    for step in range(2, 200):
        marks.note(step, (0, 0, 5, 0), step * 300)
    assert len(marks) <= 3
    found = marks.between(100, 150)
    assert found is not None
    assert found.after <= 100 and found.upto >= 150 and found.counts == (0, 0, 0, 0)


def test_a_room_that_falls_silent_forgets_all_marks_but_one() -> None:
    marks = ThinnedMarks()
    for step in range(100):
        marks.note(step, (0, 0, step, 0), step * 300)
    assert len(marks) > 50
    marks.trim(600_000)
    found = marks.between(0, 100)
    assert found is not None
    assert (len(marks), found.after, found.upto) == (1, 99, 99)
