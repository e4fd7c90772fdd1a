"""What may be committed, whatever is finished first."""

from __future__ import annotations

import pytest

from workers.commits import Commits


def test_nothing_taken_means_nothing_to_commit() -> None:
    commits = Commits(7)
    assert (commits.next_offset, commits.is_due, len(commits)) == (7, False, 0)


def test_a_finished_range_may_be_committed() -> None:
    commits = Commits(7)
    ticket = commits.take(10, 1)
    assert not commits.is_due
    commits.finish(ticket)
    assert commits.next_offset == 10
    assert commits.is_due


def test_a_later_range_waits_for_the_earlier_one() -> None:
    commits = Commits(0)
    first, second, third = commits.take(5, 1), commits.take(9, 1), commits.take(12, 1)
    commits.finish(second)
    assert commits.next_offset == 0
    commits.finish(first)
    assert commits.next_offset == 9
    assert len(commits) == 1
    commits.finish(third)
    assert commits.next_offset == 12


def test_a_range_is_finished_with_its_last_part() -> None:
    commits = Commits(0)
    ticket = commits.take(5, 1)
    ticket.parts += 2  # two rooms of it are being loaded
    commits.finish(ticket)
    commits.finish(ticket)
    assert commits.next_offset == 0
    commits.finish(ticket)
    assert commits.next_offset == 5


def test_what_was_committed_is_not_due() -> None:
    commits = Commits(0)
    commits.finish(commits.take(5, 1))
    commits.committed = 5
    assert not commits.is_due


def test_a_part_finished_twice_is_a_bug() -> None:
    commits = Commits(0)
    ticket = commits.take(5, 1)
    commits.finish(ticket)
    with pytest.raises(AssertionError):
        commits.finish(ticket)


def test_a_range_without_parts_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        Commits(0).take(5, 0)


def test_with_the_assignment_everything_ends() -> None:
    commits = Commits(0)
    first, second = commits.take(5, 1), commits.take(9, 1)
    commits.finish(first)
    commits.end()
    commits.finish(second)
    assert (commits.next_offset, commits.is_due, len(commits)) == (5, False, 0)
