"""Budgets by size: how many shared slots a window of a room affords, given who listens. Pure.

A message that is kept costs a delivery to every member. What a room may deliver in a second, shared among the windows
of that second and divided by its members, are its shared slots: many in a small room, few in a huge one. Sizes are
never still, so a value in force stays until what is afforded leaves a band around it.

The largest rooms are degraded besides: they shed what nobody needs there (``workers.degrade``).

Lives elsewhere: taking slots (``policy``), who measures and writes the change to the log (``workers.budgets``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from fanout.core.policy import WINDOW_MS
from fanout.core.profiles import Policy

BAND: Final = 0.25  # sizes that swing by 10 % either way swing by 1.1 / 0.9 = 1.22 in all: within the band, no change
PRESSURE_MAX: Final = 100
DEGRADED_UNTIL: Final = 0.8  # of the size that degrades a room: it does not go to and fro where the sizes swing by 10 %


def afforded(policy: Policy, members: int, deliveries_per_s: int | None, pressure: float) -> float:
    """Return the shared slots that a window affords, neither rounded nor within the policy's bounds.

    ``members`` are the subscriptions that gateways announced, ``deliveries_per_s`` the app's quota (None: it has none),
    ``pressure`` (0 to 100) the percentage that the room's gateways want taken off.
    """
    budget_per_s = policy.room_deliveries_per_s
    if deliveries_per_s is not None:
        budget_per_s = min(budget_per_s, deliveries_per_s)
    left = (PRESSURE_MAX - min(max(pressure, 0), PRESSURE_MAX)) / PRESSURE_MAX
    return budget_per_s * left * WINDOW_MS / 1_000 / max(1, members)


def next_slots(in_force: int, policy: Policy, afforded: float) -> int:
    """Return the shared slots that should be in force: the same, while what is afforded stays in the band around them.

    Always within the policy's bounds. A value v, to which v up to v + 1 are rounded, is kept from ``v x (1 - BAND)`` up
    to ``(v + 1) x (1 + BAND)``.
    """
    least, most = policy.shared_slots_min, policy.shared_slots_max
    if least <= in_force <= most and in_force * (1 - BAND) <= afforded < (in_force + 1) * (1 + BAND):
        return in_force
    return min(max(int(afforded), least), most)


def next_degraded(in_force: bool, policy: Policy, members: int) -> bool:
    """Return whether a room of that size should be degraded: from ``degrade_members`` on, to a size a fifth smaller."""
    if not policy.degrade_members:
        return False
    mark = DEGRADED_UNTIL * policy.degrade_members if in_force else policy.degrade_members
    return members >= mark


def room_pressure(gateways: Iterable[tuple[int, int]]) -> float:
    """Return the pressure of a room from (subscriptions, pressure) of its gateways: their mean, by subscriptions.

    Not the largest: one gateway in trouble of a hundred would thin the room for everybody on the others, and a gateway
    has means of its own for those who fall behind.
    """
    members = weighted = 0
    for subscriptions, pressure in gateways:
        members += subscriptions
        weighted += subscriptions * pressure
    return weighted / members if members else 0.0
