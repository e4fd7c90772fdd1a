"""Messages that are merged: folded while their window is open, sent as ephemeral publications when it ends. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from fanout.core.errors import RecordError, Refused
from fanout.core.ledger import zeros
from fanout.core.limits import OUTCOME_SAMPLE
from fanout.core.merge import Folds, Item, Place, check_merge, check_merged
from fanout.core.messages import Kind
from fanout.core.policy import DropReason
from fanout.core.records import FOREIGN_FIRST_BYTE, KEYED, MERGE, TRACKED, Counts, Merge
from fanout.core.room_state import RoomState
from fanout.ports import LogRecord
from workers.chunks import ROOM_BATCH_BYTES_MAX
from workers.fates import repeat_or_late
from workers.outcomes import note, note_merged
from workers.publish import Parsed
from workers.room_batch import close_room_batch
from workers.spans import open_due_span
from workers.turn import Draft, Ownership, Turn

_FLAGS_AT: Final = 3  # in a record's header
_ITEM_BYTES: Final = 16  # of a payload's stored form, beside what stands in its record
_EPHEMERAL: Final = Kind.EPHEMERAL.value
_NOTED: Final = KEYED | TRACKED  # something is noted of each of them
_UNSAMPLED: Final = OUTCOME_SAMPLE - 1
_encode: Final = msgspec.msgpack.Encoder().encode


def may_merge(records: Iterable[LogRecord]) -> bool:
    """True where one of these records may be merged: by its flags, or because it must be looked at more closely."""
    try:
        for record in records:
            value = record.value
            if value[_FLAGS_AT] & MERGE or value[0] == FOREIGN_FIRST_BYTE:  # type: ignore[index]
                return True
    except (TypeError, IndexError):  # no value, or a short one
        return True
    return False


def fold_on(turn: Turn, room: RoomState, parsed: Parsed) -> bool:
    """Fold a message into what is open already; False, and nothing is changed, where that is not all there is to it.

    It touches no slot and no clock, so it may be done before messages of other keys that came earlier. The caller sees
    to the draft and to ``applied``, and has passed over what is late.
    """
    record, offset, class_, flags, id_, message = parsed
    folds, value = room.folds, record.value
    if folds is None or value is None or flags & _NOTED or not (offset + 1) & _UNSAMPLED:
        return False
    if not folds.add_free(class_, id_, flags, len(value) + _ITEM_BYTES, message):
        return False
    ledger = room.ledger
    ledger.accepted[class_] += 1
    ledger.merged[class_] += 1
    turn.merged[class_] += 1
    return True


def fold(turn: Turn, ownership: Ownership, room: RoomState, parsed: Parsed) -> None:
    """Fold a message into what its window says, or drop it; raises RecordError, and nothing is changed then.

    Whatever window was open before the one of this record has been closed.
    """
    record, offset, class_, flags, id_, message = parsed
    merge, value = message.merge, record.value
    if merge is None or value is None:
        raise RecordError("bad_request", "merge: the flag says so, and nothing says how")
    _check(merge, class_, room)
    draft, thinning, at_ms = turn.draft(ownership, room), room.thinning, record.timestamp
    place = (class_, merge.key, merge.op, merge.n)
    is_late = at_ms < turn.late_before(room)[class_]
    is_new = room.folds is None or room.folds.get(place) is None
    if is_new and not is_late and at_ms > thinning.clock_ms:
        open_due_span(draft, room, at_ms)
        thinning.clock_ms = at_ms
    room.applied = offset + 1
    room.ledger.accepted[class_] += 1
    reason = repeat_or_late(draft, room, flags, id_, offset + 1, max(at_ms, thinning.clock_ms), is_late=is_late)
    if reason is None:
        reason = _put(room, place, Item(len(value) + _ITEM_BYTES, id_, flags, merge.value, message))
    if reason is not None:
        turn.drop(room, reason, _one(class_))
    else:
        room.ledger.merged[class_] += 1
        turn.merged[class_] += 1
    if flags & TRACKED or not (offset + 1) & _UNSAMPLED:
        _note(draft, room, parsed, reason)


def _check(merge: Merge, class_: int, room: RoomState) -> None:
    try:
        check_merge(merge)
        check_merged(class_, room.kinds[class_])
    except Refused as refused:
        raise RecordError(refused.problem.reason, refused.detail) from refused


def _put(room: RoomState, place: Place, item: Item) -> DropReason | None:
    folds = room.folds or Folds()
    fold = folds.get(place)
    reason = folds.open(place, item, room.take_slot) if fold is None else folds.add(fold, item, room.take_slot)
    if reason is None:
        room.folds = folds
    return reason


def _one(class_: int) -> Counts:
    counts = zeros()
    counts[class_] = 1
    return counts


def _note(draft: Draft, room: RoomState, parsed: Parsed, reason: DropReason | None) -> None:
    _, offset, class_, _, id_, _ = parsed
    if reason is None:
        note_merged(draft, room, id_, class_)
    else:
        note(draft, room, id_, class_, offset + 1, reason)


def close_folds(turn: Turn, ownership: Ownership, room: RoomState, offset: int) -> None:
    """Send what the open folds of a room say; the record at this log offset has ended their window.

    Their publications are the first parts of that record, before its own one where it is of the same room; so the
    record itself is not applied yet.
    """
    folds = room.folds
    assert folds is not None, "a room waits for the end of its window because it has open folds"
    draft, sent = turn.draft(ownership, room), room.ledger.folds
    parts = 0
    for closed, item, tags in folds.publications():
        sent[closed.priority] += 1
        turn.folds[closed.priority] += 1
        if room.targets:
            _send(turn, draft, (offset + 1, parts), closed.priority, item, tags)
        parts += 1
    room.folds = None
    room.closed_at, room.parts = offset, parts
    room.applied = max(room.applied, offset)


def _send(turn: Turn, draft: Draft, place: tuple[int, int], class_: int, item: Item, tags: dict[str, str]) -> None:
    room, message = draft.room, item.message
    encoded = _encode(  # the places of records.Entry
        (
            *place,
            _EPHEMERAL,
            class_,
            room.last,
            room.n,
            item.id,
            room.thinning.clock_ms,
            message.sent_ms,
            message.data,
            message.sender,
            message.type,
            tags,
            item.flags,
        )
    )
    if draft.size + len(encoded) > ROOM_BATCH_BYTES_MAX and draft.entries:
        close_room_batch(turn, draft, room.last, room.n)
    draft.size += len(encoded)
    draft.entries.append(encoded)
