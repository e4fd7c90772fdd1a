"""What is too late for a live room: who is skipped, what is counted, and that nothing else changes."""

from __future__ import annotations

import msgspec
import pytest

from fanout.core import ledger
from fanout.core.messages import Priority
from fanout.core.policy import DropReason
from fanout.core.profiles import GROUP, LIVE, OPEN, Policy, Profile
from fanout.core.records import BINARY, HEADER_BYTES, KEYED, MERGE, TRACKED
from tests.support.rooms import DecidedRoom, Rec, attach, message, records
from workers.turn import Turn

AT_MS = 1_790_000_000_000
STALLED_MS = AT_MS + 60_000
HIGH, NORMAL, LOW, SYSTEM = Priority.HIGH, Priority.NORMAL, Priority.LOW, Priority.SYSTEM


def decided(values: list[bytes], *, now_ms: int = STALLED_MS, profile: Profile = LIVE) -> tuple[DecidedRoom, Turn]:
    room = DecidedRoom(profile)
    turn = room.turn(records([attach(3), *values], at_ms=AT_MS), now_ms=now_ms)
    return room, turn


def test_after_a_stall_high_comes_and_chat_and_likes_are_counted_as_late() -> None:
    values = [message(priority, 1) for priority in (LOW, HIGH, NORMAL, SYSTEM, LOW, HIGH, NORMAL, LOW)]
    room, turn = decided(values)
    assert [entry.priority for entry in room.entries(3)] == [HIGH.value, SYSTEM.value, HIGH.value]
    assert room.room.ledger.accepted == [1, 2, 2, 3]
    assert room.room.ledger.kept == turn.kept == [1, 2, 0, 0]
    assert room.room.ledger.dropped == {"late": {"too_old": [0, 0, 2, 3]}}
    assert turn.dropped == {(DropReason.LATE, NORMAL.value): 2, (DropReason.LATE, LOW.value): 3}
    assert ledger.differences(ledger.report(room.room.encode())) == []
    assert room.stored[-1].applied == room.room.applied == len(values) + 1


@pytest.mark.parametrize(
    ("age_ms", "late"),
    [(0, []), (2_000, []), (2_001, [LOW]), (10_000, [LOW]), (10_001, [NORMAL, LOW]), (3_600_000, [NORMAL, LOW])],
)
def test_each_class_is_late_beyond_its_own_age(age_ms: int, late: list[Priority]) -> None:
    room, _ = decided([message(priority) for priority in Priority], now_ms=AT_MS + age_ms)
    assert room.room.ledger.kept == [int(priority not in late) for priority in Priority]


@pytest.mark.parametrize("now_ms", [AT_MS - 1, AT_MS - 3_600_000, 0])
def test_a_wall_clock_behind_the_brokers_drops_nothing(now_ms: int) -> None:
    room, _ = decided([message(LOW), message(NORMAL)], now_ms=now_ms)
    assert room.room.ledger.kept == [0, 0, 1, 1]


@pytest.mark.parametrize("profile", [GROUP, OPEN])
def test_rooms_that_are_not_thinned_lose_nothing_to_a_stall(profile: Profile) -> None:
    room, _ = decided([message(NORMAL), message(LOW)], profile=profile)
    assert room.room.ledger.kept == [0, 0, 1, 1]


def test_a_policy_may_say_that_nothing_is_ever_late() -> None:
    never = msgspec.structs.replace(LIVE, policy=Policy(late_low_ms=0, late_normal_ms=0))
    room, _ = decided([message(NORMAL), message(LOW)], profile=never)
    assert room.room.ledger.kept == [0, 0, 1, 1]


@pytest.mark.parametrize("flags", [0, BINARY, MERGE, MERGE | BINARY])
def test_what_is_late_is_not_decoded(flags: int) -> None:
    room, turn = decided([message(NORMAL, flags=flags)[:HEADER_BYTES] + b"\xc1"])
    assert turn.parked == []
    assert room.room.ledger.dropped == {"late": {"too_old": [0, 0, 1, 0]}}


