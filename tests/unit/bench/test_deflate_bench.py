"""The corpus of the deflate bench, and what its frames weigh compressed."""

from __future__ import annotations

import hashlib
from statistics import mean, median

import pytest

from bench._chat_lines import WORDS, lines, payloads
from bench.deflate import BYTES_PER_MESSAGE_MAX, JOINED, cost, room_frames, worst_ms
from fanout.core.limits import DEFLATE_LEVEL
from fanout.core.messages import check_user

LINES = list(lines(5_000))


def test_a_seed_always_gives_the_same_lines() -> None:
    told = "\n".join(f"{line.user} {line.text}" for line in LINES[:1_000])
    assert hashlib.sha256(told.encode()).hexdigest()[:16] == "b86df6bbd59f84b1"
    assert list(lines(50)) == LINES[:50]
    assert list(lines(50, seed=1)) != LINES[:50]
    assert WORDS.stat().st_size < 200_000


def test_lines_are_as_varied_and_as_long_as_those_of_a_livestream() -> None:
    sizes = sorted(len(line.text.encode()) for line in LINES)
    assert 33 <= mean(sizes) <= 39
    assert 16 <= median(sizes) <= 20
    assert 130 <= sizes[int(len(sizes) * 0.95)] <= 170
    long = [line.text for line in LINES if len(line.text) > 12]
    assert len(set(long)) > 0.995 * len(long)
    assert len({line.user for line in LINES}) > 1_500


def test_users_and_payloads_may_be_published() -> None:
    for user, payload in payloads(300):
        assert check_user(user) == user
        assert payload.startswith(b'{"text":"') and b"\n" not in payload


@pytest.mark.parametrize("wire", [0, 1])
def test_frames_come_back_whole_and_shrink(wire: int) -> None:
    found = cost(list(room_frames(16, wire, count=8)), 16, DEFLATE_LEVEL, 1)
    assert found.is_exact
    assert found.bytes_per_message < 0.7 * found.plain_bytes_per_message


def test_a_message_takes_at_most_40_bytes_where_64_are_joined() -> None:
    assert cost(list(room_frames(JOINED, 0)), JOINED, DEFLATE_LEVEL, 1).bytes_per_message <= BYTES_PER_MESSAGE_MAX


def test_a_frame_made_to_be_slow_is_measured() -> None:
    assert worst_ms(1, 1) > 0
