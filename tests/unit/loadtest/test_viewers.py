"""What a viewer makes of a frame; sockets are met in ``tests/integration/test_load_smoke.py``."""

from __future__ import annotations

import msgspec
import pytest

from loadtest.viewers import Digest, digest


def push(at: float, offset: int = 0) -> bytes:
    pub = {"data": {"at": at, "i": 1}} | ({"offset": offset} if offset else {})
    return msgspec.json.encode({"push": {"channel": "live:1", "pub": pub}})


def test_a_joined_frame_is_read_publication_by_publication() -> None:
    payload = b"\n".join([push(1.0, 5), push(2.0), push(3.0, 9)])
    assert digest(payload) == Digest(at_ms=(1.0, 2.0, 3.0), first=5, last=9, doubled=0, disordered=0, pings=0)


def test_offsets_that_stand_still_or_step_back_inside_a_frame_are_counted() -> None:
    payload = b"\n".join([push(1.0, 5), push(1.0, 5), push(1.0, 4), push(1.0, 6)])
    found = digest(payload)
    assert (found.doubled, found.disordered, found.last) == (1, 1, 6)


def test_pings_and_other_pushes_are_no_deliveries() -> None:
    payload = b'{}\n{"push":{"channel":"live:1","unsubscribe":{"code":2500,"reason":"x"}}}'
    found = digest(payload)
    assert (found.at_ms, found.pings) == ((), 1)


def test_what_is_no_json_is_an_error() -> None:
    with pytest.raises(msgspec.DecodeError):
        digest(b"nonsense")
