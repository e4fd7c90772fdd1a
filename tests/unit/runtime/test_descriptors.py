"""How many more clients there are descriptors for, asked seldom where there are many."""

from __future__ import annotations

import os
import resource

from fanout.core.limits import DESCRIPTORS_SPARE
from fanout.runtime.descriptors import Descriptors, free_descriptors, spared


def test_a_very_low_limit_keeps_an_eighth_from_clients() -> None:
    assert spared(20_000) == DESCRIPTORS_SPARE
    assert spared(64) == 8


def test_each_descriptor_that_is_opened_is_one_client_less() -> None:
    before = free_descriptors()
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(10)]
    try:
        assert before - free_descriptors() >= len(opened) - 1  # a hole below may have been filled first
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert free_descriptors() < limit - spared(limit)
    finally:
        for one in opened:
            os.close(one)


def test_no_client_comes_in_where_none_is_left_and_one_does_as_soon_as_there_is_room() -> None:
    free = [0]
    descriptors = Descriptors(lambda: free[0])
    assert all(descriptors.are_short() for _ in range(5))
    free[0] = 1
    assert not descriptors.are_short()


def test_a_look_is_taken_often_enough_for_none_to_come_in_beyond_the_limit() -> None:
    free, looks = 1_000, 0

    def look() -> int:
        nonlocal looks
        looks += 1
        return free

    descriptors = Descriptors(look)
    admitted = 0
    while not descriptors.are_short():
        admitted += 1
        free -= 1
    assert admitted == 1_000
    assert looks < 200
