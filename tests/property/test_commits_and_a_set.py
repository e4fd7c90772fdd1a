"""Commits against a set of unfinished log offsets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workers.commits import Commits, Ticket


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=12),
    parts=st.lists(st.integers(1, 4), min_size=12, max_size=12),
    dice=st.randoms(use_true_random=False),
)
def test_what_may_be_committed_is_the_lowest_range_with_an_unfinished_offset(
    sizes: list[int], parts: list[int], dice: object
) -> None:
    commits = Commits(100)
    unfinished: set[int] = set()
    work: list[tuple[Ticket, range]] = []
    left: dict[int, int] = {}
    ends = [100]
    for size, count in zip(sizes, parts, strict=False):
        offsets = range(ends[-1], ends[-1] + size)
        ends.append(offsets.stop)
        ticket = commits.take(offsets.stop, count)
        unfinished.update(offsets)
        work += [(ticket, offsets)] * count
        left[offsets.start] = count
    dice.shuffle(work)  # type: ignore[attr-defined]
    before = 100
    for ticket, offsets in work:
        commits.finish(ticket)
        left[offsets.start] -= 1
        if not left[offsets.start]:
            unfinished.difference_update(offsets)
        lowest = min(unfinished, default=ends[-1])
        assert commits.next_offset == max(end for end in ends if end <= lowest)
        assert commits.next_offset >= before
        before = commits.next_offset
    assert commits.next_offset == ends[-1]
    assert len(commits) == 0
