"""Waves of a drain: even, in time, and small ones at once."""

from __future__ import annotations

import asyncio
import random

import pytest

from fanout.core.errors import CloseCode
from fanout.gateway.drain import RETURN_S, WAVE_MIN, WAVE_S, farewell, plan, send_away
from tests.support.virtual_time import LoopClock, VirtualLoop, run


@pytest.mark.parametrize("sessions", [0, 1, WAVE_MIN, WAVE_MIN + 1, 9_999, 20_000, 1_000_000])
@pytest.mark.parametrize("span_s", [0.0, 0.05, 1.0, 8.0, 480.0])
def test_all_go_within_the_span_in_even_waves(sessions: int, span_s: float) -> None:
    waves = plan(sessions, span_s)
    assert sum(waves) == sessions
    assert len(waves) <= max(1, int(span_s / WAVE_S))
    assert all(size == waves[0] for size in waves[:-1])
    assert len(waves) < 2 or waves[0] >= WAVE_MIN


def test_waves_go_one_after_the_other_and_the_last_one_in_time() -> None:
    async def scene() -> None:
        gone: list[tuple[float, int]] = []
        loop = asyncio.get_running_loop()
        begun_s = loop.time()

        def close(code: CloseCode) -> None:
            gone.append((round(loop.time() - begun_s, 3), code.code))

        await send_away([close] * 1_000, 1.0, LoopClock(), random.Random(1))
        times = [at_s for at_s, _ in gone]
        assert {code for _, code in gone} == {3001}
        assert times == sorted(times)
        assert sorted(set(times)) == pytest.approx([number * WAVE_S for number in range(10)], abs=0.002)
        assert max(times.count(at_s) for at_s in times) == 100

    run(scene())


def test_a_loop_that_is_late_makes_up_for_it_instead_of_passing_the_deadline() -> None:
    async def scene() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        begun_s, gone = loop.time(), 0

        def slow(code: CloseCode) -> None:
            nonlocal gone
            gone += 1
            if gone == 150:
                loop.now_s += 0.65

        await send_away([slow] * 1_000, 1.0, LoopClock(), random.Random(1))
        assert gone == 1_000
        assert loop.time() - begun_s <= 1.0

    run(scene())


def test_everybody_is_told_to_come_back_at_a_time_of_its_own() -> None:
    dice = random.Random(1)
    reasons = [farewell(dice).reason for _ in range(100)]
    assert all(reason.startswith("shutdown, come back in ") for reason in reasons)
    assert len(set(reasons)) > 10
    assert all(RETURN_S[0] <= float(reason.split()[-2]) <= RETURN_S[1] for reason in reasons)
    assert farewell(dice).reconnect
    assert all(len(reason) <= 123 for reason in reasons)
