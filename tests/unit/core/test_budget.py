"""Shared slots by size, quota and pressure; and the pressure of rooms and gateways."""

from __future__ import annotations

import pytest

from fanout.core.budget import afforded, next_degraded, next_slots, room_pressure
from fanout.core.pressure import load, next_pressure
from fanout.core.profiles import Policy

POLICY = Policy(room_deliveries_per_s=5_000_000, shared_slots_min=2, shared_slots_max=20)


@pytest.mark.parametrize(
    ("members", "quota", "pressure", "slots"),
    [
        (100_000, None, 0, 10.0),  # 5,000,000 / 5 windows / 100,000
        (100_000, 10_000_000, 0, 10.0),
        (100_000, 1_000_000, 0, 2.0),
        (100_000, None, 50, 5.0),
        (100_000, None, 100, 0.0),
        (100_000, None, 250, 0.0),
        (100_000, None, -9, 10.0),
        (0, None, 0, 1_000_000.0),
    ],
)
def test_a_window_affords_what_the_budget_leaves_for_each_member(
    members: int, quota: int | None, pressure: float, slots: float
) -> None:
    assert afforded(POLICY, members, quota, pressure) == pytest.approx(slots)


@pytest.mark.parametrize(
    ("in_force", "afforded", "following"),
    [
        (20, 1_000.0, 20),
        (20, 15.0, 20),  # the lower end of the band
        (20, 14.9, 14),
        (20, 0.1, 2),
        (10, 13.7, 10),  # below (10 + 1) x 1.25
        (10, 13.8, 13),
        (10, 99.0, 20),
        (2, 0.0, 2),
        (2, 3.7, 2),
        (2, 3.8, 3),
    ],
)
def test_a_value_is_kept_while_what_is_afforded_stays_in_its_band(
    in_force: int, afforded: float, following: int
) -> None:
    assert next_slots(in_force, POLICY, afforded) == following


def test_a_value_outside_the_bounds_of_a_new_policy_moves_at_once() -> None:
    assert next_slots(20, Policy(shared_slots_min=1, shared_slots_max=5), 19.0) == 5
    assert next_slots(2, Policy(shared_slots_min=4, shared_slots_max=5), 2.0) == 4


def test_a_policy_may_leave_chat_no_slot_at_all() -> None:
    policy = Policy(shared_slots_min=0, shared_slots_max=0)
    assert next_slots(0, policy, 1e9) == 0


def test_a_room_is_degraded_from_its_size_on_until_it_is_a_fifth_smaller() -> None:
    policy = Policy(degrade_members=50_000)
    sizes = [0, 49_999, 50_000, 1_000_000, 40_000, 39_999, 49_999]
    degraded, found = False, []
    for members in sizes:
        degraded = next_degraded(degraded, policy, members)
        found.append(degraded)
    assert found == [False, False, True, True, True, False, False]


def test_without_a_size_no_room_is_degraded() -> None:
    assert not next_degraded(False, Policy(degrade_members=0), 10**9)
    assert not next_degraded(True, Policy(degrade_members=0), 10**9)


def test_the_pressure_of_a_room_is_that_of_its_audience() -> None:
    assert room_pressure([]) == 0.0
    assert room_pressure([(0, 100)]) == 0.0
    assert room_pressure([(99, 0), (1, 100)]) == pytest.approx(1.0)
    assert room_pressure([(10, 40), (30, 80)]) == pytest.approx(70.0)


@pytest.mark.parametrize(
    ("sweep_s", "behind", "pressure"),
    [
        (0.0, 0.0, 0),
        (0.2, 0.05, 0),
        (0.6, 0.0, 50),
        (2.0, 0.0, 100),
        (0.0, 0.375, 50),
        (0.0, 1.0, 100),
        (0.6, 1.0, 100),
    ],
)
def test_the_worse_sign_counts(sweep_s: float, behind: float, pressure: float) -> None:
    assert load(sweep_s, behind) == pytest.approx(pressure)


def test_pressure_rises_within_seconds_and_falls_within_a_minute() -> None:
    assert next_pressure(0.0, 100.0, 1.0) == 20.0
    assert next_pressure(95.0, 100.0, 1.0) == 100.0
    assert next_pressure(100.0, 0.0, 1.0) == 98.0
    assert next_pressure(1.0, 0.0, 1.0) == 0.0
    assert next_pressure(50.0, 50.0, 9.0) == 50.0
