"""Sweeps pause while the kernel is short of memory for TCP, never for long."""

from __future__ import annotations

from fanout.gateway.pace import Pace


def test_with_memory_to_spare_nothing_waits_and_the_kernel_is_asked_seldom() -> None:
    looks: list[int] = []

    def share() -> float:
        looks.append(1)
        return 0.5

    pace = Pace(share)
    assert [pace.pause_s(number / 1_000) for number in range(20)] == [0.0] * 20
    assert len(looks) == 2


def test_short_of_memory_a_sweep_pauses_until_readers_have_made_room() -> None:
    shares = iter([0.9, 0.85, 0.5])
    pace = Pace(lambda: next(shares))
    pauses = [pace.pause_s(0.0), pace.pause_s(0.005), pace.pause_s(0.01)]
    assert pauses[0] == pauses[1] > 0
    assert pauses[2] == 0


def test_those_who_never_read_hold_up_the_others_for_50_ms_at_most() -> None:
    pace = Pace(lambda: 1.0)
    waited = 0.0
    while pause_s := pace.pause_s(waited):
        waited += pause_s
    assert waited <= 0.051
    assert pace.pause_s(waited + 0.009) == 0
    assert pace.pause_s(waited + 0.02) > 0
