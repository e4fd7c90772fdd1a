"""What became of deliveries in one room on one gateway, exact at every step: offered = written + dropped + pending.

Counted per publication taken and per sweep, never per session: what lies between two cursors is a difference of the
room log's cumulative counts. A session's end moves its pending to dropped(closed); a replay is offered anew.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from fanout.core.messages import PRIORITIES
from fanout.core.room_log import NONE, Tally, minus, plus, times
from fanout.runtime.metrics import (
    BYTES_SAVED,
    BYTES_WRITTEN,
    DELIVERIES_DROPPED,
    DELIVERIES_OFFERED,
    DELIVERIES_WRITTEN,
    FRAMES_WRITTEN,
)


class DropReason(Enum):
    """Why a delivery was not made; the value is the metric label and the key in reports."""

    CLOSED = "closed"  # the session ended with it pending
    UNSUBSCRIBED = "unsubscribed"  # the client left the room
    RESYNC = "resync"  # told to come back with its position (2500, 3010): a replay offers it anew
    SKIPPED = "skipped"  # droppable, and too old once the session could take more
    BEHIND_RING = "behind_ring"  # served from history instead, where a replay offers it anew
    MEMORY = "memory"  # droppable, and this process runs short of memory
    BINARY = "binary"  # no JSON: reaches Protobuf sessions only


_REASONS: Final = tuple(reason.value for reason in DropReason)
_OFFERED: Final = tuple(DELIVERIES_OFFERED.labels(priority.word) for priority in PRIORITIES)
_WRITTEN: Final = tuple(DELIVERIES_WRITTEN.labels(priority.word) for priority in PRIORITIES)
_DROPPED: Final = {
    reason: tuple(DELIVERIES_DROPPED.labels(reason, priority.word) for priority in PRIORITIES) for reason in _REASONS
}


class EdgeLedger:
    """Cumulative counts per class since ``instance`` of the room began, and what is pending now."""

    __slots__ = ("dropped", "offered", "pending", "written")

    def __init__(self) -> None:
        self.offered = NONE
        self.written = NONE
        self.pending = NONE
        self.dropped: dict[str, Tally] = {}

    def offer(self, counts: Tally) -> None:
        """Publications are due to subscriptions: one publication to k of them counts k."""
        self.offered = plus(self.offered, counts)
        self.pending = plus(self.pending, counts)
        _count(_OFFERED, counts)

    def write(self, counts: Tally) -> None:
        """Deliveries that were pending have been handed to sockets."""
        self.pending = minus(self.pending, counts)
        self.written = plus(self.written, counts)
        _count(_WRITTEN, counts)

    def write_many(self, counts: Tally, sessions: int) -> None:
        """The same publications have been handed to ``sessions`` sockets."""
        if sessions:
            self.write(times(counts, sessions))

    def drop(self, reason: DropReason, counts: Tally) -> None:
        """Deliveries that were pending will not be made."""
        if counts != NONE:
            self.pending = minus(self.pending, counts)
            self.dropped[reason.value] = plus(self.dropped.get(reason.value, NONE), counts)
            _count(_DROPPED[reason.value], counts)

    def replay(self, counts: Tally) -> None:
        """Publications outside the ring's cursors (a reply, a page of history) were offered and written in one."""
        if counts != NONE:
            self.offer(counts)
            self.write(counts)

    def restart(self) -> None:
        """Begin a new instance: what is pending is all that it has been offered."""
        self.offered, self.written = self.pending, NONE
        self.dropped.clear()

    @property
    def balance(self) -> Tally:
        """offered − written − dropped − pending, per class: zero, at every step."""
        rest = minus(minus(self.offered, self.written), self.pending)
        for counts in self.dropped.values():
            rest = minus(rest, counts)
        return rest


class Written:
    """What this process has handed to sockets, all rooms."""

    __slots__ = ("deliveries",)

    def __init__(self) -> None:
        self.deliveries = 0

    def count(self, data: bytes, publications: int, sessions: int, *, saved: int = 0) -> None:
        """One frame of some publications went to ``sessions`` sockets, ``saved`` bytes smaller than uncompressed."""
        self.deliveries += publications * sessions
        if data:
            FRAMES_WRITTEN.inc(sessions)
            BYTES_WRITTEN.inc(len(data) * sessions)
        if saved:
            BYTES_SAVED.inc(saved * sessions)


def _count(counters: tuple[object, ...], counts: Tally) -> None:
    for counter, count in zip(counters, counts, strict=True):
        if count:
            counter.inc(count)  # type: ignore[attr-defined]
