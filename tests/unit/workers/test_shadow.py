"""A room under two policies: what is taken in, what is passed over, what a budget means to the other policy."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fanout.core.messages import Priority
from fanout.core.policies import PolicyAt, encode_policies
from fanout.core.profiles import GROUP, LIVE, Policy, Profile
from fanout.core.records import (
    ANNOUNCE,
    BUDGET,
    HEADER,
    MESSAGE,
    POLICY,
    TICK,
    VERSION,
    Announce,
    Budget,
    PolicyChange,
    encode,
)
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


def announced(
    offset: int, subscriptions: int, *, slot: int = 3, pressure: int = 0, at_ms: int = AT_MS, room: str = ROOM
) -> Rec:
    said = Announce(slot, 1, pressure, [report(subscriptions=subscriptions, key=room)])
    return Rec(offset, encode(ANNOUNCE, said), key=None, timestamp=at_ms)


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
def test_another_budget_of_the_proposed_policy_is_worked_out_from_the_sizes_that_gateways_announce(
    members: int, slots: int
) -> None:
    other = Policy(room_deliveries_per_s=1_000_000, shared_slots_min=1, shared_slots_max=16)
    comparison = compared([budget(0, 3, members), announced(1, members), *said(30, 2)], other)
    assert (kept(comparison.in_force.counts()), kept(comparison.proposed.counts())) == (3, slots)


def test_a_proposed_policy_that_degrades_at_the_same_size_goes_by_the_records() -> None:
    degraded = Rec(0, encode(BUDGET, Budget({ROOM: (20, 50_000)}, [ROOM])), key=None, timestamp=AT_MS)
    typing = [Rec(offset, message(type_="typing"), timestamp=AT_MS) for offset in (1, 2)]
    comparison = compared([degraded, *typing], Policy(degrade_off_types=frozenset()))
    assert comparison.in_force.counts()["dropped"]["policy"]["degraded"]["normal"] == 2
    assert kept(comparison.proposed.counts()) == 2


def test_a_proposed_policy_with_another_size_degrades_by_what_gateways_announce() -> None:
    typing = [Rec(offset, message(type_="typing"), timestamp=AT_MS) for offset in (1, 3)]
    records = [announced(0, 999), typing[0], announced(2, 1_000), typing[1]]
    comparison = compared(records, Policy(degrade_members=1_000))
    assert kept(comparison.in_force.counts()) == 2
    assert kept(comparison.proposed.counts()) == 1
    assert comparison.proposed.counts()["dropped"]["policy"]["degraded"]["normal"] == 1


def test_gateways_are_added_up_with_their_pressure_and_one_that_is_silent_for_two_minutes_is_gone() -> None:
    other = Policy(room_deliveries_per_s=1_000_000, shared_slots_min=1, shared_slots_max=16)
    both = [announced(0, 10_000, slot=1), announced(1, 10_000, slot=2, pressure=100)]
    comparison = compared([*both, *said(30, 2)], other)
    assert comparison.proposed.room.shared_slots == 5
    later_ms = AT_MS + 120_001
    comparison.take([announced(40, 10_000, slot=1, at_ms=later_ms), *said(1, 41, at_ms=later_ms)])
    assert comparison.proposed.room.shared_slots == 16
    assert comparison.in_force.room.shared_slots == 20


def test_what_nobody_reads_or_what_is_said_of_another_room_changes_no_budget() -> None:
    broken = Rec(1, budget(0, 3, 10).value + b"\xc1", key=None, timestamp=AT_MS)  # type: ignore[operator]
    wrong_slot = announced(2, 1 << 20, slot=999)
    other = announced(3, 1 << 20, room=f"{ROOM}-2")
    comparison = compared([budget(0, 3, 10, f"{ROOM}-2"), broken, wrong_slot, other, *said(30, 4)])
    assert (kept(comparison.in_force.counts()), kept(comparison.proposed.counts())) == (20, 2)


def test_a_policy_on_the_log_acts_from_its_place_on_and_the_proposed_one_stays() -> None:
    change = encode(POLICY, PolicyChange("app", 5, encode_policies({"live": Policy(shared_slots_max=7)})))
    record = Rec(30, change, key=None, timestamp=AT_MS)
    comparison = compared([*said(30), record, *said(30, 31, at_ms=AT_MS + 1_000)])
    assert kept(comparison.in_force.counts()) == 20 + 7
    assert kept(comparison.proposed.counts()) == 2 + 2


def test_a_budget_behind_a_change_of_policy_is_read_by_the_new_policy() -> None:
    change = encode(POLICY, PolicyChange("app", 5, encode_policies({"live": FEW})))
    first = Rec(0, change, key=None, timestamp=AT_MS)
    comparison = compared([first, budget(1, 1, 10), *said(30, 2)])
    assert kept(comparison.in_force.counts()) == kept(comparison.proposed.counts()) == 1


def test_what_the_app_had_set_before_is_in_force_at_the_beginning() -> None:
    policies = encode_policies({"live": Policy(shared_slots_max=7)})
    comparison = Comparison(ROOM, LIVE, FEW, PLACE, [PolicyAt("app", -1, 5, policies)])
    older = encode(POLICY, PolicyChange("app", 4, encode_policies({})))
    comparison.take([Rec(0, older, key=None, timestamp=AT_MS), *said(30, 1)])
    assert kept(comparison.in_force.counts()) == 7
