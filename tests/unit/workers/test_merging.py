"""Merged messages in the worker: what is sent when, in which order, with which fate in the ledger."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fanout.core import ledger
from fanout.core.messages import Priority
from fanout.core.records import KEYED, TICK, Tick, decode_body, encode
from fanout.core.room_state import StoredState
from tests.support.partitions import GROUP, LIVE, OTHER, DecidedPartition, merged
from tests.support.rooms import Rec, attach, message

T = 1_800_000_000_000  # begins a window
TICK_RECORD = encode(TICK, Tick())


class Story:
    """A partition whose records are told one by one."""

    def __init__(self) -> None:
        self.owner = DecidedPartition()
        self.offset = 0
        for key in (LIVE, GROUP, OTHER):
            self.tell(key, attach(3))

    def tell(self, key: bytes | None, value: bytes, at_ms: int = 0) -> None:
        """Append a record so many ms after the first window began, in a turn of its own."""
        self.owner.run([Rec(self.offset, value, key, T + at_ms)])
        self.offset += 1

    def sent(self, key: bytes = LIVE) -> list[tuple[int, int, bytes]]:
        """Return (position, part, data) of a room's publications."""
        return [(entry.offset, entry.part, entry.data) for entry in self.owner.entries(key)]

    def ledger(self, key: bytes = LIVE) -> dict[str, Any]:
        """Return a room's ledger; it adds up."""
        report = ledger.report(self.owner.partition.rooms[key].encode())
        assert ledger.differences(report) == []
        return report


@pytest.fixture
def story() -> Story:
    return Story()


def test_a_fold_is_sent_with_the_position_of_the_record_that_ended_its_window(story: Story) -> None:
    for number in range(4):
        story.tell(LIVE, merged(value=2, id_=number, data=b"%d" % number, sender="ann"), 50 * number)
    assert story.sent() == []
    story.tell(OTHER, message(Priority.HIGH), 200)
    (entry,) = story.owner.entries(LIVE)
    assert (entry.offset, entry.part, entry.kind, entry.priority) == (8, 0, 2, 3)
    assert (entry.data, entry.sender, entry.id) == (b"3", "ann", 3)
    assert entry.tags == {"merge_key": "likes", "merge_count": "4", "merge_value": "8"}


def test_nothing_is_stored_of_it_and_no_position_of_the_room_moves(story: Story) -> None:
    story.tell(LIVE, merged())
    story.tell(None, TICK_RECORD, 400)
    room = story.owner.partition.rooms[LIVE]
    assert (room.head, room.last, room.n) == (0, 0, 0)
    assert all(change.batch.entries == [] for _, change in story.owner.changes)
    assert len(story.sent()) == 1


def test_a_record_that_ends_its_own_rooms_window_comes_after_the_folds(story: Story) -> None:
    story.tell(LIVE, merged("a", data=b"1"))
    story.tell(LIVE, merged("b", data=b"2"))
    story.tell(LIVE, message(Priority.HIGH, data=b"3"), 200)
    story.tell(LIVE, message(Priority.HIGH, data=b"4"), 200)
    assert story.sent() == [(6, 0, b"1"), (6, 1, b"2"), (6, 2, b"3"), (7, 0, b"4")]


def test_a_merged_record_may_end_the_window_before_its_own(story: Story) -> None:
    story.tell(LIVE, merged(data=b"1"))
    story.tell(LIVE, merged(data=b"2"), 200)
    story.tell(LIVE, merged(data=b"3"), 399)
    story.tell(None, TICK_RECORD, 400)
    assert story.sent() == [(5, 0, b"1"), (7, 0, b"3")]


@pytest.mark.parametrize("value", [b"", b"\x01", TICK_RECORD, b"{", attach(4), message()])
def test_any_record_ends_a_window_whatever_it_says(story: Story, value: bytes) -> None:
    story.tell(LIVE, merged())
    story.tell(OTHER, value, 199)
    assert story.sent() == []
    story.tell(OTHER, value, 200)
    assert [place for place, *_ in story.sent()] == [6]


def test_time_that_steps_back_ends_nothing_and_the_fold_goes_on(story: Story) -> None:
    story.tell(LIVE, merged())
    story.tell(OTHER, message(), -300)
    story.tell(LIVE, merged(), -250)
    assert story.sent() == []
    story.tell(OTHER, message(), 300)
    (entry,) = story.owner.entries(LIVE)
    assert entry.tags is not None and entry.tags["merge_count"] == "2"


def test_merged_messages_are_counted_accepted_and_merged_and_the_publication_apart(story: Story) -> None:
    for _ in range(30):
        story.tell(LIVE, merged())
    story.tell(LIVE, message(Priority.NORMAL))
    story.tell(None, TICK_RECORD, 400)
    found = story.ledger()
    assert (found["accepted"]["low"], found["merged"]["low"], found["folds"]["low"]) == (30, 30, 1)
    assert (found["kept"]["low"], found["kept"]["normal"]) == (0, 1)


