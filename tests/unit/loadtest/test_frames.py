from __future__ import annotations

import pytest

from fanout.protocol.websocket import TEXT
from loadtest import frames


def server_frame(payload: bytes, opcode: int = frames.TEXT) -> bytes:
    length = len(payload)
    if length < 126:
        return bytes((0x80 | opcode, length)) + payload
    if length < 65_536:
        return bytes((0x80 | opcode, 126)) + length.to_bytes(2, "big") + payload
    return bytes((0x80 | opcode, 127)) + length.to_bytes(8, "big") + payload


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
def test_a_frame_of_any_length_form_is_read(size: int) -> None:
    payload = b"x" * size
    assert frames.split(server_frame(payload)) == ([(frames.TEXT, payload)], b"")


def test_what_is_not_whole_is_left_for_the_next_read() -> None:
    both = server_frame(b"one") + server_frame(b"two" * 100)
    for cut in range(len(both)):
        first, rest = frames.split(both[:cut])
        second, left = frames.split(rest + both[cut:])
        assert first + second == [(frames.TEXT, b"one"), (frames.TEXT, b"two" * 100)]
        assert left == b""


def test_a_masked_or_fragmented_frame_from_a_server_is_unreadable() -> None:
    with pytest.raises(frames.Unreadable):
        frames.split(frames.from_client(frames.TEXT, b"x"))
    with pytest.raises(frames.Unreadable):
        frames.split(b"\x01\x01x")


@pytest.mark.parametrize("size", [0, 125, 126, 70_000])
def test_a_clients_frame_is_masked_and_carries_its_length(size: int) -> None:
    frame = frames.from_client(frames.TEXT, b"y" * size)
    assert frame[1] & 0x80
    head = len(frame) - size - 4
    unmasked = bytes((frame[0], frame[1] & 0x7F)) + frame[2:head] + frame[head + 4 :]
    assert frames.split(unmasked) == ([(frames.TEXT, b"y" * size)], b"")


def test_opcodes_are_those_of_the_engines_own_protocol() -> None:
    assert frames.TEXT == TEXT


def test_a_close_frame_tells_its_code() -> None:
    assert frames.close_code((3001).to_bytes(2, "big") + b"shutdown") == 3001
    assert frames.close_code(b"") == 1005
