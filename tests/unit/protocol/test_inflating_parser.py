"""Frames where permessage-deflate was agreed on (RFC 7692 §6): RSV1, fragments, limits, text, and frames going out."""

from __future__ import annotations

import random
import sys
import tracemalloc

import pytest

from fanout.core.limits import DEFLATE_FROM_BYTES
from fanout.protocol.deflate import deflate, inflate
from fanout.protocol.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    INVALID_DATA,
    PING,
    PONG,
    PROTOCOL_BROKEN,
    TEXT,
    TOO_BIG,
    Binary,
    Event,
    FrameParser,
    InflatingParser,
    Ping,
    Pong,
    ProtocolViolation,
    Text,
    deflated,
    frame,
    masked_frame,
)

MASK = b"\x37\xfa\x21\x3d"
RSV1 = 0x40


def raw(first: int, payload: bytes) -> bytes:
    """Return a masked frame whose first byte is given whole: FIN, reserved bits and opcode."""
    return bytes((first,)) + masked_frame(TEXT, payload, MASK)[1:]


def compressed(opcode: int, message: bytes) -> bytes:
    return raw(0x80 | RSV1 | opcode, deflate(message))


def server() -> InflatingParser:
    return InflatingParser(message_bytes_max=1_000, fragments_max=4)


def violation(events: list[Event]) -> int:
    """Return the code of the one violation that must end the events."""
    assert isinstance(events[-1], ProtocolViolation), events
    return events[-1].code


# --- in --------------------------------------------------------------------------------------------------------------


def test_hello_of_the_rfc_is_read() -> None:
    parser = InflatingParser(masked=False)
    assert parser.feed(bytes.fromhex("c107f248cdc9c90700")) == [Text(b"Hello")]


def test_fragmented_hello_of_the_rfc_is_read() -> None:
    parser = InflatingParser(masked=False)
    assert parser.feed(bytes.fromhex("4103f248cd")) == []
    assert parser.feed(bytes.fromhex("8004c9c90700")) == [Text(b"Hello")]


def test_compressed_and_plain_messages_follow_one_another() -> None:
    data = compressed(TEXT, b"one") + masked_frame(TEXT, b"two", MASK) + compressed(BINARY, b"\xff\x00")
    assert server().feed(data) == [Text(b"one"), Text(b"two"), Binary(b"\xff\x00")]


def test_plain_message_in_fragments_is_checked_as_it_comes() -> None:
    assert violation(server().feed(raw(TEXT, b"\xff"))) == INVALID_DATA


def test_pings_come_through_between_compressed_fragments() -> None:
    payload = deflate(b"hello " * 50)
    data = raw(RSV1 | TEXT, payload[:5]) + masked_frame(PING, b"?", MASK) + raw(CONTINUATION, payload[5:9])
    data += masked_frame(PONG, b"!", MASK) + raw(0x80, payload[9:]) + masked_frame(TEXT, b"next", MASK)
    assert server().feed(data) == [Ping(b"?"), Pong(b"!"), Text(b"hello " * 50), Text(b"next")]


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
def test_compressed_control_frame_breaks_the_protocol(opcode: int) -> None:
    assert violation(server().feed(raw(0x80 | RSV1 | opcode, b""))) == PROTOCOL_BROKEN


@pytest.mark.parametrize("first", [TEXT, RSV1 | TEXT])
def test_continuation_marked_as_compressed_breaks_the_protocol(first: int) -> None:
    data = raw(first, b"") + raw(0x80 | RSV1 | CONTINUATION, b"")
    assert violation(server().feed(data)) == PROTOCOL_BROKEN


@pytest.mark.parametrize("bits", [0x10, 0x20, 0x30, 0x50, 0x60])
def test_other_reserved_bits_break_the_protocol(bits: int) -> None:
    assert violation(server().feed(raw(0x80 | bits | TEXT, b"hi"))) == PROTOCOL_BROKEN


def test_without_the_extension_a_compressed_message_breaks_the_protocol() -> None:
    assert violation(FrameParser().feed(compressed(TEXT, b"hi"))) == PROTOCOL_BROKEN


def test_message_may_inflate_to_the_limit_and_not_beyond() -> None:
    assert server().feed(compressed(TEXT, b"x" * 1_000)) == [Text(b"x" * 1_000)]
    assert violation(server().feed(compressed(TEXT, b"x" * 1_001))) == TOO_BIG


def test_bomb_costs_no_more_memory_than_a_message_may_have() -> None:
    bomb = compressed(TEXT, bytes(50_000_000))
    parser = InflatingParser()
    tracemalloc.start()
    events = parser.feed(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert violation(events) == TOO_BIG
    assert peak < 1_000_000
    assert parser.feed(masked_frame(TEXT, b"late", MASK)) == []


def test_compressed_bytes_count_against_the_limit_before_they_are_kept() -> None:
    parser = server()
    assert parser.feed(raw(RSV1 | TEXT, bytes(600))) == []
    assert violation(parser.feed(raw(0x80, bytes(600))[:8])) == TOO_BIG


def test_what_is_no_deflate_data_is_invalid() -> None:
    assert violation(server().feed(raw(0x80 | RSV1 | BINARY, b"\xff\xff\xff"))) == INVALID_DATA


@pytest.mark.parametrize("text", [b"\xff", b"\xed\xa0\x80", b"ok \xe2\x82", b"\xc0\xaf"])
def test_text_is_checked_after_it_was_inflated(text: bytes) -> None:
    assert violation(server().feed(compressed(TEXT, text))) == INVALID_DATA
    assert server().feed(compressed(BINARY, text)) == [Binary(text)]


def test_parser_is_as_small_as_one_that_does_not_inflate() -> None:
    parser = server()
    parser.feed(compressed(TEXT, b"x" * 900))
    assert sys.getsizeof(parser) == sys.getsizeof(FrameParser())
    assert not hasattr(parser, "__dict__")


# --- out -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", [DEFLATE_FROM_BYTES + 1, 65_535, 70_000])
def test_large_frame_is_compressed_and_read_back(opcode: int, size: int) -> None:
    payload = (b'{"text":"hello"}' * 5_000)[:size]
    plain = frame(opcode, payload)
    small = deflated(plain)
    assert small[0] == 0x80 | RSV1 | opcode
    assert len(small) < len(plain) / 10
    parser = InflatingParser(masked=False, message_bytes_max=100_000)
    assert parser.feed(small) == [Text(payload) if opcode == TEXT else Binary(payload)]


@pytest.mark.parametrize("size", [0, 125, 126, DEFLATE_FROM_BYTES])
def test_small_frame_goes_as_it_is(size: int) -> None:
    plain = frame(TEXT, b"x" * size)
    assert deflated(plain) is plain


def test_frame_that_does_not_shrink_goes_as_it_is() -> None:
    plain = frame(BINARY, random.Random(1).randbytes(2_000))
    assert deflated(plain) is plain


def test_frames_do_not_depend_on_one_another() -> None:
    first, second = (deflated(frame(TEXT, b"the same words " * 100)) for _ in range(2))
    assert first == second
    assert inflate(first[2:], 10_000) == b"the same words " * 100
