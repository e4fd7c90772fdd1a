"""What records do to their room: the decisions of the room worker, without I/O, in log order.

Same state, same records → same publications, positions, ledger: a new owner that applies a record again decides the
same, and skips those that the loaded state contains. Record time is the broker's append time, made monotone per room (a
broker's clock may step back when a partition's leader changes). Only what is too late depends on the wall clock, which
comes with the turn.

Bytes that are no record of ours leave the room unchanged and are parked. Messages are decided in ``publish``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from fanout.core import quota
from fanout.core.classes import class_of
from fanout.core.errors import RecordError, Refused
from fanout.core.ids import foreign_id
from fanout.core.ledger import check_report
from fanout.core.limits import CHUNK_SLOTS
from fanout.core.messages import Priority
from fanout.core.profiles import Profiles
from fanout.core.publish import decode_publish, to_message
from fanout.core.records import (
    ATTACH,
    DETACH,
    FOREIGN_FIRST_BYTE,
    KEYED,
    MERGE,
    MODERATION,
    Announce,
    Attach,
    Detach,
    Message,
    RoomReport,
    body,
    header,
)
from fanout.core.room_state import RoomState, Values
from fanout.ports import HistoryBatch, LogRecord
from workers.chunks import ChunkBuilder
from workers.degrade import degraded, parse_degraded
from workers.late import skip_late
from workers.merging import fold, fold_on
from workers.poison import poison
from workers.publish import Parsed, parse, publish
from workers.room_batch import answer, close_room_batch, tell
from workers.spans import by_span, open_due_span
from workers.turn import Change, Draft, Ownership, Turn

_GENERATIONS: Final = 1 << 53  # the store counts in doubles


def apply(turn: Turn, ownership: Ownership, room: RoomState, records: Sequence[LogRecord], profiles: Profiles) -> None:
    """Apply records of one room, in log order; those that the room's state contains already do nothing.

    Poison is parked, its neighbours go on. Messages side by side are decided together, but for those that are merged:
    where one opens nothing new it does not matter to its neighbours in the window which of them comes first.
    """
    before = turn.late_before(room)
    if not records or records[0].timestamp >= max(before):
        _apply(turn, ownership, room, records, profiles)
        return
    # Late ones are counted before their neighbours are decided, so a span begins between two parts of a backlog.
    for part in by_span(turn, ownership, room, records):
        left, beyond = skip_late(turn, ownership, room, part, before)
        _apply(turn, ownership, room, left, profiles)
        room.applied = max(room.applied, beyond)


def _apply(turn: Turn, ownership: Ownership, room: RoomState, records: Sequence[LogRecord], profiles: Profiles) -> None:
    applied = room.applied
    folded = 0
    read = partial(parse_degraded, room) if room.degraded else parse
    messages: list[Parsed] = []
    for record in records:
        offset = record.offset
        if offset < applied:
            continue
        try:
            parsed = read(record, offset)
            if parsed is not None:
                if not parsed[3] & MERGE:
                    messages.append(parsed)
                    continue
                if fold_on(turn, room, parsed):
                    folded = offset + 1
                    continue
            if messages:
                publish(turn, ownership, room, messages)
                messages = []
            value = record.value
            if parsed is not None:
                fold(turn, ownership, room, parsed)
            elif value and value[0] == FOREIGN_FIRST_BYTE:
                _apply_foreign(turn, ownership, room, record, value, profiles)
            else:
                _apply_control(turn, ownership, room, record.timestamp, value)
            room.applied = offset + 1
        except Exception as error:
            turn.parked.append(poison(ownership.partition, record, error))
    if messages:
        publish(turn, ownership, room, messages)
    if folded:
        turn.draft(ownership, room)
        room.applied = max(room.applied, folded)


def announce(
    turn: Turn,
    ownership: Ownership,
    room: RoomState,
    offset: int,
    said: Announce,
    report: RoomReport,
    at_ms: int = 0,
) -> None:
    """Take one room's report out of an Announce: heal the route, merge the counts, answer a head that differs.

    A report that changes nothing leaves no trace, so that an idle room costs no write. ``at_ms`` is the record's time.
    """
    if offset < room.applied:
        return
    before = room.targets
    draft = turn.drafts.get(room)
    if draft is not None:
        close_room_batch(turn, draft, room.last, room.n)
    opening = room.opening(at_ms) if at_ms >= room.spans.end_ms else None
    if not room.announce(said.slot, said.generation, report):
        turn.count_fenced("announce")
        return
    if report.head != room.head or room.targets is not before:
        answer(turn, ownership, room, (said.slot, said.generation), report.instance)
    if room.is_changed:
        draft = turn.draft(ownership, room)
        if opening is not None:
            draft.openings += (opening,)
            room.open_span(at_ms)
        room.applied = offset + 1


def put_in_force(turn: Turn, ownership: Ownership, room: RoomState, offset: int, values: Values) -> None:
    """Apply one room's values of a Budget record; gateways are told at once where that degrades it, or ends it."""
    if offset < room.applied:
        return
    draft, was_degraded = turn.draft(ownership, room), room.degraded
    room.put_in_force(values)
    if room.degraded is not was_degraded:
        turn.rooms_degraded += 1
        close_room_batch(turn, draft, room.last, room.n)
        tell(turn, ownership, room)
    room.applied = offset + 1


