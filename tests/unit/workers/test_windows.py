"""Windows of a partition: which record ends whose, and what a room that is being loaded finds out later."""

from __future__ import annotations

from fanout.core.limits import WINDOWS_PASSED_MAX
from fanout.core.merge import Folds
from fanout.core.profiles import LIVE
from fanout.core.room_state import RoomState
from workers.commits import Ticket
from workers.windows import Run, Windows, is_over


def room(clock_ms: int, applied: int = 0) -> RoomState:
    found = RoomState.fresh("app/live:a", LIVE, applied)
    found.thinning.clock_ms = clock_ms
    found.folds = Folds()
    return found


def test_a_run_is_one_window_of_200_ms() -> None:
    windows = Windows()
    assert windows.enter(7, 1_399, remember=False) == Run(7, 6)
    assert (windows.from_ms, windows.to_ms) == (1_200, 1_400)
    assert windows.enter(8, 900, remember=False) == Run(8, 4)
    assert (windows.from_ms, windows.to_ms) == (800, 1_000)


def test_rooms_wait_for_a_later_window_and_leave_in_its_order() -> None:
    windows = Windows()
    early, late = room(1_000), room(1_300)
    tickets = [Ticket(5, 1), Ticket(9, 1)]
    windows.wait(late, tickets[1])
    windows.wait(early, tickets[0])
    windows.wait(early, tickets[1])
    assert [ticket.parts for ticket in tickets] == [2, 2]
    assert list(windows.over(Run(10, 5))) == []
    assert list(windows.over(Run(11, 6))) == [(early, tickets[0])]
    assert len(windows) == 1
    assert list(windows.over(Run(12, 100))) == [(late, tickets[1])]
    assert not windows


def test_a_run_that_the_state_of_a_room_contains_ends_nothing_there() -> None:
    windows = Windows()
    further, behind = room(1_000, applied=12), room(1_000, applied=11)
    ticket = Ticket(5, 1)
    windows.wait(further, ticket)
    windows.wait(behind, ticket)
    assert list(windows.over(Run(11, 6))) == [(behind, ticket)]
    assert list(windows.over(Run(12, 6))) == [(further, ticket)]


def test_runs_are_remembered_only_while_somebody_may_need_them_and_never_too_many() -> None:
    windows = Windows()
    for number in range(WINDOWS_PASSED_MAX + 10):
        windows.enter(number, number * 200, remember=True)
    assert len(windows.runs()) == WINDOWS_PASSED_MAX
    assert windows.runs()[-1] == Run(WINDOWS_PASSED_MAX + 9, WINDOWS_PASSED_MAX + 9)
    windows.enter(20_000, 0, remember=False)
    assert windows.runs() == [Run(20_000, 0)]


def test_a_run_ends_the_window_of_a_room_whose_state_does_not_contain_it() -> None:
    assert is_over(room(1_000, applied=7), Run(7, 6))
    assert not is_over(room(1_000, applied=8), Run(7, 6))
    assert not is_over(room(1_000, applied=7), Run(7, 5))
    closed = room(1_000)
    closed.folds = None
    assert not is_over(closed, Run(7, 6))
