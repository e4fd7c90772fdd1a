"""Sealed cursors: they open for their room and time, and for nothing else."""

from __future__ import annotations

import base64

import pytest

from fanout.core.errors import BAD_REQUEST, Refused
from sharding.paging import Cursor, seal, unseal

KEY = b"k" * 32
ROOM = "shop/group:a"
CURSOR = Cursor(7, "ann")


def refused(text: str, *, room: str = ROOM, key: bytes = KEY, now_ms: int = 0) -> str:
    with pytest.raises(Refused) as caught:
        unseal(key, room, text, now_ms)
    assert caught.value.problem is BAD_REQUEST
    return caught.value.detail


def test_a_sealed_cursor_opens_to_the_same_place() -> None:
    assert unseal(KEY, ROOM, seal(KEY, ROOM, CURSOR, 1_000), 999) == CURSOR


def test_a_cursor_with_any_bit_flipped_is_refused() -> None:
    text = seal(KEY, ROOM, CURSOR, 1_000)
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    for bit in range(len(raw) * 8):
        altered = bytearray(raw)
        altered[bit // 8] ^= 1 << bit % 8
        refused(base64.urlsafe_b64encode(altered).rstrip(b"=").decode())


def test_a_cursor_with_any_character_replaced_is_refused() -> None:
    text = seal(KEY, ROOM, CURSOR, 1_000)
    for at in range(len(text)):
        for other in "A_-z=+/ü\n":
            if text[at] != other:
                refused(text[:at] + other + text[at + 1 :])


def test_a_cursor_is_of_one_room_one_key_and_one_hour() -> None:
    text = seal(KEY, ROOM, CURSOR, 1_000)
    assert "room" in refused(text, room="shop/group:b")
    assert "room" in refused(text, key=b"x" * 32)
    assert "out of date" in refused(text, now_ms=1_000)


@pytest.mark.parametrize("text", ["", "A", "x" * 513, "=" * 8, "é"])
def test_what_is_no_cursor_is_refused(text: str) -> None:
    refused(text)
