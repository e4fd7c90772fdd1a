"""What one record does to its room."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest

from fanout.core.ids import foreign_id
from fanout.core.limits import CHUNK_BYTES_MAX, MESSAGE_BYTES_MAX, TURN_BYTES_MAX, TURN_ROOMS_MAX
from fanout.core.messages import Priority
from fanout.core.policy import DropReason
from fanout.core.profiles import GROUP, LIVE, OPEN, Policy
from fanout.core.records import (
    ANNOUNCE,
    AUDIENCE,
    KEYED,
    MERGE,
    MESSAGE,
    MODERATION,
    Announce,
    Attach,
    Audience,
    Merge,
    Message,
    Moderation,
    RoomReport,
    encode,
)
from fanout.core.room_state import Values
from tests.support.partitions import merged
from tests.support.rooms import KEY, PROFILES, ROOM, DecidedRoom, Rec, attach, detach, message, records, report
from workers import decide
from workers.turn import Turn


def batches(decided: DecidedRoom, slot: int, generation: int = 1) -> list[tuple[int, int, list[int], int | None]]:
    """Return (prev, n, offsets, head answered) of what a slot was sent."""
    return [
        (
            batch.prev,
            batch.n,
            [entry.offset for entry in batch.entries],
            batch.attached.head if batch.attached is not None else None,
        )
        for batch in decided.received.get((slot, generation), ())
    ]


def announced(decided: DecidedRoom, offset: int, reports: Iterable[RoomReport], generation: int = 1) -> Turn:
    """Apply an Announce of slot 3."""
    turn = Turn(len(decided.turns) + 1, 0.0)
    for said in reports:
        whole = Announce(3, generation, 0, [said])
        decide.announce(turn, decided.ownership, decided.room, offset, whole, said)
    decided.close(turn)
    return turn


# --- messages ---


def test_the_log_numbers_the_publications() -> None:
    decided = DecidedRoom(log_offset=40)
    decided.turn(records([attach(3), message(Priority.HIGH, 7), message(Priority.SYSTEM, 8)], first=40))
    assert [(entry.offset, entry.prev, entry.n, entry.id) for entry in decided.entries(3)] == [
        (42, 40, 1, 7),
        (43, 42, 2, 8),
    ]
    assert (decided.room.head, decided.room.last, decided.room.n) == (43, 43, 2)


def test_a_room_batch_names_what_stood_before_it() -> None:
    decided = DecidedRoom()
    decided.turn(records([attach(3), message(Priority.HIGH)]))
    decided.turn(records([message(Priority.NORMAL), message(Priority.HIGH)], first=2))
    assert batches(decided, 3) == [(0, 0, [], 0), (0, 0, [2], None), (2, 1, [3, 4], None)]


def test_recent_publications_have_an_offset_but_are_not_in_the_chain() -> None:
    decided = DecidedRoom()
    decided.turn(records([attach(3), message(Priority.HIGH), message(Priority.NORMAL), message(Priority.HIGH)]))
    assert [(entry.offset, entry.kind, entry.prev, entry.n) for entry in decided.entries(3)] == [
        (2, 0, 0, 1),
        (3, 1, 2, 1),
        (4, 0, 2, 2),
    ]
    assert decided.room.head == 4


def test_ephemeral_publications_reach_gateways_and_no_history() -> None:
    decided = DecidedRoom()
    decided.turn(records([attach(3), message(Priority.LOW)]))
    assert [entry.kind for entry in decided.entries(3)] == [2]
    assert decided.history() == []
    assert (decided.room.head, decided.room.last) == (0, 0)


def test_a_room_without_routes_is_kept_in_history_alone() -> None:
    decided = DecidedRoom()
    turn = decided.turn(records([message(Priority.HIGH), message(Priority.LOW), message(Priority.NORMAL)]))
    assert decided.received == {}
    assert [entry.offset for entry in decided.history()] == [1, 3]
    assert turn.kept == [0, 1, 1, 1]


def test_history_and_gateways_get_the_same_bytes() -> None:
    decided = DecidedRoom(OPEN)
    decided.turn(records([attach(3), message(Priority.LOW, 5, sender="ann", data=b'{"a":1}')]))
    assert decided.history() == decided.entries(3)
    (entry,) = decided.history()
    assert (entry.data, entry.sender, entry.at_ms, entry.priority) == (b'{"a":1}', "ann", 1_000_000, 3)


def test_record_time_never_goes_back_in_a_room() -> None:
    decided = DecidedRoom()
    value = message(Priority.HIGH)
    decided.turn([Rec(0, value, timestamp=500), Rec(1, value, timestamp=400), Rec(2, value, timestamp=600)])
    assert [entry.at_ms for entry in decided.history()] == [500, 500, 600]


def test_a_loud_live_room_is_thinned_and_counted() -> None:
    decided = DecidedRoom(LIVE)
    turn = decided.turn(records([message(Priority.NORMAL)] * 30))
    assert decided.room.ledger.accepted == [0, 0, 30, 0]
    assert decided.room.ledger.kept == turn.kept == [0, 0, 20, 0]
    assert decided.room.ledger.dropped == {"policy": {"window_full": [0, 0, 10, 0]}}
    assert turn.dropped == {(DropReason.WINDOW_FULL, 2): 10}


def test_a_group_is_not_thinned() -> None:
    decided = DecidedRoom(GROUP)
    decided.turn(records([message(Priority.NORMAL)] * 300))
    assert decided.room.ledger.kept == [0, 0, 300, 0]


def test_a_keyed_record_whose_id_the_room_holds_is_a_repeat() -> None:
    decided = DecidedRoom(GROUP)
    decided.turn(records([message(id_=9, flags=KEYED), message(id_=9, flags=KEYED), message(id_=10, flags=KEYED)]))
    assert [entry.id for entry in decided.history()] == [9, 10]
    assert decided.room.ledger.dropped == {"repeat": {"keyed": [0, 0, 1, 0]}}
    assert [(one.id, one.offset) for one in decided.stored[0].keyed] == [(9, 1), (10, 3)]


def test_the_same_id_without_a_key_is_no_repeat() -> None:
    decided = DecidedRoom(GROUP)
    decided.turn(records([message(id_=9), message(id_=9)]))
    assert len(decided.history()) == 2


def test_records_that_the_state_contains_do_nothing() -> None:
    decided = DecidedRoom()
    log = records([attach(3), message(Priority.HIGH)])
    decided.turn(log)
    before = decided.room.encode()
    turn = decided.turn(log)
    assert decided.room.encode() == before
    assert turn.changes == [] and turn.slots == []


def test_a_room_batch_is_cut_before_it_passes_a_chunk() -> None:
    decided = DecidedRoom(GROUP)
    data = b'"' + b"x" * (MESSAGE_BYTES_MAX - 2) + b'"'
    decided.turn(records([attach(3), *[message(data=data)] * 20]))
    sent = batches(decided, 3)[1:]
    assert [offset for _, _, offsets, _ in sent for offset in offsets] == list(range(2, 22))
    assert len(sent) == 3
    assert all(prev == offsets[0] - 1 or prev == 0 for prev, _, offsets, _ in sent)
    assert [n for _, n, _, _ in sent] == [0, 7, 14]
    for turn in decided.turns:
        assert all(len(chunk) <= CHUNK_BYTES_MAX for slot in turn.slots for chunk in slot.chunks)


def test_a_batch_cut_after_a_recent_publication_names_the_last_reliable_one() -> None:
    decided = DecidedRoom(LIVE)
    data = b'"' + b"x" * (MESSAGE_BYTES_MAX - 2) + b'"'
    decided.turn(records([attach(3), message(Priority.HIGH, data=data), *[message(Priority.NORMAL, data=data)] * 8]))
    assert [(prev, n) for prev, n, _, _ in batches(decided, 3)] == [(0, 0), (0, 0), (2, 1)]


# --- foreign JSON ---


def test_json_of_a_foreign_producer_becomes_a_publication_with_an_id_from_its_place() -> None:
    decided = DecidedRoom()
    body = b'{"room":"live:stage","data":{"n": 1},"priority":"high","sender":"bot","tags":{"a":"b"}}'
    decided.turn(records([body], first=12, at_ms=1_800_000_000_000))
    (entry,) = decided.history()
    assert entry.id == foreign_id(1_800_000_000_000, 0, 12)
    assert (entry.data, entry.sender, entry.tags, entry.priority) == (b'{"n": 1}', "bot", {"a": "b"}, 1)
    assert entry.sent_ms == 1_800_000_000_000


def test_a_foreign_reply_has_a_greater_id_than_its_parent() -> None:
    decided = DecidedRoom()
    parent = foreign_id(1_800_000_000_500, 1, 1)
    body = b'{"room":"live:stage","data":1,"priority":"high","reply_to":"%d"}' % parent
    decided.turn(records([body], at_ms=1_800_000_000_000))
    assert decided.history()[0].id > parent


def test_a_foreign_record_with_a_key_is_not_taken_for_a_repeat_of_another() -> None:
    decided = DecidedRoom()
    body = b'{"room":"live:stage","data":1,"priority":"high","id":"k"}'
    decided.turn(records([body, body]))
    assert len(decided.history()) == 2


def foreign(**fields: str) -> bytes:
    return msgspec.json.encode({"room": "live:stage", "data": 1, **fields})


def with_policy(**settings: Any) -> DecidedRoom:
    return DecidedRoom(msgspec.structs.replace(LIVE, policy=Policy(**settings)))


def test_a_foreign_record_is_raised_by_its_type_and_its_sender() -> None:
    decided = with_policy(types={"gift": "high"}, raised_users=frozenset({"host"}))
    decided.turn(records([foreign(type="gift"), foreign(sender="host", priority="low"), foreign(type="chat")]))
    assert [entry.priority for entry in decided.history()] == [1, 1, 2]
    assert decided.room.ledger.accepted == [0, 2, 1, 0]


def test_a_record_of_the_engine_keeps_the_class_that_admission_gave_it() -> None:
    decided = with_policy(types={"gift": "high"}, raised_users=frozenset({"host"}), high_per_s=0.001, high_burst=1)
    gift = message(Priority.NORMAL, type_="gift", sender="host")
    decided.turn(records([gift, message(Priority.HIGH), message(Priority.HIGH)]))
    assert [entry.priority for entry in decided.history()] == [2, 1, 1]


def test_high_of_foreign_producers_beyond_the_quota_is_normal_in_record_time() -> None:
    decided = with_policy(high_per_s=10, high_burst=2)
    high = foreign(priority="high")
    turn = decided.turn([Rec(offset, high, timestamp=1_000_000 + ms) for offset, ms in enumerate((0, 0, 0, 50, 100))])
    assert [entry.priority for entry in decided.history()] == [1, 1, 2, 2, 1]
    assert turn.degraded == 2
    assert decided.room.ledger.accepted == [0, 3, 2, 0]


def test_a_foreign_producer_of_a_group_has_no_quota() -> None:
    decided = DecidedRoom(msgspec.structs.replace(GROUP, policy=Policy(high_per_s=0.001, high_burst=1)))
    turn = decided.turn(records([foreign(priority="high")] * 5))
    assert decided.room.ledger.kept == [0, 5, 0, 0]
    assert turn.degraded == 0


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "no_value"),
        (b"", "short_header"),
        (b"\x01\x01\x02", "short_header"),
        (b"\x07" + message()[1:], "unknown_version"),
        (message()[:-3], "undecodable"),
        (message() + b"\x00", "undecodable"),
        (encode(MESSAGE, Message(b"{}"), priority=4), "unknown_class"),
        (message(data=b"x" * (MESSAGE_BYTES_MAX + 1)), "too_large"),
        (message(flags=AUDIENCE), "not_available"),
        (message(flags=MERGE), "bad_request"),
        (encode(MESSAGE, Message(b"{}", audience=Audience(["ann"])), priority=1), "not_available"),
        (encode(MESSAGE, Message(b"{}", merge=Merge("k", "sum")), priority=3), "bad_request"),
        (merged(priority=Priority.HIGH), "bad_request"),
        (merged(priority=Priority.SYSTEM), "bad_request"),
        (merged(op="max"), "bad_request"),
        (merged(""), "bad_request"),
        (merged(n=2), "bad_request"),
        (merged(op="top", n=11), "bad_request"),
        (merged(value=float("nan")), "bad_request"),
        (merged(value=float("inf")), "bad_request"),
        (b'{"room":"live:stage","data":1,"priority":"high","merge":{"key":"k","op":"sum"}}', "bad_request"),
        (encode(MODERATION, Moderation("ban")), "not_available"),
        (encode(ANNOUNCE, Announce(1, 1, 0, [])), "unknown_kind"),
        (encode(99, Attach(1, 1, 1)), "unknown_kind"),
        (attach(256), "bad_slot"),
        (attach(-1), "bad_slot"),
        (attach(1)[:-1], "undecodable"),
        (detach(1, report=report(offered=[1])), "bad_report"),
        (b"{", "bad_request"),
        (b'{"room":"live:stage","data":1,"unknown":2}', "bad_request"),
        (b'{"room":"live:other","data":1}', "room_mismatch"),
        (b'{"room":"live:stage","data":1,"priority":"urgent"}', "bad_request"),
        (b'{"room":"live:stage","data":1,"audience":{"users":["a"]}}', "not_available"),
        (b'{"room":"live:stage","data":"\xff"}', "bad_request"),
    ],
)
def test_what_is_no_record_of_ours_is_refused_and_changes_nothing(value: bytes | None, reason: str) -> None:
    decided = DecidedRoom()
    turn = Turn(1, 0.0)
    before = decided.room.encode()
    decide.apply(turn, decided.ownership, decided.room, [Rec(0, value)], PROFILES)
    assert [(one.record.offset, one.error.reason) for one in turn.parked] == [(0, reason)]
    decided.close(turn)
    assert decided.room.encode() == before
    assert decided.room.applied == 0
    assert decided.received == {}


# --- routes ---


def test_an_attach_is_answered_at_once_and_gets_what_comes_after_it() -> None:
    decided = DecidedRoom()
    high = message(Priority.HIGH)
    decided.turn(records([attach(3), high, attach(4, 9, 5), high, high]))
    assert batches(decided, 3) == [(0, 0, [], 0), (0, 0, [2], None), (2, 1, [4, 5], None)]
    assert batches(decided, 4, 9) == [(2, 1, [], 2), (2, 1, [4, 5], None)]
    (answer, _) = decided.received[4, 9]
    assert answer.attached is not None and answer.attached.instance == 5
    assert (answer.epoch, answer.owner, answer.source, answer.partition) == ("e1", 1, 0, 0)


def test_an_attach_that_comes_again_is_answered_again() -> None:
    decided = DecidedRoom()
    decided.turn(records([attach(3), attach(3)]))
    assert batches(decided, 3) == [(0, 0, [], 0), (0, 0, [], 0)]


def test_an_attach_of_an_older_generation_is_ignored_and_counted() -> None:
    decided = DecidedRoom()
    turn = decided.turn(records([attach(3, 7), attach(3, 6)]))
    assert turn.fenced == {"attach": 1}
    assert set(decided.received) == {(3, 7)}


def test_a_slot_gets_everything_up_to_its_detach_and_nothing_after() -> None:
    decided = DecidedRoom()
    high = message(Priority.HIGH)
    decided.turn(records([attach(3), high, detach(3), high]))
    assert [entry.offset for entry in decided.entries(3)] == [2]
    assert decided.room.targets == ()


def test_a_detach_of_another_stay_is_ignored_and_counted() -> None:
    decided = DecidedRoom()
    turn = decided.turn(records([attach(3, 7), detach(3, 6), detach(4)]))
    assert turn.fenced == {"detach": 2}
    assert decided.room.targets == ((3, 7),)


def test_an_announce_that_knows_the_head_gets_no_answer() -> None:
    decided = DecidedRoom()
    decided.turn(records([attach(3), message(Priority.HIGH)]))
    announced(decided, 2, [report(head=2, subscriptions=5)])
    assert len(batches(decided, 3)) == 2
    assert decided.room.stays[3].subscriptions == 5
    assert decided.stored[-1].applied == 3


def test_an_announce_with_another_head_is_answered_with_the_position() -> None:
    decided = DecidedRoom()
    decided.turn(records([attach(3), message(Priority.HIGH)]))
    announced(decided, 2, [report(head=1, subscriptions=5)])
    assert batches(decided, 3)[-1] == (2, 1, [], 2)


def test_an_announce_in_mid_batch_is_answered_behind_what_came_before_it() -> None:
    decided = DecidedRoom()
    decided.turn(records([attach(3)]))
    turn = Turn(9, 0.0)
    decide.apply(turn, decided.ownership, decided.room, [Rec(1, message(Priority.HIGH))], PROFILES)
    said = Announce(3, 1, 0, [report(head=0)])
    decide.announce(turn, decided.ownership, decided.room, 2, said, said.rooms[0])
    decide.apply(turn, decided.ownership, decided.room, [Rec(3, message(Priority.HIGH))], PROFILES)
    decided.close(turn)
    assert batches(decided, 3)[1:] == [(0, 0, [2], None), (2, 1, [], 2), (2, 1, [4], None)]


def test_an_announce_heals_a_route_that_was_lost() -> None:
    decided = DecidedRoom()
    turn = Turn(1, 0.0)
    decide.apply(turn, decided.ownership, decided.room, [Rec(0, message(Priority.HIGH))], PROFILES)
    said = Announce(3, 1, 0, [report(head=1)])
    decide.announce(turn, decided.ownership, decided.room, 1, said, said.rooms[0])
    decide.apply(turn, decided.ownership, decided.room, [Rec(2, message(Priority.HIGH))], PROFILES)
    decided.close(turn)
    assert batches(decided, 3) == [(1, 1, [], 1), (1, 1, [3], None)]


def test_an_announce_that_says_nothing_new_costs_no_write() -> None:
    decided = DecidedRoom()
    announced(decided, 0, [report(head=0, subscriptions=1)])
    stored = len(decided.stored)
    turn = announced(decided, 1, [report(head=0, subscriptions=1)])
    assert turn.changes == []
    assert len(decided.stored) == stored
    assert decided.room.applied == 1


def test_an_announce_of_an_older_generation_is_ignored_and_counted() -> None:
    decided = DecidedRoom()
    decided.turn(records([attach(3, 7)]))
    turn = announced(decided, 1, [report()], generation=6)
    assert turn.fenced == {"announce": 1}
    assert decided.room.targets == ((3, 7),)


def test_an_announce_that_the_state_contains_does_nothing() -> None:
    decided = DecidedRoom()
    announced(decided, 4, [report(subscriptions=1)])
    turn = announced(decided, 4, [report(subscriptions=9, head=5)])
    assert turn.slots == [] and decided.room.stays[3].subscriptions == 1


# --- values and losses ---


def test_a_budget_changes_the_shared_slots_from_where_it_stands() -> None:
    decided = DecidedRoom(LIVE)
    turn = Turn(1, 0.0)
    decide.put_in_force(turn, decided.ownership, decided.room, 0, Values(5, 90_000))
    for offset in range(1, 11):
        decide.apply(turn, decided.ownership, decided.room, [Rec(offset, message())], PROFILES)
    decided.close(turn)
    assert decided.room.ledger.kept == [0, 0, 5, 0]
    assert decided.room.values.members == 90_000
    again = Turn(2, 0.0)
    decide.put_in_force(again, decided.ownership, decided.room, 0, Values(7, 1))
    assert decided.room.values.shared_slots == 5


def test_a_lost_gateway_gets_nothing_more_and_its_deliveries_are_unreported() -> None:
    decided = DecidedRoom()
    decided.turn(records([attach(3)]))
    announced(decided, 1, [report(subscriptions=4)])
    turn = Turn(5, 0.0)
    decide.apply(turn, decided.ownership, decided.room, [Rec(2, message(Priority.HIGH))], PROFILES)
    decide.expire(turn, decided.ownership, decided.room, 3, 1)
    decide.apply(turn, decided.ownership, decided.room, [Rec(3, message(Priority.HIGH))], PROFILES)
    decided.close(turn)
    assert [entry.offset for entry in decided.entries(3)] == [3]
    assert decided.room.stays[3].gone == (0, 1, 0, 0)


def test_a_loss_that_does_not_concern_the_room_leaves_no_trace() -> None:
    decided = DecidedRoom()
    decided.turn(records([attach(3)]))
    turn = Turn(5, 0.0)
    decide.expire(turn, decided.ownership, decided.room, 4, 1)
    decided.close(turn)
    assert turn.changes == []


def test_slices_of_a_turn_go_out_one_after_the_other_and_make_one_step_of_the_history() -> None:
    decided = DecidedRoom(OPEN)
    values = [attach(3), *[message(Priority.HIGH)] * 5]
    (change,) = decided.turn(records(values), slice_records=2).changes
    assert batches(decided, 3) == [(0, 0, [], 0), (0, 0, [2], None), (2, 1, [3, 4], None), (4, 3, [5, 6], None)]
    assert [entry.offset for entry in change.batch.entries] == [2, 3, 4, 5, 6]
    assert change.batch.applied == 6
    assert decided.room.loans == 1


def test_a_slice_without_messages_sends_nothing() -> None:
    decided = DecidedRoom()
    turn = Turn(1, 0.0)
    decide.cut(turn)
    assert turn.slots == []
    decided.close(turn)
    assert turn.changes == []


def test_a_turn_is_large_by_its_rooms_or_by_what_they_have_for_the_history() -> None:
    turn, loud = Turn(1, 0.0), Turn(2, 0.0)
    large = []
    for decided in (DecidedRoom() for _ in range(TURN_ROOMS_MAX)):
        large.append(turn.is_large)
        turn.draft(decided.ownership, decided.room)
    assert [*large, turn.is_large] == [False] * TURN_ROOMS_MAX + [True]
    loud.draft(decided.ownership, decided.room).stored_bytes = TURN_BYTES_MAX - 1
    assert [loud.is_large] == [False]
    loud.draft(decided.ownership, decided.room).stored_bytes += 1
    assert [loud.is_large] == [True]


class Broken:
    """A record that raises what nobody expects when its time is asked for."""

    offset = 1
    key = KEY
    value = message(Priority.HIGH)

    @property
    def timestamp(self) -> int:
        """Raise."""
        raise OverflowError("a bug of ours")


def test_a_bug_costs_the_record_that_meets_it_and_not_its_neighbours() -> None:
    decided = DecidedRoom()
    high = message(Priority.HIGH)
    turn = Turn(1, 0.0)
    decide.apply(turn, decided.ownership, decided.room, [Rec(0, high), Broken(), Rec(2, high)], PROFILES)
    assert [(one.record.offset, one.error.reason) for one in turn.parked] == [(1, "unexpected")]
    decided.close(turn)
    assert [(entry.offset, entry.prev) for entry in decided.history()] == [(1, 0), (3, 1)]
    assert decided.room.applied == 3


def test_messages_around_a_control_record_are_decided_in_their_order() -> None:
    decided = DecidedRoom()
    foreign = b'{"room":"live:stage","data":{"a":1},"priority":"high"}'
    high = message(Priority.HIGH, 7)
    decided.turn(records([high, attach(3), high, foreign, b"\x01", high, attach(4), high]))
    assert [entry.offset for entry in decided.history()] == [1, 3, 4, 6, 8]
    assert batches(decided, 3) == [(1, 1, [], 1), (1, 1, [3, 4, 6], None), (6, 4, [8], None)]
    assert batches(decided, 4) == [(6, 4, [], 6), (6, 4, [8], None)]


def test_a_turn_tells_the_store_everything_about_a_room_in_one_step() -> None:
    decided = DecidedRoom(LIVE)
    turn = decided.turn(records([attach(3), message(Priority.HIGH), message(Priority.NORMAL)], at_ms=77))
    (change,) = turn.changes
    batch = change.batch
    assert (batch.key, batch.epoch, batch.owner) == (ROOM, "e1", 1)
    assert (batch.head, batch.last, batch.n, batch.applied, batch.now_ms) == (3, 2, 1, 3, 77)
    assert batch.state == decided.room.encode()
    assert [(entry.offset, entry.kind, entry.prev) for entry in batch.entries] == [(2, 0, 0), (3, 1, 2)]
    assert (batch.reliable_max, batch.reliable_ttl_ms, batch.recent_max, batch.recent_ttl_ms) == (
        1_000,
        600_000,
        100,
        600_000,
    )
    assert decided.room.loans == 1
    assert turn.bytes == change.bytes > len(batch.state)
