"""Sending sessions away in even waves, each with a time to come back, so that the other gateways do not feel them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from fanout.core.errors import SHUTDOWN, CloseCode
from fanout.ports import Clock

WAVE_S: Final = 0.1
WAVE_MIN: Final = 80  # sessions: few are gone soon, and the other gateways do not feel it
RETURN_S: Final = (0.5, 2.0)  # told to clients; SDKs keep to a backoff of their own, which is like it


def plan(sessions: int, span_s: float) -> list[int]:
    """Return how many sessions go in each wave, one every ``WAVE_S``: even, within ``span_s``, none below ``WAVE_MIN``.

    All of them in one where there is no time.
    """
    waves = max(1, int(span_s / WAVE_S))
    size = max(WAVE_MIN, -(-sessions // waves))
    full, rest = divmod(sessions, size)
    return [size] * full + [rest] * (rest > 0)


async def send_away(
    closings: Sequence[Callable[[CloseCode], None]], span_s: float, clock: Clock, dice: random.Random
) -> None:
    """Close sessions in waves. A wave that is late is not waited for, so the last one goes within ``span_s``."""
    begun_s, gone = clock.monotonic_s(), 0
    for number, size in enumerate(plan(len(closings), span_s)):
        ahead_s = begun_s + number * WAVE_S - clock.monotonic_s()
        if ahead_s > 0:
            await asyncio.sleep(ahead_s)
        for close in closings[gone : gone + size]:
            close(farewell(dice))
        gone += size


def farewell(dice: random.Random) -> CloseCode:
    """Return 3001 with a time to come back in its reason."""
    return replace(SHUTDOWN, reason=f"{SHUTDOWN.reason}, come back in {dice.uniform(*RETURN_S):.1f} s")
