"""Messages of a degraded room: those of some types are folded by type, those of others are for nobody. Pure.

Lives elsewhere: when a room is degraded (``budgets``), who drops what is off (``publish``) and who folds (``merging``).
"""

from __future__ import annotations

from typing import Final

from fanout.core.messages import Kind
from fanout.core.records import MERGE, Merge
from fanout.core.room_state import RoomState
from fanout.ports import LogRecord
from workers.publish import LEAST, Parsed, parse

_RELIABLE: Final = Kind.RELIABLE.value
_SUM: Final = "sum"


def parse_degraded(room: RoomState, record: LogRecord, offset: int) -> Parsed | None:
    """Return what ``parse`` returns, as a degraded room takes it; raises RecordError."""
    parsed = parse(record, offset)
    return None if parsed is None else degraded(room, parsed)


def degraded(room: RoomState, parsed: Parsed) -> Parsed:
    """Return a message as a degraded room takes it.

    One of ``merged_types`` asks to be added up with others of its type, unless it asks to be merged already. One of
    ``off_types`` does not ask to be merged, so that it is dropped like others of its type.
    """
    record, offset, class_, flags, id_, message = parsed
    type_ = message.type
    if class_ not in LEAST or room.kinds[class_] == _RELIABLE:
        return parsed
    if type_ in room.off_types:
        return record, offset, class_, flags & ~MERGE, id_, message
    if type_ in room.merged_types and not flags & MERGE:
        message.merge = Merge(type_, _SUM)
        return record, offset, class_, flags | MERGE, id_, message
    return parsed
