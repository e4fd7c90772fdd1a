"""Pressure of a gateway: how much of its deliveries it would rather not make, 0 to 100. Pure.

Two signs: sweeps that take longer than a window, so that the next window's messages come before this one's are out, and
a large share of subscriptions that are behind. It rises quickly and falls slowly: rooms are thinned by it, and what
follows from that must not be taken at once for the end of the trouble.
"""

from __future__ import annotations

from typing import Final

PRESSURE_MAX: Final = 100.0
SWEEP_S: Final = (0.2, 1.0)  # a window; beyond a second live is not live any more
BEHIND_SHARE: Final = (
    0.15,
    0.6,
)  # a room of phones always has one in twenty behind; with most of them it is not theirs
RISE_PER_S: Final = 20.0  # a single slow sweep costs little, five seconds of them everything
FALL_PER_S: Final = 2.0  # slower than the reports (10 s) and budgets that answer it


def load(slowest_sweep_s: float, behind_share: float) -> float:
    """Return what the two signs say, 0 to 100: the worse of them."""
    return PRESSURE_MAX * max(_share(slowest_sweep_s, *SWEEP_S), _share(behind_share, *BEHIND_SHARE))


def next_pressure(before: float, load: float, elapsed_s: float) -> float:
    """Return the pressure after ``elapsed_s`` in which the signs said ``load``."""
    if load > before:
        return min(load, before + RISE_PER_S * elapsed_s)
    return max(load, before - FALL_PER_S * elapsed_s)


def _share(value: float, low: float, high: float) -> float:
    return min(max((value - low) / (high - low), 0.0), 1.0)
