"""The pressure of this gateway: looked at once a second, told with every Announce. What it means stands in ``core``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from typing import Final, Protocol

from fanout.core.pressure import load, next_pressure
from fanout.ports import Clock
from fanout.runtime.metrics import PRESSURE

_LOOK_S: Final = 1.0


class RoomLoad(Protocol):
    """What is asked of a room."""

    @property
    def subscriptions(self) -> int: ...
    @property
    def behind(self) -> Sized: ...


class PressureGauge:
    """``slowest_s`` returns (and forgets) the longest sweep since it was asked last, ``rooms`` are those here."""

    def __init__(
        self, *, clock: Clock, slowest_s: Callable[[], float], rooms: Callable[[], Iterable[RoomLoad]]
    ) -> None:
        self._clock, self._slowest_s, self._rooms = clock, slowest_s, rooms
        self._pressure = 0.0
        self._looked_s = clock.monotonic_s()

    @property
    def percent(self) -> int:
        """The pressure, 0 to 100."""
        return round(self._pressure)

    def look(self) -> None:
        """Bring the pressure up to date; does nothing within a second of the last look."""
        now_s = self._clock.monotonic_s()
        elapsed_s = now_s - self._looked_s
        if elapsed_s < _LOOK_S:
            return
        self._looked_s = now_s
        subscriptions = behind = 0
        for room in self._rooms():
            subscriptions += room.subscriptions
            behind += len(room.behind)
        share = behind / subscriptions if subscriptions else 0.0
        # A loop that was held up is no reason to believe in more than one look's worth.
        self._pressure = next_pressure(self._pressure, load(self._slowest_s(), share), min(elapsed_s, 2 * _LOOK_S))
        PRESSURE.set(self._pressure)
