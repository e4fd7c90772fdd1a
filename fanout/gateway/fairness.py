"""Whose room is swept next: apps share the writes by weight, rooms of an app take turns. Pure.

Deficit round robin (Shreedhar and Varghese, SIGCOMM 1995) over apps, by writes: a frame to 10,000 sessions costs 10,000
times what a frame to one costs, and an app with one huge room must not hold up another's small ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fanout.gateway.room import Room

QUANTUM: Final = 500  # writes of an app of weight 1 in a round


class FairTurns:
    """Rooms with something to write. ``weight_of`` gives an app's share (≥ 1). ``next`` and ``charge`` alternate."""

    def __init__(self, weight_of: Callable[[str], int]) -> None:
        self._weight_of = weight_of
        self._rooms: dict[str, deque[Room]] = {}
        self._round: deque[str] = deque()  # apps with rooms waiting, and the one whose room was taken out last
        self._credit: dict[str, int] = {}  # of apps in the round, and of those that owe
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def add(self, room: Room) -> None:
        """Queue a room behind the other rooms of its app; an app that comes anew stands behind the other apps."""
        rooms = self._rooms.get(room.app)
        if rooms is None:
            rooms = self._rooms[room.app] = deque()
            self._round.append(room.app)
        rooms.append(room)
        self._waiting += 1

    def next(self) -> Room:
        """Take the room out whose turn it is; there must be one."""
        turns = self._round
        while len(turns) > 1 and self._credit.get(turns[0], 0) <= 0:
            app = turns[0]
            turns.rotate(-1)
            self._credit[app] = self._credit.get(app, 0) + QUANTUM * self._weight_of(app)
        self._waiting -= 1
        return self._rooms[turns[0]].popleft()

    def charge(self, app: str, writes: int) -> None:
        """The app whose room was taken out has used some writes; the room has been queued again if it goes on."""
        credit = self._credit.get(app, 0) - writes
        if self._rooms[app]:
            self._credit[app] = credit if len(self._round) > 1 else 0  # alone nobody owes anything
            return
        del self._rooms[app]
        self._round.remove(app)
        if credit < 0 and self._round:
            self._credit[app] = credit  # it comes back in debt
        else:
            self._credit.pop(app, None)  # and saves nothing for later
        if not self._round:
            self._credit.clear()
