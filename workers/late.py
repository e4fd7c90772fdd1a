"""What is too late is counted and passed over by its header alone: a backlog costs a fraction of what it cost live.

``publish`` asks the same of every message. What it has to take note of, whatever becomes of it (an idempotency key, an
outcome that was asked for), is left to it here; so is a foreign producer's JSON, which has no header.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fanout.core.late import Before
from fanout.core.ledger import zeros
from fanout.core.messages import Priority
from fanout.core.policy import DropReason
from fanout.core.records import BINARY, MERGE, MESSAGE, VERSION
from fanout.core.room_state import RoomState
from fanout.ports import LogRecord
from workers.turn import Ownership, Turn

# The first four bytes of a record tell all that is asked here.
_HEADS: Final = {
    bytes((VERSION, MESSAGE, priority.value, flags)): priority.value
    for priority in (Priority.NORMAL, Priority.LOW)
    for flags in (0, MERGE, BINARY, MERGE | BINARY)
}


def skip_late(
    turn: Turn, ownership: Ownership, room: RoomState, records: Sequence[LogRecord], before: Before
) -> tuple[list[LogRecord], int]:
    """Count the records of a room that are too late; return the others, in order, and the last one's log offset + 1.

    The caller moves ``applied`` there (0: none was too late) when it has applied the others.
    """
    applied, beyond = room.applied, 0
    late, left = zeros(), []
    class_of = _HEADS.get
    for record in records:
        class_ = class_of((record.value or b"")[:4])
        if class_ is None or record.timestamp >= before[class_]:
            left.append(record)
        elif record.offset >= applied:
            late[class_] += 1
            beyond = record.offset + 1
    if beyond:
        turn.draft(ownership, room)
        for class_, count in enumerate(late):
            room.ledger.accepted[class_] += count
        turn.drop(room, DropReason.LATE, late)
    return left, beyond
