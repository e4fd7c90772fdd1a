"""What one record does to its room: the decisions of the room worker, without I/O, in log order. Pure.

Same state, same records → same publications, positions, ledger: a new owner that applies a record again decides the
same, and skips those that the loaded state contains. Nothing here looks at a clock; record time is the broker's append
time, made monotone per room (a broker's clock may step back when a partition's leader changes).

Raises RecordError for bytes that are no record of ours; the room is unchanged then and the record is parked.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from fanout.core.errors import RecordError, Refused
from fanout.core.ids import foreign_id
from fanout.core.ledger import check_report
from fanout.core.limits import CHUNK_SLOTS, MESSAGE_BYTES_MAX, MESSAGE_RECORD_BYTES_MAX
from fanout.core.messages import PRIORITIES, Kind, Profiles
from fanout.core.policy import DropReason, take_slot
from fanout.core.publish import decode_publish, to_message
from fanout.core.records import (
    ATTACH,
    AUDIENCE,
    DETACH,
    FOREIGN_FIRST_BYTE,
    HEADER,
    HEADER_BYTES,
    KEYED,
    MERGE,
    MESSAGE,
    MODERATION,
    VERSION,
    Announce,
    Attach,
    Detach,
    Entry,
    Message,
    RawRoomBatch,
    RoomReport,
    body,
    header,
)
from fanout.core.room_state import Keyed, RoomState, Target, Values, shared_targets
from fanout.ports import HistoryBatch, HistoryEntry, KeyedId, LogRecord
from workers.chunks import ROOM_BATCH_BYTES_MAX
from workers.turn import Change, Draft, Ownership, Turn

SOURCE_MESSAGES: Final = 0

_unpack: Final = HEADER.unpack_from
_encode: Final = msgspec.msgpack.Encoder().encode
_raw: Final = msgspec.Raw
_decode_message: Final = msgspec.msgpack.Decoder(Message).decode
_RELIABLE: Final = Kind.RELIABLE.value
_EPHEMERAL: Final = Kind.EPHEMERAL.value
_CLASSES: Final = len(PRIORITIES)
_GENERATIONS: Final = 1 << 53  # the store counts in doubles
# One for some must never reach everybody because this version cannot tell them apart.
_NOT_YET: Final = AUDIENCE | MERGE


def apply(turn: Turn, ownership: Ownership, room: RoomState, record: LogRecord, profiles: Profiles) -> None:
    """Apply a record with a key to its room; records that the room's state contains already do nothing."""
    offset = record.offset
    if offset < room.applied:
        return
    value = record.value
    try:
        version, kind, class_, flags, id_ = _unpack(value)  # type: ignore[arg-type]
    except (struct.error, TypeError):
        version = kind = -1
    if kind == MESSAGE and version == VERSION:
        assert value is not None
        if len(value) > MESSAGE_RECORD_BYTES_MAX:  # names can be as long as data; an entry must fit into a chunk
            raise RecordError("too_large", f"{len(value)} bytes, at most {MESSAGE_RECORD_BYTES_MAX}")
        try:
            message = _decode_message(value[HEADER_BYTES:])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise RecordError("undecodable", f"Message: {error}") from error
        if class_ >= _CLASSES or len(message.data) > MESSAGE_BYTES_MAX or flags & _NOT_YET:
            _refuse(class_, message)
        if message.audience is not None or message.merge is not None:
            _refuse(class_, message)
        publish(turn, ownership, room, record, class_, flags, id_, message)
    elif value and value[0] == FOREIGN_FIRST_BYTE:
        _apply_foreign(turn, ownership, room, record, value, profiles)
    else:
        _apply_control(turn, ownership, room, value)
    room.applied = offset + 1


