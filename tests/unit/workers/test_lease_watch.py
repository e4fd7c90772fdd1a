"""A gateway is lost only after the store itself has said so for long enough."""

from __future__ import annotations

from fanout.ports import Lease
from workers.lease_watch import LeaseWatch


def leases(*held: tuple[int, int]) -> dict[int, Lease]:
    return {slot: Lease("slots", slot, generation, "h", "a", 0) for slot, generation in held}


def polls(watch: LeaseWatch, table: dict[int, Lease], *, start_s: float, seconds: int) -> list[tuple[int, int]]:
    return [lost for second in range(seconds) for lost in watch.answered(table, start_s + second)]


def test_a_lease_that_is_held_is_never_lost() -> None:
    watch = LeaseWatch()
    watch.note([(3, 7)])
    assert polls(watch, leases((3, 7)), start_s=0, seconds=100) == []
    assert not watch.is_gone((3, 7))


def test_a_missing_lease_is_lost_after_fifteen_seconds_of_answers() -> None:
    watch = LeaseWatch()
    watch.note([(3, 7)])
    assert polls(watch, {}, start_s=0, seconds=15) == []
    assert polls(watch, {}, start_s=15, seconds=1) == [(3, 7)]
    assert watch.is_gone((3, 7))
    assert watch.is_gone((3, 6))
    assert not watch.is_gone((3, 8))
    assert polls(watch, {}, start_s=16, seconds=100) == []


def test_a_slot_leased_by_somebody_else_counts_as_missing() -> None:
    watch = LeaseWatch()
    watch.note([(3, 7)])
    assert polls(watch, leases((3, 8)), start_s=0, seconds=16) == [(3, 7)]


def test_a_lease_that_comes_back_in_time_starts_anew() -> None:
    watch = LeaseWatch()
    watch.note([(3, 7)])
    polls(watch, {}, start_s=0, seconds=14)
    polls(watch, leases((3, 7)), start_s=14, seconds=1)
    assert polls(watch, {}, start_s=15, seconds=14) == []


def test_time_without_answers_does_not_count() -> None:
    watch = LeaseWatch()
    watch.note([(3, 7)])
    for second in range(0, 1_000, 10):
        assert watch.answered({}, second) == []
        watch.unanswered()


def test_a_long_silence_between_two_answers_counts_for_two_seconds() -> None:
    watch = LeaseWatch()
    watch.note([(3, 7)])
    found = [watch.answered({}, second) for second in range(0, 90, 10)]
    assert found[7:] == [[], [(3, 7)]]


def test_noting_a_known_route_again_does_not_start_anew() -> None:
    watch = LeaseWatch()
    watch.note([(3, 7)])
    polls(watch, {}, start_s=0, seconds=15)
    watch.note([(3, 7)])
    assert polls(watch, {}, start_s=15, seconds=1) == [(3, 7)]


def test_a_lost_generation_that_is_leased_again_is_not_lost_any_more() -> None:
    watch = LeaseWatch()
    watch.note([(3, 7)])
    polls(watch, {}, start_s=0, seconds=16)
    watch.answered(leases((3, 7)), 16)
    assert not watch.is_gone((3, 7))


def test_of_two_lost_generations_the_newer_one_counts() -> None:
    watch = LeaseWatch()
    watch.note([(3, 8), (3, 7)])
    assert sorted(polls(watch, leases((4, 1)), start_s=0, seconds=16)) == [(3, 7), (3, 8)]
    assert watch.is_gone((3, 8))
