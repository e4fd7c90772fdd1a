"""Chunks against the list of what was put in: nothing lost, a room's order kept, bounds held, however it is cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fanout.core.limits import CHUNK_SESSIONS_MAX
from fanout.core.records import HEADER_BYTES, Chunk, Entry, RoomBatch, body, encode_body
from fanout.core.room_state import Target, shared_targets
from workers.chunks import ChunkBuilder

BYTES_MAX = 400
FRAME_BYTES = 10

targets = st.sets(st.tuples(st.integers(0, 3), st.integers(1, 2)), max_size=4).map(
    lambda some: shared_targets(tuple(sorted(some)))
)
added = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c"]), targets, st.integers(0, 150), st.integers(0, CHUNK_SESSIONS_MAX)),
    max_size=40,
)


@given(added)
def test_every_target_gets_every_batch_once_and_each_room_in_order(
    batches: list[tuple[str, tuple[Target, ...], int, int]],
) -> None:
    chunks = ChunkBuilder(BYTES_MAX)
    due: dict[tuple[Target, str], list[int]] = {}
    named_by_number = {}
    for number, (room, where, size, named) in enumerate(batches):
        entry = Entry(number, 0, 0, 2, 0, 0, 0, 0, 0, b"x" * size)
        chunks.add(room, where, encode_body(RoomBatch(room, 0, 0, 1, "e", 0, 0, [entry])), named)
        named_by_number[number] = named
        for target in where:
            due.setdefault((target, room), []).append(number)
    got: dict[tuple[Target, str], list[int]] = {}
    for slot in chunks.build():
        for chunk in slot.chunks:
            rooms = body(chunk, Chunk).rooms
            assert len(rooms) == 1 or len(chunk) <= BYTES_MAX + HEADER_BYTES + FRAME_BYTES
            numbers = [decoded.entries[0].offset for decoded in rooms]
            assert len(rooms) == 1 or sum(named_by_number[number] for number in numbers) <= CHUNK_SESSIONS_MAX
            for decoded, number in zip(rooms, numbers, strict=True):
                got.setdefault(((slot.slot, slot.generation), decoded.key), []).append(number)
    assert got == due
