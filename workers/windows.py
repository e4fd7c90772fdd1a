"""Windows of one partition's records, and the rooms whose merged messages wait for the end of theirs. Pure.

A window of a room ends with the first record of the partition, whoever's, whose own time lies in a later one. That is
a function of the log: it needs no clock that runs through the partition, so an owner that begins anywhere before
the room's open window finds the same record. Records come in *runs* of one window each; where a run begins, those whose
window is over are closed, before any of its records is applied.

Lives here: which windows are over. Lives elsewhere: what is sent then (``merging``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from heapq import heappop, heappush
from typing import NamedTuple

from fanout.core.limits import WINDOWS_PASSED_MAX
from fanout.core.policy import WINDOW_MS
from fanout.core.room_state import RoomState
from workers.commits import Ticket


class Run(NamedTuple):
    """Records side by side whose time lies in one window: the log offset of the first, and the window's number."""

    offset: int
    window: int


class Windows:
    """The run that is being read (``from_ms`` ≤ record time < ``to_ms``), those before it, and who waits."""

    __slots__ = ("_numbers", "_rooms", "_runs", "_waiting", "from_ms", "to_ms")

    def __init__(self) -> None:
        self.from_ms = self.to_ms = 0
        self._runs: deque[Run] = deque(maxlen=WINDOWS_PASSED_MAX)
        self._waiting: list[tuple[int, int, RoomState, Ticket]] = []  # by window, then in the order in which they came
        self._rooms: set[RoomState] = set()
        self._numbers = 0

    def __len__(self) -> int:
        return len(self._rooms)

    def enter(self, offset: int, at_ms: int, *, remember: bool) -> Run:
        """Begin a run with this record. ``remember`` those before it: rooms that are being loaded did not see them."""
        run = Run(offset, at_ms // WINDOW_MS)
        self.from_ms = run.window * WINDOW_MS
        self.to_ms = self.from_ms + WINDOW_MS
        if not remember:
            self._runs.clear()
        self._runs.append(run)
        return run

    def runs(self) -> list[Run]:
        """Return the runs that are remembered, the one that is being read included."""
        return list(self._runs)

    def wait(self, room: RoomState, ticket: Ticket) -> None:
        """Note a room with open folds. Until they are closed nothing from ``ticket`` on is finished: a new owner reads
        it again, meets the room there, and closes what it finds open in its state."""
        if room in self._rooms:
            return
        ticket.parts += 1
        self._rooms.add(room)
        self._numbers += 1
        heappush(self._waiting, (room.thinning.clock_ms // WINDOW_MS, self._numbers, room, ticket))

    def over(self, run: Run) -> Iterator[tuple[RoomState, Ticket]]:
        """Yield the rooms whose window this run ends, the longest over first; they wait no more.

        A room whose state contains the run waits on: where record time steps back, a run that a new owner reads again
        may lie in a later window than the fold that was opened behind it.
        """
        waiting, again = self._waiting, []
        while waiting and waiting[0][0] < run.window:
            entry = heappop(waiting)
            _, _, room, ticket = entry
            if run.offset < room.applied:
                again.append(entry)
                continue
            self._rooms.discard(room)
            yield room, ticket
        for entry in again:
            heappush(waiting, entry)


def is_over(room: RoomState, run: Run) -> bool:
    """True where this run ends the window of a room's open folds, and the room's state does not contain it yet."""
    return room.folds is not None and room.thinning.clock_ms // WINDOW_MS < run.window and run.offset >= room.applied
