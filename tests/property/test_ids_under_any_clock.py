"""Whatever clocks and parents do, ids of a node rise and replies stand above their parents."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fanout.core.errors import OutOfIds
from fanout.core.ids import (
    AHEAD_MS_MAX,
    BORROW_MS_MAX,
    EPOCH_MS,
    ID_MAX,
    IdGenerator,
    foreign_id,
    is_foreign,
    restart_ms,
    time_of,
)

NOW = EPOCH_MS + 90_000_000_000

steps = st.lists(
    st.tuples(st.integers(-12_000, 12_000), st.none() | st.integers(-120_000, AHEAD_MS_MAX), st.integers(1, 300)),
    max_size=30,
)


@given(steps, st.integers(0, 1_023))
def test_ids_rise_and_stand_above_their_parents_or_none_is_given(
    moves: list[tuple[int, int | None, int]], node: int
) -> None:
    ids, wall_ms, last, ahead_ms = IdGenerator(node), NOW, 0, NOW
    for move_ms, parent_ms, messages in moves:
        wall_ms += move_ms
        ahead_ms = max(ahead_ms, wall_ms)
        parent = 0
        if parent_ms is not None:
            parent = IdGenerator(1_023 - node).next(wall_ms + parent_ms)
            ahead_ms = max(ahead_ms, time_of(parent) + 1)
        for _ in range(messages):
            try:
                new = ids.next(wall_ms, parent)
            except OutOfIds:
                break
            assert last < new <= ID_MAX
            assert new > parent
            last = new
    assert not last or time_of(last) <= ahead_ms + sum(abs(move) for move, _, _ in moves) + BORROW_MS_MAX


@given(steps, steps)
def test_a_successor_on_a_node_never_gives_an_id_of_its_predecessor(
    before: list[tuple[int, int | None, int]], after: list[tuple[int, int | None, int]]
) -> None:
    given_before: set[int] = set()
    ids, wall_ms = IdGenerator(7), NOW
    for moves, given_ids in ((before, given_before), (after, set[int]())):
        if given_ids is not given_before:
            ids = IdGenerator(7, start_ms=restart_ms(wall_ms, ids.last_ms))
        for move_ms, _, messages in moves:
            wall_ms += move_ms
            for _ in range(messages):
                try:
                    given_ids.add(ids.next(wall_ms))
                except OutOfIds:
                    break
        assert given_ids is given_before or not given_ids & given_before


@given(st.integers(0, 1 << 40), st.integers(0, 63), st.integers(0, 1 << 50), st.integers(0, ID_MAX >> 1))
def test_foreign_ids_are_told_apart_and_stand_above_their_parents(
    at_ms: int, partition: int, offset: int, parent: int
) -> None:
    id = foreign_id(EPOCH_MS + at_ms, partition, offset, parent)
    assert is_foreign(id)
    assert id > parent
    assert id != foreign_id(EPOCH_MS + at_ms, partition, offset + 1, parent)