def expire(turn: Turn, ownership: Ownership, room: RoomState, slot: int, generation: int) -> None:
    """Stop sending a room to a gateway whose lease is gone; what nobody reported of it is accounted."""
    draft = turn.drafts.get(room)
    if draft is not None:
        close_room_batch(turn, draft, room.last, room.n)
    if room.expire(slot, generation):
        turn.draft(ownership, room)


def cut(turn: Turn) -> None:
    """Build the chunks of what was decided so far, by slot; the turn stays open."""
    for room, draft in turn.drafts.items():
        if draft.entries:
            close_room_batch(turn, draft, room.last, room.n, is_whole=True)
    turn.slots = turn.chunks.build()
    turn.chunks = ChunkBuilder()


def close(turn: Turn) -> None:
    """End the turn: chunks by slot, and per room what the history has to take, state included, in one step."""
    cut(turn)
    for room, draft in turn.drafts.items():
        change = _change(draft, room)
        turn.bytes += change.bytes
        turn.changes.append(change)
        room.is_changed = False
        room.loans += 1
    turn.drafts = {}


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
        draft.openings,
        draft.outcomes,
    )
    size = 512 + len(state) + 128 * len(stored) + draft.stored_bytes + 256 * len(draft.outcomes)
    return Change(ownership, room, batch, size)


def _apply_foreign(
    turn: Turn, ownership: Ownership, room: RoomState, record: LogRecord, value: bytes, profiles: Profiles
) -> None:
    """Apply a foreign producer's JSON. Its id follows from its place in the log: a replay yields the same one."""
    at_ms = max(record.timestamp, room.thinning.clock_ms)
    try:
        said = decode_publish(value)
        if said.room != room.key.partition("/")[2]:
            raise RecordError("room_mismatch", f"the key names {room.key!r}, the body room {said.room!r}")
        message, asked, flags = to_message(said, profiles, sent_ms=at_ms)
    except Refused as refused:
        raise RecordError(refused.problem.reason, refused.detail) from refused
    if flags & MERGE:
        priority = class_of(room.policy, asked, message.type, message.sender)  # HIGH is refused, and takes no quota
    else:
        priority = _foreign_class(turn, room, message, asked, at_ms)
    id_ = foreign_id(at_ms, ownership.partition, record.offset, message.parent)
    # Its id is new in every record, so that a key cannot be recognised by it.
    parsed: Parsed = (record, record.offset, priority.value, flags & ~KEYED, id_, message)
    if room.degraded:
        parsed = degraded(room, parsed)
    decided = fold if parsed[3] & MERGE else _publish_one
    decided(turn, ownership, room, parsed)


def _publish_one(turn: Turn, ownership: Ownership, room: RoomState, message: Parsed) -> None:
    publish(turn, ownership, room, (message,))


def _foreign_class(turn: Turn, room: RoomState, message: Message, asked: Priority, at_ms: int) -> Priority:
    """Return the class of what no admission has seen; HIGH beyond the room's quota, in record time, is NORMAL."""
    policy, thinning = room.policy, room.thinning
    priority = class_of(policy, asked, message.type, message.sender)
    if priority is not Priority.HIGH or not room.profile.thinned:
        return priority
    if quota.wait_us(thinning.high_full_at_us, at_ms * 1_000, policy):
        turn.degraded += 1
        return Priority.NORMAL
    thinning.high_full_at_us = quota.taken(thinning.high_full_at_us, at_ms * 1_000, policy)
    return priority


def _apply_control(turn: Turn, ownership: Ownership, room: RoomState, at_ms: int, value: bytes | None) -> None:
    if value is None:
        raise RecordError("no_value", "a record without a value says nothing here")
    kind = header(value).kind
    if kind == ATTACH:
        _attach(turn, ownership, room, at_ms, body(value, Attach))
    elif kind == DETACH:
        _detach(turn, ownership, room, at_ms, body(value, Detach))
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


def _attach(turn: Turn, ownership: Ownership, room: RoomState, at_ms: int, said: Attach) -> None:
    check_slot(said.slot, said.generation)
    draft = turn.draft(ownership, room)
    close_room_batch(turn, draft, room.last, room.n)
    open_due_span(draft, room, at_ms)
    room.settle_gone()
    if room.attach(said.slot, said.generation, said.instance):
        answer(turn, ownership, room, (said.slot, said.generation), said.instance)
    else:
        turn.count_fenced("attach")


def _detach(turn: Turn, ownership: Ownership, room: RoomState, at_ms: int, said: Detach) -> None:
    if said.report is not None:
        check_report(said.report)
    draft = turn.draft(ownership, room)
    close_room_batch(turn, draft, room.last, room.n)
    open_due_span(draft, room, at_ms)
    if not room.detach(said.slot, said.generation, said.instance, said.report):
        turn.count_fenced("detach")
