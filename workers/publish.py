"""Messages of a room become publications, or are dropped; all of them are counted. In log order, without I/O.

What every message needs is held in local names while the messages of one room and turn pass: looking up and counting is
half of what a message costs the worker.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from fanout.core.errors import RecordError
from fanout.core.ledger import zeros
from fanout.core.limits import MESSAGE_BYTES_MAX, MESSAGE_RECORD_BYTES_MAX, OUTCOME_SAMPLE
from fanout.core.messages import PRIORITIES, Kind, Priority
from fanout.core.policy import DropReason, take_slot
from fanout.core.records import AUDIENCE, HEADER, HEADER_BYTES, KEYED, MERGE, MESSAGE, TRACKED, VERSION, Counts, Message
from fanout.core.room_state import RoomState
from fanout.ports import HistoryEntry, LogRecord
from workers.chunks import ROOM_BATCH_BYTES_MAX
from workers.fates import repeat_or_late
from workers.outcomes import note
from workers.poison import poison
from workers.room_batch import close_room_batch
from workers.spans import open_span
from workers.turn import Draft, Ownership, Turn

Parsed = tuple[LogRecord, int, int, int, int, Message]  # a record, its log offset, class, flags, id, body

_unpack: Final = HEADER.unpack_from
_decode: Final = msgspec.msgpack.Decoder(Message).decode
_encode: Final = msgspec.msgpack.Encoder().encode
_RELIABLE: Final = Kind.RELIABLE.value
_EPHEMERAL: Final = Kind.EPHEMERAL.value
_CLASSES: Final = len(PRIORITIES)
_DEGRADED: Final = DropReason.DEGRADED
LEAST: Final = (Priority.NORMAL.value, Priority.LOW.value)  # the classes that may be dropped
_UNSAMPLED: Final = OUTCOME_SAMPLE - 1


def parse(record: LogRecord, offset: int) -> Parsed | None:
    """Return a MESSAGE record, read and checked, or None for every other record; raises RecordError."""
    value = record.value
    try:
        version, kind, class_, flags, id_ = _unpack(value)  # type: ignore[arg-type]
    except (struct.error, TypeError):
        return None
    if kind != MESSAGE or version != VERSION:
        return None
    assert value is not None, "it has a header"
    is_large = len(value) > MESSAGE_BYTES_MAX
    if is_large and len(value) > MESSAGE_RECORD_BYTES_MAX:  # names can be as long as data; an entry must fit in a chunk
        raise RecordError("too_large", f"{len(value)} bytes, at most {MESSAGE_RECORD_BYTES_MAX}")
    try:
        message = _decode(value[HEADER_BYTES:])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordError("undecodable", f"Message: {error}") from error
    if is_large or class_ >= _CLASSES or flags & AUDIENCE or message.audience is not None:
        _check(class_, flags, message)
    if message.merge is not None and not flags & MERGE:
        raise RecordError("bad_request", "merge: the flag is missing")
    return record, offset, class_, flags, id_, message


def publish(  # noqa: PLR0912 - a call a message costs more than all that these branches do
    turn: Turn, ownership: Ownership, room: RoomState, messages: Sequence[Parsed]
) -> None:
    """Decide about messages of one room that are not merged; their log offsets rise, the room has applied none."""
    draft = turn.draft(ownership, room)
    before = turn.late_before(room)
    drops: defaultdict[DropReason, Counts] = defaultdict(zeros)
    thinning, kinds, targets, spans = room.thinning, room.kinds, room.targets, room.spans
    policy, shared_slots, off_types, thinned = room.policy, room.shared_slots, room.off_types, room.profile.thinned
    accepted, kept, kept_in_turn = room.ledger.accepted, room.ledger.kept, turn.kept
    clock_ms, head, last, n = thinning.clock_ms, room.head, room.last, room.n
    for record, offset, class_, flags, id_, message in messages:
        try:
            position, at_ms = offset + 1, record.timestamp
            is_late = at_ms < before[class_]
            if at_ms > clock_ms and not is_late:
                if at_ms >= spans.end_ms:
                    _open_span(turn, draft, room, drops, at_ms)
                clock_ms = thinning.clock_ms = at_ms
            accepted[class_] += 1
            reason = None
            if is_late or flags & KEYED:
                reason = repeat_or_late(draft, room, flags, id_, position, max(at_ms, clock_ms), is_late=is_late)
            if reason is None and thinned:
                reason = (
                    _DEGRADED
                    if off_types and message.type in off_types and class_ in LEAST
                    else take_slot(thinning, policy, shared_slots, PRIORITIES[class_], message.sender, message.type)
                )
            if flags & TRACKED or not position & _UNSAMPLED:
                note(draft, room, id_, class_, position, reason)
            if reason is not None:
                drops[reason][class_] += 1
                continue
            kept[class_] += 1
            kept_in_turn[class_] += 1
            kind, prev = kinds[class_], last
            if kind == _RELIABLE:
                head = last = position
                n += 1
            elif kind != _EPHEMERAL:
                head = position
            elif not targets:
                continue
            encoded = _encode((  # the places of records.Entry; as a tuple, which is made in half the time
                position, room.parts if offset == room.closed_at else 0, kind, class_, prev, n, id_, clock_ms,
                message.sent_ms, message.data, message.sender, message.type, message.tags, flags,
            ))  # fmt: skip
            size = len(encoded)
            if kind != _EPHEMERAL:
                draft.stored.append(HistoryEntry(position, kind, prev, clock_ms, encoded))
                draft.stored_bytes += size
            if targets:
                if draft.size + size > ROOM_BATCH_BYTES_MAX and draft.entries:
                    close_room_batch(turn, draft, prev, n - (kind == _RELIABLE))
                draft.size += size
                draft.entries.append(encoded)
        except Exception as error:
            turn.parked.append(poison(ownership.partition, record, error))
    _count(turn, room, drops)
    room.head, room.last, room.n, room.applied = head, last, n, messages[-1][1] + 1


def _check(class_: int, flags: int, message: Message) -> None:
    if class_ >= _CLASSES:
        raise RecordError("unknown_class", f"classes are 0 to {_CLASSES - 1}, this one is {class_}")
    if len(message.data) > MESSAGE_BYTES_MAX:
        raise RecordError("too_large", f"data: {len(message.data)} bytes, at most {MESSAGE_BYTES_MAX}")
    if flags & AUDIENCE or message.audience is not None:
        # One for some must never reach everybody because this version cannot tell them apart.
        raise RecordError("not_available", "this version delivers to everybody")


def _count(turn: Turn, room: RoomState, drops: Mapping[DropReason, Counts]) -> None:
    for reason, counts in drops.items():
        turn.drop(room, reason, counts)


def _open_span(turn: Turn, draft: Draft, room: RoomState, drops: dict[DropReason, Counts], at_ms: int) -> None:
    _count(turn, room, drops)  # the counts before the span are whole
    drops.clear()
    open_span(draft, room, at_ms)
