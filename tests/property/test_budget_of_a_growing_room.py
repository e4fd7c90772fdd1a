"""A room that grows or shrinks thins smoothly: within its bounds, one way, and still where only noise moves it."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from fanout.core.budget import afforded, next_slots
from fanout.core.profiles import Policy, check_policy

policies = st.builds(
    lambda least, more, budget: Policy(
        shared_slots_min=least, shared_slots_max=least + more, room_deliveries_per_s=budget
    ),
    st.integers(0, 30),
    st.integers(0, 200),
    st.integers(0, 50_000_000),
)
sizes = st.lists(st.integers(100, 1_000_000), min_size=1, max_size=60).map(sorted)
noise = st.lists(st.floats(0.9, 1.1), min_size=1, max_size=40)


def followed(policy: Policy, members: list[int], in_force: int) -> list[int]:
    """Return the values that were in force, size by size."""
    values = []
    for count in members:
        in_force = next_slots(in_force, policy, afforded(policy, count, None, 0))
        values.append(in_force)
    return values


@given(policy=policies, members=sizes)
def test_a_room_that_grows_never_gets_more_and_one_that_shrinks_never_less(policy: Policy, members: list[int]) -> None:
    check_policy(policy)
    growing = followed(policy, members, policy.shared_slots_max)
    assert growing == sorted(growing, reverse=True)
    shrinking = followed(policy, members[::-1], growing[-1])
    assert shrinking == sorted(shrinking)
    for value in (*growing, *shrinking):
        assert policy.shared_slots_min <= value <= policy.shared_slots_max


@given(policy=policies, members=st.integers(100, 1_000_000), in_force=st.integers(0, 300), swings=noise)
def test_noise_of_a_tenth_changes_a_value_once_at_most(
    policy: Policy, members: int, in_force: int, swings: list[float]
) -> None:
    values = followed(policy, [round(members * swing) for swing in swings], in_force)
    assert len(set(values)) <= 2
    changes = [one != other for one, other in zip([in_force, *values], values, strict=False)]
    assert sum(changes) <= 2  # from a value of before, then at most once more; never to and fro
    if sum(changes) == 2:
        first = changes.index(True)
        assert values[first] != in_force and values[-1] != in_force


@given(policy=policies, members=st.integers(100, 1_000_000), in_force=st.integers(0, 300))
def test_a_value_costs_at_most_a_third_more_than_is_afforded(policy: Policy, members: int, in_force: int) -> None:
    slots = afforded(policy, members, None, 0)
    value = next_slots(in_force, policy, slots)
    assert value <= max(policy.shared_slots_min, slots / 0.75)
    assert value >= min(policy.shared_slots_max, math.floor(slots / 1.25) - 1)


@given(policy=policies, members=sizes, pressure=st.integers(0, 100), quota=st.integers(1, 50_000_000))
def test_pressure_and_a_quota_only_take_away(policy: Policy, members: list[int], pressure: int, quota: int) -> None:
    for count in members:
        most = afforded(policy, count, None, 0)
        assert afforded(policy, count, quota, pressure) <= afforded(policy, count, quota, 0) <= most
