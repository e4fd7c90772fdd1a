"""Rooms that are too large for what nobody needs there: who is degraded, what is shed, who is told."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from fanout.core import ledger
from fanout.core.messages import Priority
from fanout.core.policies import encode_policies
from fanout.core.policy import DropReason
from fanout.core.profiles import LIVE, Policy, Profiles
from fanout.core.records import (
    ANNOUNCE,
    BUDGET,
    KEYED,
    MERGE,
    MESSAGE,
    POLICY,
    TICK,
    Announce,
    Budget,
    Chunk,
    Merge,
    Message,
    PolicyChange,
    RoomBatch,
    Tick,
    body,
    encode,
)
from fanout.core.room_state import RoomState, Values
from tests.support.rooms import KEY, PROFILES, ROOM, DecidedRoom, Rec, attach, message, report
from workers import decide
from workers.budgets import changes, no_quota
from workers.partition import Partition
from workers.turn import Ownership, Turn

T = 1_800_000_000_000  # begins a window
SLOT = 3
LARGE = LIVE.policy.degrade_members
DEGRADED = encode(BUDGET, Budget({ROOM: (20, LARGE)}, [ROOM]))
AS_EVER = encode(BUDGET, Budget({ROOM: (20, 10)}))


class Story:
    """A partition whose records are told one by one, each in a turn of its own."""

    def __init__(self) -> None:
        self.partition = Partition(Ownership(0, 1, "e1"), 0, 1, Profiles())
        self.offset = 0
        self.tell(attach(SLOT))

    def tell(self, value: bytes, key: bytes | None = KEY, at_ms: int = 0) -> Turn:
        """Append a record so many ms after the first window began; return the turn that it made."""
        return self.tell_all([(value, at_ms)], key)

    def tell_all(self, values: Sequence[tuple[bytes, int]], key: bytes | None = KEY) -> Turn:
        """Append records, which come in one poll; return its turn."""
        turn = Turn(self.offset + 1, 0.0)
        records = [Rec(self.offset + place, value, key, T + at_ms) for place, (value, at_ms) in enumerate(values)]
        self.partition.take(turn, records)
        self.partition.loaded(turn, dict.fromkeys(self.partition.ask(9)), lambda _: False)
        decide.close(turn)
        assert turn.parked == []
        self.offset += len(records)
        return turn

    @property
    def room(self) -> RoomState:
        return self.partition.rooms[KEY]

    def announce(self, subscriptions: int) -> None:
        """Let the gateway say how many listen."""
        self.tell(encode(ANNOUNCE, Announce(SLOT, 1, 0, [report(subscriptions=subscriptions)])), None)

    def budget(self) -> Budget:
        """Write the Budget that is due, and return it."""
        due = changes(self.partition, no_quota)
        if due.rooms:
            self.tell(encode(BUDGET, due), None)
        return due


def told(turn: Turn) -> list[RoomBatch]:
    """Return the room batches that a turn sends to the slot."""
    return [batch for slot in turn.slots for chunk in slot.chunks for batch in body(chunk, Chunk).rooms]


@pytest.fixture
def story() -> Story:
    return Story()


def test_a_room_is_degraded_at_its_size_and_no_longer_when_it_is_a_fifth_smaller(story: Story) -> None:
    flat = Policy(room_deliveries_per_s=10**9)  # no size changes the shared slots: the flip alone is worth a record
    story.tell(encode(POLICY, PolicyChange("app", 1, encode_policies({"live": flat}))), None)
    found = []
    for members in (LARGE - 1, LARGE, LARGE - 1, LARGE * 4 // 5, LARGE * 4 // 5 - 1):
        story.announce(members)
        due = story.budget()
        found.append((due.rooms, due.degraded, story.room.degraded))
    assert found == [
        ({}, [], False),
        ({ROOM: (20, LARGE)}, [ROOM], True),
        ({}, [], True),
        ({}, [], True),
        ({ROOM: (20, LARGE * 4 // 5 - 1)}, [], False),
    ]


def test_a_room_that_stays_degraded_is_named_with_its_other_values(story: Story) -> None:
    story.announce(LARGE)
    story.budget()
    story.announce(20 * LARGE)
    assert story.budget() == Budget({ROOM: (2, 20 * LARGE)}, [ROOM])
    assert story.room.degraded


def test_where_the_policy_degrades_nobody_the_room_is_as_ever_at_once_and_by_record(story: Story) -> None:
    story.announce(LARGE)
    story.budget()
    story.tell(encode(POLICY, PolicyChange("app", 1, encode_policies({"live": Policy(degrade_members=0)}))), None)
    assert not story.room.degraded
    assert story.budget().degraded == []
    assert not story.room.values.degraded


def test_gateways_are_told_at_once_and_with_every_batch(story: Story) -> None:
    (batch,) = told(story.tell(DEGRADED, None))
    assert (batch.degraded, batch.entries, batch.attached) == (LIVE.policy.degrade_history, [], None)
    (batch,) = told(story.tell(message(Priority.HIGH)))
    assert (batch.degraded, len(batch.entries)) == (20, 1)
    (batch,) = told(story.tell(attach(SLOT, instance=2)))
    assert batch.degraded == 20 and batch.attached is not None
    assert told(story.tell(encode(BUDGET, Budget({ROOM: (9, LARGE)}, [ROOM])), None)) == []
    (batch,) = told(story.tell(AS_EVER, None))
    assert batch.degraded is None


def test_changes_are_counted(story: Story) -> None:
    assert story.tell(DEGRADED, None).rooms_degraded == 1
    assert story.tell(DEGRADED, None).rooms_degraded == 0
    assert story.tell(AS_EVER, None).rooms_degraded == 1


def test_typing_is_off_in_a_degraded_room_and_only_there(story: Story) -> None:
    for said in (AS_EVER, DEGRADED, AS_EVER):
        story.tell(said, None)
        story.tell(message(Priority.LOW, type_="typing"))
        story.tell(message(Priority.NORMAL, type_="typing"))
        story.tell(message(Priority.NORMAL, type_="chat"))
    counted = story.room.ledger
    assert counted.dropped == {"policy": {"degraded": [0, 0, 1, 1]}}
    assert counted.kept == [0, 0, 5, 2]
    assert story.room.thinned == [0, 0, 1, 1]
    assert ledger.differences(ledger.report(story.room.encode())) == []


def test_joins_of_a_degraded_room_become_one_count_for_each_window(story: Story) -> None:
    story.tell(DEGRADED, None)
    for number in range(5):
        story.tell(message(Priority.LOW, number, type_="join", data=b"%d" % number), at_ms=40 * number)
    assert story.room.ledger.merged == [0, 0, 0, 5]
    (batch,) = told(story.tell(encode(TICK, Tick()), None, at_ms=400))
    (entry,) = batch.entries
    assert (entry.data, entry.type, entry.tags) == (
        b"4",
        "join",
        {"merge_key": "join", "merge_count": "5", "merge_value": "5"},
    )
    assert ledger.differences(ledger.report(story.room.encode())) == []


def test_a_window_of_merged_joins_ends_with_the_poll_that_holds_its_end_as_well(story: Story) -> None:
    story.tell(DEGRADED, None)
    said = [message(Priority.LOW, n, type_="join") for n in range(4)]
    turn = story.tell_all([(said[0], 0), (said[1], 10), (said[2], 210), (said[3], 220)])
    (batch,) = told(turn)
    assert [entry.tags for entry in batch.entries] == [
        {"merge_key": "join", "merge_count": "2", "merge_value": "2"},
    ]


def test_a_join_of_high_is_shown_by_itself_and_one_that_asks_to_be_merged_is_merged_as_it_asks(story: Story) -> None:
    story.tell(DEGRADED, None)
    story.tell(message(Priority.HIGH, type_="join"))
    asked = Message(b"1", type="join", merge=Merge("arrivals", "latest"))
    story.tell(encode(MESSAGE, asked, priority=Priority.LOW.value, flags=MERGE))
    story.tell(message(Priority.LOW, type_="leave"))
    assert (story.room.ledger.kept, story.room.ledger.merged) == ([0, 1, 0, 0], [0, 0, 0, 2])
    (batch,) = told(story.tell(encode(TICK, Tick()), None, at_ms=400))
    assert [(entry.tags or {})["merge_key"] for entry in batch.entries] == ["arrivals", "leave"]


def test_typing_is_off_also_where_it_asks_to_be_merged(story: Story) -> None:
    story.tell(DEGRADED, None)
    typing = Message(b"1", type="typing", merge=Merge("typing", "sum"))
    story.tell(encode(MESSAGE, typing, priority=Priority.LOW.value, flags=MERGE))
    assert story.room.ledger.dropped == {"policy": {"degraded": [0, 0, 0, 1]}}
    assert story.room.folds is None


def test_a_foreign_producers_typing_and_joins_are_shed_alike(story: Story) -> None:
    story.tell(DEGRADED, None)
    for type_ in ("typing", "join", "chat"):
        story.tell(b'{"room":"live:stage","data":1,"type":"%s"}' % type_.encode())
    counted = story.room.ledger
    assert (counted.kept[2], counted.merged[2]) == (1, 1)
    assert counted.dropped == {"policy": {"degraded": [0, 0, 1, 0]}}


def test_a_room_that_is_degraded_no_longer_shows_joins_again_and_counts_those_before(story: Story) -> None:
    story.tell(DEGRADED, None)
    story.tell(message(Priority.LOW, type_="join"))
    story.tell(AS_EVER, None)
    story.tell(message(Priority.LOW, type_="join"))
    assert (story.room.ledger.kept[3], story.room.ledger.merged[3]) == (1, 1)


def test_what_is_never_dropped_is_not_dropped_for_its_type(story: Story) -> None:
    story.tell(DEGRADED, None)
    for priority in (Priority.SYSTEM, Priority.HIGH):
        story.tell(message(priority, type_="typing"))
    assert story.room.ledger.kept == [1, 1, 0, 0]


def test_what_is_off_takes_no_slot_and_a_repeat_stays_a_repeat(story: Story) -> None:
    story.tell(DEGRADED, None)
    for _ in range(2):
        story.tell(message(Priority.NORMAL, 7, type_="typing", sender="ann", flags=KEYED))
    assert story.room.thinning.shared_used == 0 and not story.room.thinning.senders
    assert story.room.ledger.dropped == {
        "policy": {"degraded": [0, 0, 1, 0]},
        "repeat": {"keyed": [0, 0, 1, 0]},
    }


def test_a_new_owner_finds_the_room_as_degraded_as_it_was() -> None:
    decided = DecidedRoom()
    turn = Turn(1, 0.0)
    decide.put_in_force(turn, decided.ownership, decided.room, 0, Values(20, LARGE, True))
    decided.close(turn)
    after = decided.crashed(1)
    assert after.room.degraded
    decide.apply(turn := Turn(2, 0.0), after.ownership, after.room, [Rec(1, message(type_="typing"))], PROFILES)
    assert turn.dropped == {(DropReason.DEGRADED, 2): 1}
