"""One owned partition: records of rooms that are here, that are being loaded, and that are none."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from fanout.core.messages import Priority
from fanout.core.policies import encode_policies
from fanout.core.profiles import Policy, Profiles
from fanout.core.records import (
    ANNOUNCE,
    BUDGET,
    POLICY,
    TICK,
    Announce,
    Budget,
    Chunk,
    PolicyChange,
    RoomReport,
    body,
    encode,
)
from fanout.core.room_state import RoomState, Target
from fanout.ports import LogRecord, RoomMeta
from sharding.placement import partition_of
from tests.support.rooms import Rec, attach, message, report
from workers import decide
from workers.partition import Partition, Start, where_to_start
from workers.turn import Ownership, Turn

PARTITIONS = 4
HIGH = message(Priority.HIGH)


def keys_of(number: int) -> list[bytes]:
    return [key for key in (b"app/live:%d" % room for room in range(60)) if partition_of(key, PARTITIONS) == number]


A, B, C = keys_of(2)[:3]
STRANGER = keys_of(1)[0]


@pytest.fixture
def partition() -> Partition:
    return Partition(Ownership(2, 1, "e1"), 10, PARTITIONS, Profiles())


def take(partition: Partition, records: Sequence[LogRecord], number: int = 1) -> Turn:
    turn = Turn(number, 5.0)
    partition.take(turn, records)
    decide.close(turn)
    return turn


def load(partition: Partition, metas: dict[bytes, RoomMeta | None], gone: Target = (-1, -1), number: int = 2) -> Turn:
    turn = Turn(number, 5.0)
    asked = set(partition.ask(100))
    assert asked == set(metas)
    partition.loaded(turn, metas, lambda target: target == gone)
    decide.close(turn)
    return turn


def meta(state: bytes = b"", *, applied: int = 0, head: int = 0) -> RoomMeta:
    return RoomMeta("e1", head, head, 0, 7, applied, 1, state)


def reasons(turn: Turn) -> list[str]:
    return [poison.error.reason for poison in turn.parked]


@pytest.mark.parametrize(
    ("committed", "earliest", "end", "start"),
    [
        (None, 0, 10, Start(0, 0)),
        (None, 5, 10, Start(5, 0)),
        (7, 0, 10, Start(7, 0)),
        (10, 0, 10, Start(10, 0)),
        (3, 5, 10, Start(5, 2)),
        (12, 0, 10, Start(0, 2)),
    ],
)
def test_a_take_over_begins_at_the_commit_or_at_what_there_is(
    committed: int | None, earliest: int, end: int, start: Start
) -> None:
    assert where_to_start(committed, earliest, end) == start


@pytest.mark.parametrize(
    ("committed", "stored", "start"),
    [
        (7, 7, Start(7, 0)),
        (7, 9, Start(7, 0)),
        (7, 6, Start(6, 0)),
        (7, 3, Start(5, 2)),
        (7, None, Start(7, 0)),
        (12, 6, Start(5, 2)),
    ],
)
def test_a_take_over_begins_where_the_store_stands_when_that_is_below_the_commit(
    committed: int, stored: int | None, start: Start
) -> None:
    assert where_to_start(committed, 5, 10, stored) == start


def test_records_of_rooms_that_are_not_here_are_held_and_not_finished(partition: Partition) -> None:
    turn = take(partition, [Rec(10, HIGH, A), Rec(11, HIGH, B), Rec(12, HIGH, A)])
    assert turn.changes == []
    assert sorted(partition.held) == sorted([A, B])
    assert partition.held_bytes > 0
    for commits, ticket in turn.tickets:
        commits.finish(ticket)
    assert partition.commits.next_offset == 10
    after = load(partition, {A: None, B: None})
    assert [change.batch.applied for change in after.changes] == [13, 12]
    assert partition.held == {} and partition.held_bytes == 0
    for commits, ticket in after.tickets:
        commits.finish(ticket)
    assert partition.commits.next_offset == 13


def test_a_room_that_comes_during_its_load_keeps_its_order(partition: Partition) -> None:
    first = take(partition, [Rec(10, HIGH, A)])
    assert partition.ask(100) == [A]
    second = take(partition, [Rec(11, HIGH, A), Rec(12, HIGH, A)], 2)
    assert partition.ask(100) == []
    turn = Turn(3, 5.0)
    partition.loaded(turn, {A: None}, lambda _: False)
    decide.close(turn)
    third = take(partition, [Rec(13, HIGH, A)], 4)
    offsets = [entry.offset for change in (*turn.changes, *third.changes) for entry in change.batch.entries]
    assert offsets == [11, 12, 13, 14]
    for commits, ticket in (*third.tickets, *turn.tickets, *second.tickets, *first.tickets):
        commits.finish(ticket)
    assert partition.commits.next_offset == 14


def test_rooms_are_asked_for_in_the_order_of_their_wait_and_again_after_a_failure(partition: Partition) -> None:
    take(partition, [Rec(10, HIGH, A), Rec(11, HIGH, B), Rec(12, HIGH, C)])
    assert partition.ask(2) == [A, B]
    partition.ask_again([A, B])
    assert partition.ask(9) == [A, B, C]


def test_a_room_goes_on_from_its_stored_state_and_skips_what_it_contains(partition: Partition) -> None:
    stored = RoomState.fresh(A.decode(), Profiles().of("live:0"), 0)
    stored.attach(3, 1, 1)
    stored.attach(4, 1, 1)
    take(partition, [Rec(10, HIGH, A), Rec(11, HIGH, A)])
    turn = load(partition, {A: meta(stored.encode(), applied=11, head=9)}, gone=(4, 1))
    (change,) = turn.changes
    assert [(entry.offset, entry.prev) for entry in change.batch.entries] == [(12, 9)]
    assert change.batch.n == 8
    assert [(slot.slot, slot.generation) for slot in turn.slots] == [(3, 1)]


def test_unreadable_state_costs_the_counts_and_not_the_room(partition: Partition) -> None:
    take(partition, [Rec(10, HIGH, A)])
    turn = load(partition, {A: meta(b"\xc1", applied=10, head=9)})
    assert [(entry.offset, entry.prev) for change in turn.changes for entry in change.batch.entries] == [(11, 9)]


def test_poison_is_parked_and_its_neighbours_go_on(partition: Partition) -> None:
    take(partition, [Rec(10, HIGH, A)])
    load(partition, {A: None})
    turn = take(partition, [Rec(11, b"\x01", A), Rec(12, HIGH, A)], 3)
    assert [(one.partition, one.record.offset, one.error.reason) for one in turn.parked] == [(2, 11, "short_header")]
    assert [entry.offset for change in turn.changes for entry in change.batch.entries] == [13]


def test_poison_of_a_room_that_is_being_loaded_is_parked_too(partition: Partition) -> None:
    take(partition, [Rec(10, b"\x01", A), Rec(11, HIGH, A)])
    turn = load(partition, {A: None})
    assert reasons(turn) == ["short_header"]
    assert [entry.offset for change in turn.changes for entry in change.batch.entries] == [12]


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (STRANGER, "wrong_partition"),
        (next(key for key in (b"app/nope:%d" % n for n in range(99)) if partition_of(key, 4) == 2), "bad_key"),
        (next(key for key in (b"\xff/live:%d" % n for n in range(99)) if partition_of(key, 4) == 2), "bad_key"),
        (next(key for key in (b"app/#u%d" % n for n in range(99)) if partition_of(key, 4) == 2), "bad_key"),
        (next(key for key in (b"App/live:%d" % n for n in range(99)) if partition_of(key, 4) == 2), "bad_key"),
        (next(key for key in (b"live:%d" % n for n in range(99)) if partition_of(key, 4) == 2), "bad_key"),
    ],
)
def test_keys_that_name_no_room_of_this_partition_are_parked(partition: Partition, key: bytes, reason: str) -> None:
    turn = take(partition, [Rec(10, HIGH, key)])
    assert reasons(turn) == [reason]
    assert partition.held == {}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "no_value"),
        (b"\x01", "short_header"),
        (HIGH, "no_key"),
        (attach(1), "no_key"),
        (encode(ANNOUNCE, Announce(256, 1, 0, [])), "bad_slot"),
        (encode(ANNOUNCE, Announce(1, 1, 0, [report(offered=[1])])), "bad_report"),
        (encode(ANNOUNCE, Announce(1, 1, 0, []))[:-1], "undecodable"),
    ],
)
def test_records_without_key_that_say_nothing_are_parked(
    partition: Partition, value: bytes | None, reason: str
) -> None:
    assert reasons(take(partition, [Rec(10, value, None)])) == [reason]


def announce(*rooms: RoomReport) -> bytes:
    return encode(ANNOUNCE, Announce(3, 1, 0, list(rooms)))


def test_an_announce_concerns_rooms_that_are_here_and_rooms_that_are_not(partition: Partition) -> None:
    take(partition, [Rec(10, attach(3), A)])
    load(partition, {A: None})
    both = announce(report(key=A.decode(), subscriptions=4, head=10), report(key=B.decode(), subscriptions=5, head=1))
    turn = take(partition, [Rec(11, both, None)], 3)
    assert partition.rooms[A].stays[3].subscriptions == 4
    assert [change.batch.key for change in turn.changes] == [A.decode()]
    after = load(partition, {B: None}, number=4)
    assert partition.rooms[B].stays[3].subscriptions == 5
    assert [slot.slot for slot in after.slots] == [3]


def test_of_an_announce_with_a_room_of_another_partition_the_rest_counts(partition: Partition) -> None:
    both = announce(report(key=STRANGER.decode()), report(key=B.decode()))
    turn = take(partition, [Rec(10, both, None)])
    assert reasons(turn) == ["wrong_partition"]
    assert list(partition.held) == [B]


def test_an_announce_stands_between_the_records_of_its_rooms(partition: Partition) -> None:
    take(partition, [Rec(10, attach(3), A), Rec(11, attach(3), B)])
    load(partition, {A: None, B: None})
    both = announce(report(key=A.decode(), head=10), report(key=B.decode(), head=11))
    turn = take(
        partition, [Rec(12, HIGH, B), Rec(13, HIGH, A), Rec(14, both, None), Rec(15, HIGH, A), Rec(16, HIGH, B)], 3
    )
    (slot,) = turn.slots
    batches = [room for chunk in slot.chunks for room in body(chunk, Chunk).rooms]
    for key, first, second in ((A, 14, 16), (B, 13, 17)):
        mine = [batch for batch in batches if batch.key == key.decode()]
        assert [[entry.offset for entry in batch.entries] for batch in mine] == [[first], [], [second]]
        assert mine[1].attached is not None and mine[1].attached.head == first


def test_a_budget_concerns_its_rooms_and_a_tick_nobody(partition: Partition) -> None:
    take(partition, [Rec(10, attach(3), A)])
    load(partition, {A: None})
    value = encode(BUDGET, Budget({A.decode(): (5, 1_000), B.decode(): (6, 2_000)}))
    turn = take(partition, [Rec(11, value, None), Rec(12, encode(TICK, Budget({})), None)], 3)
    load(partition, {B: None}, number=4)
    assert [partition.rooms[key].shared_slots for key in (A, B)] == [5, 6]
    assert turn.parked == []


def policy(version: int, most: int, app: str = "app") -> bytes:
    policies = encode_policies({"live": Policy(shared_slots_min=0, shared_slots_max=most)})
    return encode(POLICY, PolicyChange(app, version, policies))


def test_a_policy_concerns_the_rooms_of_its_app_that_are_here_and_the_next_owner_is_told(partition: Partition) -> None:
    take(partition, [Rec(10, attach(3), A)])
    load(partition, {A: None})
    turn = take(partition, [Rec(11, policy(7, 3), None), Rec(12, policy(9, 4, "other"), None)], 3)
    assert partition.rooms[A].shared_slots == 3
    assert [(at.app, at.offset, at.version) for _, at in turn.policies] == [("app", 11, 7), ("other", 12, 9)]
    assert [ownership for ownership, _ in turn.policies] == [partition.ownership] * 2
    assert turn.changes == [] and turn.parked == []
    take(partition, [Rec(13, attach(3), B)])
    load(partition, {B: None}, number=4)
    assert partition.rooms[B].shared_slots == 3


def test_a_policy_that_is_not_newer_changes_nothing(partition: Partition) -> None:
    take(partition, [Rec(10, attach(3), A)])
    load(partition, {A: None})
    turn = take(partition, [Rec(11, policy(7, 3), None), Rec(12, policy(7, 4), None), Rec(13, policy(6, 5), None)], 3)
    assert partition.rooms[A].shared_slots == 3
    assert [at.version for _, at in turn.policies] == [7]


def test_a_policy_acts_in_a_room_that_is_being_loaded_from_its_place_on(partition: Partition) -> None:
    before = [Rec(10 + number, message(), A) for number in range(8)]
    after = [Rec(19 + number, message(), A, timestamp=1_000_200) for number in range(8)]
    take(partition, [*before, Rec(18, policy(7, 3), None), *after])
    (change,) = load(partition, {A: None}).changes
    assert [entry.offset for entry in change.batch.entries] == [*range(11, 19), *range(20, 23)]


def test_a_policy_that_nobody_can_be_thinned_by_is_parked(partition: Partition) -> None:
    bad = PolicyChange("app", 7, b'{"live":{"shared_slots_max":-1}}')
    turn = take(partition, [Rec(10, encode(POLICY, bad), None)])
    assert reasons(turn) == ["bad_policy"]
    assert turn.policies == [] and partition.policies.version("app") == 0


def test_a_lost_gateway_is_expired_in_the_rooms_that_are_still_here(partition: Partition) -> None:
    take(partition, [Rec(10, attach(3), A), Rec(11, attach(4), B)])
    load(partition, {A: None, B: None})
    turn = Turn(3, 0.0)
    partition.expire(turn, [A, B, C], 3, 1)
    decide.close(turn)
    assert [change.batch.key for change in turn.changes] == [A.decode()]
    assert partition.rooms[A].targets == ()
    assert partition.rooms[B].targets == ((4, 1),)


def test_records_polled_twice_are_taken_once(partition: Partition) -> None:
    assert partition.due([Rec(8, HIGH, A), Rec(9, HIGH, A), Rec(10, HIGH, A)]) == [Rec(10, HIGH, A)]
    records = [Rec(10, HIGH, A)]
    assert partition.due(records) is records


def test_missing_records_are_asked_for_again_before_they_count_as_a_gap(partition: Partition) -> None:
    later = [Rec(15, HIGH, A)]
    assert partition.due(later) is None
    assert partition.due(later) == later
    take(partition, later)
    assert partition.next_offset == 16
    assert partition.due([Rec(20, HIGH, A)]) is None


def test_idle_rooms_are_forgotten_and_busy_or_unsaved_ones_stay(partition: Partition) -> None:
    take(partition, [Rec(10, HIGH, A), Rec(11, HIGH, B), Rec(12, HIGH, C)])
    load(partition, {A: None, B: None, C: None})
    for key in (A, C):
        partition.rooms[key].loans = 0
    partition.rooms[C].touched = 50
    assert partition.forget(5, before_turn=40) == 1
    assert set(partition.rooms) == {B, C}


def test_no_more_rooms_are_forgotten_than_asked_for(partition: Partition) -> None:
    take(partition, [Rec(10, HIGH, A), Rec(11, HIGH, B), Rec(12, HIGH, C)])
    load(partition, {A: None, B: None, C: None})
    for room in partition.rooms.values():
        room.loans = 0
    assert partition.forget(1, before_turn=40) == 1
    assert len(partition.rooms) == 2