def publish(
    turn: Turn,
    ownership: Ownership,
    room: RoomState,
    record: LogRecord,
    class_: int,
    flags: int,
    id_: int,
    message: Message,
) -> None:
    """Decide about a message: it becomes a publication or is dropped, and is counted."""
    draft = turn.drafts.get(room) or turn.draft(ownership, room)
    position = record.offset + 1
    thinning, ledger, at_ms = room.thinning, room.ledger, record.timestamp
    if at_ms > thinning.clock_ms:
        thinning.clock_ms = at_ms
    else:
        at_ms = thinning.clock_ms
    ledger.accepted[class_] += 1
    if flags & KEYED and _is_repeat(draft, room, id_, position, at_ms):
        _drop(turn, room, DropReason.KEYED, class_)
        return
    profile = room.profile
    if profile.thinned:
        reason = take_slot(thinning, profile, room.shared_slots, PRIORITIES[class_], message.sender)
        if reason is not None:
            _drop(turn, room, reason, class_)
            return
    ledger.kept[class_] += 1
    turn.kept[class_] += 1
    kind, prev = room.kinds[class_], room.last
    if kind != _EPHEMERAL:
        room.head = position
        if kind == _RELIABLE:
            room.last = position
            room.n += 1
    elif not room.targets:
        return
    encoded = _encode(
        Entry(
            position,
            0,
            kind,
            class_,
            prev,
            room.n,
            id_,
            at_ms,
            message.sent_ms,
            message.data,
            message.sender,
            message.type,
            message.tags,
            flags,
        )
    )
    size = len(encoded)
    if kind != _EPHEMERAL:
        draft.stored.append(HistoryEntry(position, kind, prev, at_ms, encoded))
        draft.stored_bytes += size
    if room.targets:
        if draft.size + size > ROOM_BATCH_BYTES_MAX and draft.entries:
            close_room_batch(turn, draft, prev, room.n - (kind == _RELIABLE))
        draft.size += size
        draft.entries.append(_raw(encoded))


def announce(
    turn: Turn, ownership: Ownership, room: RoomState, offset: int, said: Announce, report: RoomReport
) -> None:
    """Take one room's report out of an Announce: heal the route, merge the counts, answer a head that differs.

    A report that changes nothing leaves no trace, so that an idle room costs no write.
    """
    if offset < room.applied:
        return
    before = room.targets
    draft = turn.drafts.get(room)
    if draft is not None:
        close_room_batch(turn, draft, room.last, room.n)
    if not room.announce(said.slot, said.generation, report):
        turn.count_fenced("announce")
        return
    if report.head != room.head or room.targets is not before:
        answer(turn, ownership, room, (said.slot, said.generation), report.instance)
    if room.is_changed:
        turn.draft(ownership, room)
        room.applied = offset + 1


def answer(turn: Turn, ownership: Ownership, room: RoomState, target: Target, instance: int) -> None:
    """Tell one slot where the room stands."""
    raw = _room_batch(ownership, room, room.last, room.n, [], instance)
    turn.chunks.add(room.key, shared_targets((target,)), raw)


def put_in_force(turn: Turn, ownership: Ownership, room: RoomState, offset: int, values: tuple[int, int]) -> None:
    """Apply one room's values of a Budget record: (shared slots, members)."""
    if offset < room.applied:
        return
    room.put_in_force(Values(*values))
    turn.draft(ownership, room)
    room.applied = offset + 1


def expire(turn: Turn, ownership: Ownership, room: RoomState, slot: int, generation: int) -> None:
    """Stop sending a room to a gateway whose lease is gone; what nobody reported of it is accounted."""
    draft = turn.drafts.get(room)
    if draft is not None:
        close_room_batch(turn, draft, room.last, room.n)
    if room.expire(slot, generation):
        turn.draft(ownership, room)


def close_room_batch(turn: Turn, draft: Draft, prev: int, n: int) -> None:
    """End the open room batch for the routes as they stand; the next one begins at (``prev``, ``n``)."""
    if draft.entries:
        room = draft.room
        raw = _room_batch(draft.ownership, room, draft.prev, draft.n, draft.entries)
        turn.chunks.add(room.key, room.targets, raw)
        draft.entries, draft.size = [], 0
    draft.prev, draft.n = prev, n


def close(turn: Turn) -> None:
    """End the turn: chunks by slot, and per room what the history has to take, state included, in one step."""
    for room, draft in turn.drafts.items():
        close_room_batch(turn, draft, room.last, room.n)
        change = _change(draft, room)
        turn.bytes += change.bytes
        turn.changes.append(change)
        room.is_changed = False
        room.loans += 1
    turn.drafts = {}
    turn.slots = turn.chunks.build()


def _change(draft: Draft, room: RoomState) -> Change:
    ownership, profile, stored = draft.ownership, room.profile, draft.stored
    state = room.encode()
    batch = HistoryBatch(
        room.key,
        ownership.epoch,
        ownership.owner,
        room.head,
        room.last,
        room.n,
        room.applied,
        state,
        stored,
        room.thinning.clock_ms,
        profile.reliable_max,
        profile.reliable_ttl_s * 1_000,
        profile.recent_max,
        profile.recent_ttl_s * 1_000,
        draft.keyed,
    )
    size = 512 + len(state) + 128 * len(stored) + draft.stored_bytes
    return Change(ownership, room, batch, size)


