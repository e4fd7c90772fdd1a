"""Room batches on the wire: joined from encoded entries, the same bytes as if they were encoded whole."""

from __future__ import annotations

import pytest

from fanout.core.profiles import LIVE
from fanout.core.records import Attached, Entry, RoomBatch, decode_body, encode_body
from fanout.core.room_state import RoomState
from workers.room_batch import room_batch
from workers.turn import Ownership

ROOM = RoomState.fresh("app/live:a", LIVE, 4)


def entries(count: int) -> list[Entry]:
    return [Entry(offset, 0, 0, 2, offset - 1, offset, 7, 8, 9, b"{}", "ann", "chat") for offset in range(5, 5 + count)]


@pytest.mark.parametrize("count", [0, 1, 15, 16, 40, 65_535, 65_536])
def test_any_number_of_entries_is_read_as_it_was_written(count: int) -> None:
    due = entries(count)
    raw = room_batch(Ownership(3, 11, "e1"), ROOM, 4, 2, [encode_body(entry) for entry in due])
    batch = decode_body(raw, RoomBatch)
    assert (batch.key, batch.source, batch.partition, batch.owner, batch.epoch) == ("app/live:a", 0, 3, 11, "e1")
    assert (batch.prev, batch.n, batch.attached, batch.sessions) == (4, 2, None, None)
    assert batch.entries == due


@pytest.mark.parametrize("count", [0, 1, 15, 16, 40, 65_535, 65_536])
def test_the_bytes_are_those_of_the_struct(count: int) -> None:
    due = entries(count)
    raw = room_batch(Ownership(3, 11, "e1"), ROOM, 4, 2, [encode_body(entry) for entry in due])
    assert raw == encode_body(RoomBatch("app/live:a", 0, 3, 11, "e1", 4, 2, due))


def test_an_answer_says_where_the_room_stands() -> None:
    batch = decode_body(room_batch(Ownership(3, 11, "e1"), ROOM, 4, 0, (), 5), RoomBatch)
    assert batch.attached == Attached(5, 4, 4, 4, 0)
