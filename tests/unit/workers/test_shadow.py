"""A room under two policies: what is taken in, what is passed over, what a budget means to the other policy."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fanout.core.messages import Priority
from fanout.core.profiles import GROUP, LIVE, Policy, Profile
from fanout.core.records import ANNOUNCE, BUDGET, HEADER, MESSAGE, TICK, VERSION, Announce, Budget, encode
from tests.support.rooms import ROOM, Rec, attach, message, report
from workers.shadow import Comparison, Place

AT_MS = 1_800_000_000_000
FEW = Policy(reserved_slots=1, shared_slots_min=1, shared_slots_max=2)
PLACE = Place(0, 1, 0)


def compared(
    records: list[Rec], proposed: Policy = FEW, profile: Profile = LIVE, *, records_max: int = 1_000
) -> Comparison:
    comparison = Comparison(ROOM, profile, proposed, PLACE, records_max=records_max)
    comparison.take(records)
    return comparison


def said(count: int, first: int = 0, *, at_ms: int = AT_MS, priority: Priority = Priority.NORMAL) -> list[Rec]:
    """Messages side by side at one time."""
    return [Rec(first + number, message(priority, 1 + first + number), timestamp=at_ms) for number in range(count)]


def budget(offset: int, slots: int, members: int, room: str = ROOM) -> Rec:
    return Rec(offset, encode(BUDGET, Budget({room: (slots, members)})), key=None, timestamp=AT_MS)


def kept(counts: dict[str, Any]) -> int:
    return sum(counts["kept"].values())


def test_both_policies_decide_about_the_same_messages() -> None:
    comparison = compared(said(30))
    in_force, proposed = comparison.in_force.counts(), comparison.proposed.counts()
    assert in_force["accepted"] == proposed["accepted"] == {"system": 0, "high": 0, "normal": 30, "low": 0}
    assert (kept(in_force), kept(proposed)) == (20, 2)
    assert proposed["dropped"] == {"policy": {"window_full": {"system": 0, "high": 0, "normal": 28, "low": 0}}}
    (step,) = comparison.steps.all()
    assert (step.at_ms, step.in_force, step.proposed) == (AT_MS, (20, 0, 10), (2, 0, 28))


def test_other_rooms_routes_and_reports_are_passed_over() -> None:
    foreign = [
        Rec(0, message(), key=b"app/live:other", timestamp=AT_MS),
        Rec(1, attach(3), timestamp=AT_MS),
        Rec(2, encode(ANNOUNCE, Announce(3, 1, 0, [report()])), key=None, timestamp=AT_MS),
        Rec(3, None, key=None, timestamp=AT_MS),
        Rec(4, HEADER.pack(VERSION, TICK, 0, 0, 0) + b"\x90", key=None, timestamp=AT_MS),
    ]
    comparison = compared([*foreign, *said(1, 5)])
    assert comparison.records == 1
    assert kept(comparison.in_force.counts()) == kept(comparison.proposed.counts()) == 1
    assert comparison.in_force.room.targets == ()


def test_a_room_of_which_nothing_is_said_has_no_steps() -> None:
    comparison = compared([budget(0, 5, 10), Rec(1, attach(3))])
    assert (comparison.records, comparison.steps.all()) == (0, [])


def test_records_that_no_worker_reads_are_counted_and_change_nothing() -> None:
    poison = Rec(0, encode(MESSAGE, Budget({})), timestamp=AT_MS)
    comparison = compared([poison, Rec(1, b'{"room"', timestamp=AT_MS), *said(1, 2)])
    assert comparison.in_force.parked == comparison.proposed.parked == 2
    assert kept(comparison.in_force.counts()) == 1


def test_nothing_is_late_however_old_it_is() -> None:
    comparison = compared(said(2, at_ms=1_000, priority=Priority.LOW), Policy(late_low_ms=1))
    assert kept(comparison.in_force.counts()) == kept(comparison.proposed.counts()) == 2


def test_a_room_beyond_the_bound_is_cut_and_says_so() -> None:
    comparison = compared(said(30), records_max=10)
    assert (comparison.records, comparison.is_cut) == (10, True)
    assert sum(comparison.in_force.counts()["accepted"].values()) == 10
    assert not compared(said(10), records_max=10).is_cut


def test_a_room_that_is_not_thinned_keeps_everything_under_any_policy() -> None:
    comparison = compared(said(100), profile=GROUP)
    assert kept(comparison.in_force.counts()) == kept(comparison.proposed.counts()) == 100


def test_a_budget_holds_for_the_proposed_policy_where_its_numbers_are_the_same() -> None:
    """It may have come of a quota or of pressure, which nobody but the worker of that time knew."""
    same = msgspec.structs.replace(LIVE.policy, sender_slots_max=1)
    comparison = compared([budget(0, 3, 10), *said(30, 1)], same)
    assert (kept(comparison.in_force.counts()), kept(comparison.proposed.counts())) == (3, 3)


@pytest.mark.parametrize(("members", "slots"), [(10, 16), (20_000, 10), (100_000, 2), (1_000_000, 1), (0, 16)])
def test_a_budget_is_worked_out_anew_for_a_proposed_policy_with_other_numbers(members: int, slots: int) -> None:
    other = Policy(room_deliveries_per_s=1_000_000, shared_slots_min=1, shared_slots_max=16)
    comparison = compared([budget(0, 3, members), *said(30, 1)], other)
    assert (kept(comparison.in_force.counts()), kept(comparison.proposed.counts())) == (3, slots)


def test_a_budget_of_another_room_and_one_that_nobody_reads_change_nothing() -> None:
    broken = Rec(1, encode(BUDGET, Budget({}))[:-1] + b"\xc1", key=None, timestamp=AT_MS)
    comparison = compared([budget(0, 3, 10, "app/live:other"), broken, *said(30, 2)])
    assert kept(comparison.in_force.counts()) == 20
