"""Chunks: encoded once, shared by slots, cut at their bounds, a room's batches in order."""

from __future__ import annotations

import pytest

from fanout.core.limits import CHUNK_BYTES_MAX, CHUNK_SESSIONS_MAX
from fanout.core.records import CHUNK, Chunk, Entry, RoomBatch, body, encode_body, header
from fanout.core.room_state import Target, shared_targets
from workers.chunks import ROOM_BATCH_BYTES_MAX, ChunkBuilder

ONE: tuple[Target, ...] = shared_targets(((3, 70),))
BOTH: tuple[Target, ...] = shared_targets(((3, 70), (200, 80)))


def batch(room: str, number: int = 0, size: int = 10) -> bytes:
    entry = Entry(number, 0, 0, 2, 0, 0, 0, 0, 0, b"x" * size)
    return encode_body(RoomBatch(room, 0, 0, 1, "e", 0, 0, [entry]))


def built(chunks: ChunkBuilder) -> dict[Target, list[list[tuple[str, int]]]]:
    """Return (room, offset) by chunk and by target."""
    found = {}
    for slot in chunks.build():
        decoded = []
        for chunk in slot.chunks:
            said = header(chunk)
            assert (said.kind, said.id) == (CHUNK, slot.generation)
            content = body(chunk, Chunk)
            assert content.slot == slot.slot
            decoded.append([(room.key, room.entries[0].offset) for room in content.rooms])
        found[slot.slot, slot.generation] = decoded
    return found


def test_no_batches_make_no_chunks() -> None:
    assert ChunkBuilder().build() == []


def test_every_target_gets_the_batch_in_a_chunk_of_its_own() -> None:
    chunks = ChunkBuilder()
    chunks.add("a", BOTH, batch("a", 1))
    assert built(chunks) == {(3, 70): [[("a", 1)]], (200, 80): [[("a", 1)]]}


def test_rooms_of_one_turn_share_a_chunk() -> None:
    chunks = ChunkBuilder()
    chunks.add("a", BOTH, batch("a", 1))
    chunks.add("b", BOTH, batch("b", 2))
    chunks.add("c", ONE, batch("c", 3))
    found = built(chunks)
    assert found[3, 70] == [[("a", 1), ("b", 2), ("c", 3)]]
    assert found[200, 80] == [[("a", 1), ("b", 2)]]


def test_a_room_whose_targets_change_keeps_its_order_for_every_slot() -> None:
    chunks = ChunkBuilder()
    chunks.add("z", BOTH, batch("z", 1))  # the group exists before room a comes to it
    chunks.add("a", ONE, batch("a", 2))
    chunks.add("a", BOTH, batch("a", 3))
    chunks.add("a", ONE, batch("a", 4))
    order = [offset for chunk in built(chunks)[3, 70] for room, offset in chunk if room == "a"]
    assert order == [2, 3, 4]


def test_a_slot_taken_by_a_new_generation_gets_both_chunks_apart() -> None:
    chunks = ChunkBuilder()
    chunks.add("a", ((3, 70),), batch("a", 1))
    chunks.add("b", ((3, 71),), batch("b", 2))
    assert built(chunks) == {(3, 70): [[("a", 1)]], (3, 71): [[("b", 2)]]}


def test_a_chunk_is_cut_before_it_passes_its_bytes() -> None:
    chunks = ChunkBuilder()
    for number in range(40):
        chunks.add("a", ONE, batch("a", number, 30_000))
    (slot,) = chunks.build()
    assert len(slot.chunks) == 5
    assert all(len(chunk) <= CHUNK_BYTES_MAX for chunk in slot.chunks)
    offsets = [room.entries[0].offset for chunk in slot.chunks for room in body(chunk, Chunk).rooms]
    assert offsets == list(range(40))


def test_the_largest_room_batch_fits_into_a_chunk() -> None:
    chunks = ChunkBuilder()
    chunks.add("a", ONE, batch("a" * 161, 1, ROOM_BATCH_BYTES_MAX))
    (slot,) = chunks.build()
    assert len(slot.chunks[0]) <= CHUNK_BYTES_MAX


def test_batches_of_different_groups_are_cut_in_the_slot_where_they_meet() -> None:
    chunks = ChunkBuilder()
    chunks.add("a", ONE, batch("a", 1, 150_000))
    chunks.add("b", BOTH, batch("b", 2, 150_000))
    assert built(chunks) == {(3, 70): [[("a", 1)], [("b", 2)]], (200, 80): [[("b", 2)]]}


@pytest.mark.parametrize("targets", [ONE, BOTH])
def test_a_chunk_is_cut_before_it_names_too_many_sessions(targets: tuple[Target, ...]) -> None:
    chunks = ChunkBuilder()
    for number in range(3):
        chunks.add("a", targets, batch("a", number), named=CHUNK_SESSIONS_MAX // 2)
    assert built(chunks)[3, 70] == [[("a", 0), ("a", 1)], [("a", 2)]]


def test_named_sessions_of_different_groups_are_cut_where_they_meet() -> None:
    chunks = ChunkBuilder()
    chunks.add("a", ONE, batch("a", 1), named=CHUNK_SESSIONS_MAX)
    chunks.add("b", BOTH, batch("b", 2), named=1)
    assert built(chunks)[3, 70] == [[("a", 1)], [("b", 2)]]


def test_a_batch_larger_than_a_chunk_stands_alone() -> None:
    chunks = ChunkBuilder(bytes_max=100)
    for number, size in enumerate((10, 300, 10)):
        chunks.add("a", ONE, batch("a", number, size))
    assert built(chunks)[3, 70] == [[("a", 0)], [("a", 1)], [("a", 2)]]


def test_the_first_batch_may_be_larger_than_a_chunk() -> None:
    chunks = ChunkBuilder(bytes_max=100)
    chunks.add("a", ONE, batch("a", 1, 300))
    assert built(chunks)[3, 70] == [[("a", 1)]]
