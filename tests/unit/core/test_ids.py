"""Message ids: layout, order, borrowing, clocks that go back, parents, and foreign records."""

from __future__ import annotations

import pytest

from fanout.core.errors import OutOfIds
from fanout.core.ids import (
    AHEAD_MS_MAX,
    BORROW_MS_MAX,
    DRIFT_MS_MAX,
    EPOCH_MS,
    ID_MAX,
    MS_MAX,
    IdGenerator,
    foreign_id,
    is_ahead,
    is_foreign,
    restart_ms,
    time_of,
)

NOW = EPOCH_MS + 90_000_000_000


def test_the_places_of_an_id_are_those_of_the_design() -> None:
    id = IdGenerator(node=1_023, cluster=15).next(EPOCH_MS + 1)
    assert id == 1 << 22 | 0 << 21 | 15 << 17 | 1_023 << 7 | 0
    assert time_of(id) == EPOCH_MS + 1
    assert not is_foreign(id)


def test_the_counter_rises_within_a_millisecond_and_begins_anew_in_the_next() -> None:
    ids = IdGenerator(node=5)
    first, second, third = ids.next(NOW), ids.next(NOW), ids.next(NOW + 1)
    assert second == first + 1
    assert time_of(third) == NOW + 1
    assert third & 127 == 0


def test_a_full_counter_borrows_fifty_milliseconds_and_then_says_so() -> None:
    ids = IdGenerator(node=1)
    given = [ids.next(NOW) for _ in range(128 * (BORROW_MS_MAX + 1))]
    assert given == sorted(set(given))
    assert time_of(given[-1]) == NOW + BORROW_MS_MAX
    with pytest.raises(OutOfIds, match="128 ids a ms"):
        ids.next(NOW)
    assert ids.next(NOW + 1) > given[-1]


def test_the_last_time_is_kept_when_the_wall_clock_goes_back() -> None:
    ids = IdGenerator(node=1)
    before = ids.next(NOW)
    after = ids.next(NOW - 5_000)
    assert after > before
    assert time_of(after) == NOW


def test_a_clock_that_went_back_does_not_stop_ids_before_it_has_caught_up() -> None:
    ids = IdGenerator(node=1)
    last = ids.next(NOW)
    for ms in range(9_000):
        for _ in range(100):
            new = ids.next(NOW - 9_000 + ms)
            assert new > last
            last = new


def test_a_wall_clock_that_is_far_behind_gives_no_ids_until_it_is_near_again() -> None:
    ids = IdGenerator(node=1)
    last = ids.next(NOW)
    with pytest.raises(OutOfIds, match="went back"):
        ids.next(NOW - DRIFT_MS_MAX - 1)
    with pytest.raises(OutOfIds, match="went back"):
        ids.next(NOW - DRIFT_MS_MAX - 1)
    assert ids.next(NOW + 1) > last


def test_many_small_steps_back_count_together() -> None:
    ids = IdGenerator(node=1)
    ids.next(NOW)
    with pytest.raises(OutOfIds, match="went back"):
        for step in range(12):
            ids.next(NOW - step * 1_000)


def test_a_reply_is_greater_than_its_parent_even_when_the_parent_is_from_the_future() -> None:
    parent = IdGenerator(node=1_023).next(NOW + AHEAD_MS_MAX)
    reply = IdGenerator(node=0).next(NOW, parent)
    assert reply > parent


def test_after_a_parent_from_the_future_ids_go_on_above_it_at_full_rate() -> None:
    ids = IdGenerator(node=0)
    last = ids.next(NOW, IdGenerator(node=1).next(NOW + 30_000))
    for ms in range(1_000):
        for _ in range(110):
            new = ids.next(NOW + ms)
            assert new > last
            last = new


def test_the_lead_over_the_wall_clock_melts() -> None:
    ids = IdGenerator(node=0)
    ids.next(NOW, IdGenerator(node=1).next(NOW + 1_000))
    for ms in range(0, 20_000, 10):
        ids.next(NOW + ms)
    assert time_of(ids.next(NOW + 20_000)) == NOW + 20_000


def test_an_id_from_outside_is_ahead_only_beyond_a_minute() -> None:
    assert not is_ahead(IdGenerator(node=0).next(NOW + AHEAD_MS_MAX), NOW)
    assert is_ahead(IdGenerator(node=0).next(NOW + AHEAD_MS_MAX + 1), NOW)


def test_a_generator_begins_at_its_start_even_when_the_clock_is_behind() -> None:
    assert time_of(IdGenerator(node=0, start_ms=NOW + 700).next(NOW)) == NOW + 700


def test_a_restart_is_a_second_above_the_high_water_or_at_the_clock() -> None:
    assert restart_ms(NOW, NOW - 5_000) == NOW
    assert restart_ms(NOW, NOW + 1) == NOW + 1_001


def test_no_id_is_given_beyond_what_has_been_reserved() -> None:
    ids = IdGenerator(node=0, reserved_ms=NOW + 10)
    ids.next(NOW + 10)
    with pytest.raises(OutOfIds, match="reserved"):
        ids.next(NOW + 11)
    ids.reserved_ms = NOW + 20
    assert time_of(ids.next(NOW + 11)) == NOW + 11


def test_the_last_time_is_the_high_water_of_the_node() -> None:
    ids = IdGenerator(node=0)
    ids.next(NOW)
    assert ids.last_ms == NOW


@pytest.mark.parametrize(("node", "cluster"), [(-1, 0), (1_024, 0), (0, -1), (0, 16)])
def test_a_node_or_cluster_that_has_no_place_is_refused(node: int, cluster: int) -> None:
    with pytest.raises(ValueError, match="must be in"):
        IdGenerator(node, cluster)


def test_a_foreign_id_holds_time_partition_and_the_low_bits_of_the_log_offset() -> None:
    id = foreign_id(NOW, partition=63, offset=(5 << 15) + 7)
    assert is_foreign(id)
    assert time_of(id) == NOW
    assert id & ((1 << 21) - 1) == 63 << 15 | 7


def test_a_foreign_id_is_greater_than_its_parent() -> None:
    parent = IdGenerator(node=9).next(NOW + 5_000)
    assert foreign_id(NOW, 0, 0, parent) > parent
    assert time_of(foreign_id(NOW + 9_000, 0, 0, parent)) == NOW + 9_000


def test_a_foreign_record_of_before_the_epoch_or_of_the_far_future_still_gets_an_id() -> None:
    assert foreign_id(0, 1, 1) == 1 << 21 | 1 << 15 | 1
    assert foreign_id(EPOCH_MS + 2 * MS_MAX, 0, 0) <= ID_MAX