def _room_batch(
    ownership: Ownership,
    room: RoomState,
    prev: int,
    n: int,
    entries: list[msgspec.Raw],
    attached_instance: int | None = None,
) -> bytes:
    attached = None if attached_instance is None else room.attached(attached_instance)
    return _encode(
        RawRoomBatch(
            room.key, SOURCE_MESSAGES, ownership.partition, ownership.owner, ownership.epoch, prev, n, entries, attached
        )
    )


def _refuse(class_: int, message: Message) -> None:
    if class_ >= _CLASSES:
        raise RecordError("unknown_class", f"classes are 0 to {_CLASSES - 1}, this one is {class_}")
    if len(message.data) > MESSAGE_BYTES_MAX:
        raise RecordError("too_large", f"data: {len(message.data)} bytes, at most {MESSAGE_BYTES_MAX}")
    raise RecordError("not_available", "this version delivers to everybody and folds nothing")


def _is_repeat(draft: Draft, room: RoomState, id_: int, position: int, at_ms: int) -> bool:
    keyed = room.keyed
    if keyed is None:
        keyed = room.keyed = Keyed()
    if keyed.is_repeat(id_, position, at_ms):
        return True
    keyed.add(id_, position, at_ms)
    draft.keyed.append(KeyedId(id_, position, at_ms))
    return False


def _drop(turn: Turn, room: RoomState, reason: DropReason, class_: int) -> None:
    room.drop(reason, class_)
    turn.count_dropped(reason, class_)


def _apply_foreign(
    turn: Turn, ownership: Ownership, room: RoomState, record: LogRecord, value: bytes, profiles: Profiles
) -> None:
    """Apply a foreign producer's JSON. Its id follows from its place in the log: a replay yields the same one."""
    at_ms = max(record.timestamp, room.thinning.clock_ms)
    try:
        said = decode_publish(value)
        if said.room != room.key.partition("/")[2]:
            raise RecordError("room_mismatch", f"the key names {room.key!r}, the body room {said.room!r}")
        message, priority, flags = to_message(said, profiles, sent_ms=at_ms)
    except Refused as refused:
        raise RecordError(refused.problem.reason, refused.detail) from refused
    id_ = foreign_id(at_ms, ownership.partition, record.offset, message.parent)
    # Its id is new in every record, so that a key cannot be recognised by it.
    publish(turn, ownership, room, record, priority.value, flags & ~KEYED, id_, message)


def _apply_control(turn: Turn, ownership: Ownership, room: RoomState, value: bytes | None) -> None:
    if value is None:
        raise RecordError("no_value", "a record without a value says nothing here")
    kind = header(value).kind
    if kind == ATTACH:
        _attach(turn, ownership, room, body(value, Attach))
    elif kind == DETACH:
        _detach(turn, ownership, room, body(value, Detach))
    elif kind == MODERATION:
        raise RecordError("not_available", "this version has no moderation")
    else:
        raise RecordError("unknown_kind", f"kind {kind} is none of a room's records")


def check_slot(slot: int, generation: int) -> None:
    """Raise RecordError ``bad_slot`` for a slot or a generation that no gateway can lease."""
    if not 0 <= slot < CHUNK_SLOTS:
        raise RecordError("bad_slot", f"slots are 0 to {CHUNK_SLOTS - 1}, this one is {slot}")
    if not 0 <= generation < _GENERATIONS:
        raise RecordError("bad_slot", f"generations are 0 to {_GENERATIONS - 1}, this one is {generation}")


def _attach(turn: Turn, ownership: Ownership, room: RoomState, said: Attach) -> None:
    check_slot(said.slot, said.generation)
    draft = turn.draft(ownership, room)
    close_room_batch(turn, draft, room.last, room.n)
    room.settle_gone()
    if room.attach(said.slot, said.generation, said.instance):
        answer(turn, ownership, room, (said.slot, said.generation), said.instance)
    else:
        turn.count_fenced("attach")


def _detach(turn: Turn, ownership: Ownership, room: RoomState, said: Detach) -> None:
    if said.report is not None:
        check_report(said.report)
    draft = turn.draft(ownership, room)
    close_room_batch(turn, draft, room.last, room.n)
    if not room.detach(said.slot, said.generation, said.instance, said.report):
        turn.count_fenced("detach")
