"""Spans of a room's ledger begin with the first record in them: the counts before it are noted. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fanout.core.room_state import RoomState
from fanout.ports import LogRecord
from workers.turn import Draft, Ownership, Turn


def open_span(draft: Draft, room: RoomState, at_ms: int) -> None:
    """Note the room's counts before its first record of a span."""
    draft.openings += (room.opening(at_ms),)
    room.open_span(at_ms)


def open_due_span(draft: Draft, room: RoomState, at_ms: int) -> None:
    """Open a span where a record of ``at_ms`` is the first in it."""
    if at_ms >= room.spans.end_ms:
        open_span(draft, room, at_ms)


def by_span(
    turn: Turn, ownership: Ownership, room: RoomState, records: Sequence[LogRecord]
) -> Iterator[Sequence[LogRecord]]:
    """Yield the records span by span, each span opened when those before it have been applied."""
    start = 0
    for place, record in enumerate(records):
        if record.timestamp >= room.spans.end_ms and record.offset >= room.applied:
            if place > start:
                yield records[start:place]
            open_due_span(turn.draft(ownership, room), room, record.timestamp)
            start = place
    yield records[start:]