def test_what_is_late_leaves_the_record_clock_and_the_windows_alone() -> None:
    room, _ = decided([message(NORMAL, sender="ann")] * 5)
    fresh = DecidedRoom()
    assert room.room.thinning == fresh.room.thinning
    assert (room.room.head, room.room.last, room.room.n) == (0, 0, 0)


def test_a_turn_of_late_messages_alone_moves_the_room_on() -> None:
    room = DecidedRoom()
    (change,) = room.turn(records([message(LOW)] * 7, at_ms=AT_MS), now_ms=STALLED_MS).changes
    assert change.batch.applied == room.room.applied == 7
    again = room.turn(records([message(LOW)] * 7, at_ms=AT_MS), now_ms=STALLED_MS)
    assert again.changes == []
    assert room.room.ledger.accepted == [0, 0, 0, 7]


def test_records_behind_late_ones_are_applied_although_the_room_has_come_further() -> None:
    values = [message(HIGH, 1), message(LOW, 2), attach(4), message(LOW, 3), message(HIGH, 4), message(LOW, 5)]
    room, _ = decided(values)
    assert [entry.id for entry in room.entries(3)] == [1, 4]
    assert [entry.id for entry in room.entries(4)] == [4]
    assert room.room.applied == 7


def test_a_record_that_the_state_contains_is_not_counted_again_as_late() -> None:
    room = DecidedRoom()
    log = records([message(NORMAL)] * 3, at_ms=AT_MS)
    room.turn(log, now_ms=AT_MS)
    room.turn([*log, Rec(3, message(NORMAL), timestamp=AT_MS)], now_ms=STALLED_MS)
    assert room.room.ledger.kept == [0, 0, 3, 0]
    assert room.room.ledger.dropped == {"late": {"too_old": [0, 0, 1, 0]}}


def test_a_late_message_with_a_key_is_noted_so_that_its_repeat_is_one() -> None:
    room = DecidedRoom()
    keyed = message(NORMAL, 9, flags=KEYED)
    log = [Rec(0, keyed, timestamp=AT_MS), Rec(1, keyed, timestamp=STALLED_MS), Rec(2, keyed, timestamp=AT_MS)]
    room.turn(log, now_ms=STALLED_MS)
    assert room.room.ledger.dropped == {"late": {"too_old": [0, 0, 1, 0]}, "repeat": {"keyed": [0, 0, 2, 0]}}
    assert [(one.id, one.offset) for one in room.stored[0].keyed] == [(9, 1)]


def test_a_late_message_whose_outcome_is_asked_for_is_late_like_others() -> None:
    room, _ = decided([message(NORMAL, flags=TRACKED), message(HIGH, flags=TRACKED)])
    assert room.room.ledger.dropped == {"late": {"too_old": [0, 0, 1, 0]}}
    assert room.room.ledger.kept == [0, 1, 0, 0]


def test_a_foreign_record_is_late_by_the_class_that_it_says() -> None:
    body = b'{"room":"live:stage","data":1,"priority":"%s"}'
    room, turn = decided([body % b"low", body % b"normal", body % b"high"])
    assert room.room.ledger.dropped == {"late": {"too_old": [0, 0, 1, 1]}}
    assert room.room.ledger.kept == [0, 1, 0, 0]
    assert turn.parked == []


def test_a_young_record_before_an_old_one_saves_only_itself() -> None:
    """The broker's clock may step back when a partition's leader changes."""
    room = DecidedRoom()
    log = [Rec(0, message(LOW), timestamp=STALLED_MS), Rec(1, message(LOW), timestamp=AT_MS)]
    room.turn(log, now_ms=STALLED_MS)
    assert room.room.ledger.kept == [0, 0, 0, 1]
    assert room.room.ledger.dropped == {"late": {"too_old": [0, 0, 0, 1]}}


def test_bytes_that_are_no_record_are_parked_from_a_backlog_too() -> None:
    _, turn = decided([message(NORMAL), b"", b"\x01\x01\x02", message(HIGH)[:-2]])
    assert [one.error.reason for one in turn.parked] == ["short_header", "short_header", "undecodable"]
