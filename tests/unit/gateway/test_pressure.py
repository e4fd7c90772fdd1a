"""The pressure that a gateway announces: from its slowest sweep and from those behind, once a second."""

from __future__ import annotations

from dataclasses import dataclass, field

from fanout.gateway.pressure import PressureGauge
from tests.support.clocks import SteppedClock


@dataclass
class SomeRoom:
    """So many subscriptions, and those of them that are behind."""

    subscriptions: int
    behind: set[int] = field(default_factory=set)


class Gateway:
    """What a gauge looks at."""

    def __init__(self) -> None:
        self.clock = SteppedClock()
        self.sweeps_s: list[float] = []
        self.rooms: list[SomeRoom] = []
        self.gauge = PressureGauge(clock=self.clock, slowest_s=self.slowest_s, rooms=lambda: self.rooms)

    def slowest_s(self) -> float:
        return self.sweeps_s.pop() if self.sweeps_s else 0.0

    def look(self, after_ms: int = 1_000) -> int:
        self.clock.advance(after_ms)
        self.gauge.look()
        return self.gauge.percent


def test_a_gateway_without_rooms_is_calm() -> None:
    gateway = Gateway()
    assert [gateway.look() for _ in range(3)] == [0, 0, 0]


def test_slow_sweeps_raise_it_and_quick_ones_lower_it_slowly() -> None:
    gateway = Gateway()
    gateway.sweeps_s = [1.5, 1.5, 1.5]
    assert [gateway.look() for _ in range(6)] == [20, 40, 60, 58, 56, 54]


def test_most_subscriptions_behind_raise_it_and_a_few_do_not() -> None:
    gateway = Gateway()
    gateway.rooms = [SomeRoom(90), SomeRoom(10, set(range(10)))]
    assert gateway.look() == 0
    gateway.rooms = [SomeRoom(60), SomeRoom(40, set(range(40)))]
    assert [gateway.look() for _ in range(3)] == [20, 40, 56]


def test_it_is_looked_at_once_a_second_and_a_loop_that_stood_still_counts_for_two() -> None:
    gateway = Gateway()
    gateway.sweeps_s = [9.0, 9.0]
    assert gateway.look(after_ms=999) == 0
    assert gateway.look(after_ms=1) == 20
    assert gateway.look(after_ms=60_000) == 60
