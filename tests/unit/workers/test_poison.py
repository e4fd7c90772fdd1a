"""Records that a broken or hostile producer puts on the log: parked with their place, in nobody's way."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from fanout.core.limits import CHUNK_BYTES_MAX, RECORD_BYTES_MAX
from fanout.core.messages import Priority
from fanout.core.profiles import Profiles
from fanout.core.records import (
    ANNOUNCE,
    ATTACH,
    DETACH,
    HEADER_BYTES,
    MESSAGE,
    Announce,
    Attach,
    Detach,
    Message,
    RoomReport,
    encode,
)
from fanout.ports import LogRecord
from sharding.placement import partition_of
from tests.support.rooms import Rec, attach, message, report
from workers import decide
from workers.partition import Partition
from workers.turn import Ownership, Turn

PARTITIONS = 4
HIGH = message(Priority.HIGH)
ROOM = next(key for key in (b"app/live:%d" % room for room in range(60)) if partition_of(key, PARTITIONS) == 2)


def nested() -> bytes:
    """Return a message with a place that no version knows, nested deeper than any reader goes."""
    places = msgspec.msgpack.encode(Message(b"1"))
    return HIGH[:HEADER_BYTES] + bytes([places[0] + 1]) + places[1:] + b"\x91" * 100_000 + b"\x90"


def counted(offered: int, subscriptions: int = 1) -> RoomReport:
    counts = [offered, 0, 0, 0]
    return report(key=ROOM.decode(), subscriptions=subscriptions, offered=counts, written=counts)


POISON = {
    "nested": nested(),
    "a type as long as a record": encode(MESSAGE, Message(b"1", type="x" * (RECORD_BYTES_MAX - 200)), priority=1),
    "tags as long as a chunk": encode(MESSAGE, Message(b"1", tags={"a": "x" * CHUNK_BYTES_MAX}), priority=1),
    "a generation below zero": encode(ATTACH, Attach(1, -1, 1)),
    "a generation beyond its header": encode(ATTACH, Attach(1, (1 << 64) - 1, 1)),
    "counts that nobody can add up": encode(DETACH, Detach(1, 1, 1, counted((1 << 64) - 1))),
    "more subscriptions than a gateway holds": encode(DETACH, Detach(1, 1, 1, counted(1, 1 << 62))),
}
KEYLESS_POISON = {
    "a generation below zero": encode(ANNOUNCE, Announce(1, -1, 0, [counted(1)])),
    "counts that nobody can add up": encode(ANNOUNCE, Announce(1, 1, 0, [counted((1 << 63) + 1)])),
}


def decided(records: Sequence[LogRecord]) -> tuple[Partition, Turn]:
    """Decide about records of a room that is in memory and attached to a slot; return what came of them."""
    partition = Partition(Ownership(2, 1, "e1"), 0, PARTITIONS, Profiles())
    first = Turn(1, 5.0)
    partition.take(first, [Rec(0, attach(1), key=ROOM)])
    decide.close(first)
    loaded = Turn(2, 5.0)
    partition.loaded(loaded, dict.fromkeys(partition.ask(100)), lambda target: False)
    decide.close(loaded)
    turn = Turn(3, 5.0)
    partition.take(turn, records)
    decide.close(turn)
    return partition, turn


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON.keys())
def test_a_poison_record_is_parked_and_its_neighbours_are_published(poison: bytes) -> None:
    partition, turn = decided([Rec(1, HIGH, key=ROOM), Rec(2, poison, key=ROOM), Rec(3, HIGH, key=ROOM)])
    assert [one.record.offset for one in turn.parked] == [2]
    assert partition.rooms[ROOM].ledger.kept == [0, 2, 0, 0]
    assert partition.rooms[ROOM].last == 4
    assert all(len(chunk) <= CHUNK_BYTES_MAX for slot in turn.slots for chunk in slot.chunks)


@pytest.mark.parametrize("poison", KEYLESS_POISON.values(), ids=KEYLESS_POISON.keys())
def test_a_poison_announce_is_parked_and_leaves_the_room_alone(poison: bytes) -> None:
    partition, turn = decided([Rec(1, poison, key=None), Rec(2, HIGH, key=ROOM)])
    assert [one.record.offset for one in turn.parked] == [1]
    assert partition.rooms[ROOM].targets == ((1, 1),)
    assert partition.rooms[ROOM].last == 3


def test_a_room_that_is_still_being_loaded_parks_its_poison_too() -> None:
    partition = Partition(Ownership(2, 1, "e1"), 0, PARTITIONS, Profiles())
    partition.take(Turn(1, 5.0), [Rec(0, nested(), key=ROOM), Rec(1, HIGH, key=ROOM)])
    turn = Turn(2, 5.0)
    partition.loaded(turn, dict.fromkeys(partition.ask(100)), lambda target: False)
    assert [one.record.offset for one in turn.parked] == [0]
    assert partition.rooms[ROOM].last == 2