def test_a_keyed_repeat_is_dropped_before_it_is_folded(story: Story) -> None:
    for id_ in (7, 8, 7):
        story.tell(LIVE, merged(id_=id_, flags=KEYED))
    story.tell(None, TICK_RECORD, 400)
    (entry,) = story.owner.entries(LIVE)
    assert entry.tags is not None and entry.tags["merge_count"] == "2"
    found = story.ledger()
    assert found["merged"]["low"] == 2
    assert found["dropped"]["repeat"]["keyed"]["low"] == 1


def test_where_chat_has_taken_the_slots_of_likes_the_likes_are_dropped_by_policy(story: Story) -> None:
    for number in range(10):
        story.tell(LIVE, message(Priority.NORMAL, sender=f"user-{number}"))
    story.tell(LIVE, merged())
    found = story.ledger()
    assert found["dropped"]["policy"]["window_full"]["low"] == 1
    assert story.owner.partition.rooms[LIVE].folds is None


def test_likes_of_one_sender_are_all_folded(story: Story) -> None:
    for _ in range(10):
        story.tell(LIVE, merged(sender="ann"))
    assert story.ledger()["merged"]["low"] == 10


def test_a_group_folds_without_slots_up_to_the_bound_and_says_what_it_dropped(story: Story) -> None:
    for number in range(40):
        story.tell(GROUP, merged(f"key-{number}"))
    story.tell(None, TICK_RECORD, 400)
    found = story.ledger(GROUP)
    assert (found["merged"]["low"], found["folds"]["low"]) == (32, 32)
    assert found["dropped"]["merge"]["folds_full"]["low"] == 8


def test_a_room_without_routes_folds_and_counts_all_the_same() -> None:
    owner = DecidedPartition()
    owner.run([Rec(0, merged(), LIVE, T), Rec(1, merged(), LIVE, T), Rec(2, TICK_RECORD, None, T + 400)])
    report = ledger.report(owner.partition.rooms[LIVE].encode())
    assert (report["merged"]["low"], report["folds"]["low"]) == (2, 1)
    assert owner.received == {}


def test_what_a_foreign_producer_merges_is_folded_with_the_rest(story: Story) -> None:
    body = b'{"room":"live:stage","data":5,"priority":"low","merge":{"key":"likes","op":"sum","value":4}}'
    story.tell(LIVE, merged())
    story.tell(LIVE, body)
    story.tell(None, TICK_RECORD, 400)
    (entry,) = story.owner.entries(LIVE)
    assert entry.data == b"5"
    assert entry.tags == {"merge_key": "likes", "merge_count": "2", "merge_value": "5"}


def test_until_a_fold_is_sent_and_stored_its_records_are_not_finished(story: Story) -> None:
    owner = story.owner
    owner.store(len(owner.changes))
    assert owner.partition.commits.next_offset == 3
    story.tell(LIVE, merged())
    story.tell(GROUP, message())
    owner.store(len(owner.changes))
    assert owner.partition.commits.next_offset == 3
    story.tell(None, TICK_RECORD, 400)
    assert owner.partition.commits.next_offset == 3
    owner.store(len(owner.changes))
    assert owner.partition.commits.next_offset == 6


def test_what_a_turn_folds_on_is_stored_with_it(story: Story) -> None:
    owner = story.owner
    for likes in (1, 2, 3):
        story.tell(LIVE, merged())
        owner.store(len(owner.changes))
        state = decode_body(owner.metas[LIVE].state, StoredState)
        assert [fold.count for fold in state.folds] == [likes]
        assert owner.metas[LIVE].applied == story.offset


def test_a_room_with_open_folds_is_not_forgotten(story: Story) -> None:
    story.tell(LIVE, merged())
    story.owner.store(len(story.owner.changes))
    assert story.owner.partition.forget(10, before_turn=1_000) == 2
    assert set(story.owner.partition.rooms) == {LIVE}


def test_the_state_of_a_room_without_open_folds_is_as_small_as_before() -> None:
    owner = DecidedPartition()
    owner.run([Rec(0, message(Priority.HIGH), LIVE, T)])
    assert msgspec.msgpack.decode(owner.partition.rooms[LIVE].encode())[4] == []


def test_folds_that_do_not_fit_behind_what_a_turn_has_said_begin_a_new_room_batch(story: Story) -> None:
    long = b'"' + b"x" * 30_000 + b'"'
    said = [merged("a", data=long), *[message(data=long)] * 8, merged("b", data=b"1")]
    log = [Rec(3 + number, value, GROUP, T) for number, value in enumerate(said)]
    turn = story.owner.take([*log, Rec(13, message(data=b"2"), GROUP, T + 200)])
    assert [(part, data == long) for _, part, data in story.sent(GROUP)][8:] == [(0, True), (1, False), (2, False)]
    assert turn.parked == []
