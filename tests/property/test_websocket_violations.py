"""Every way to break RFC 6455, after any valid beginning and however the bytes are cut: one code, and silence after it.

What is valid is in ``test_websocket_bytes``; here each violation of PROTOCOL §12 is made on purpose. FAULTS 38, 39, 40.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    ProtocolViolation,
    Text,
    masked_frame,
)

BYTES_MAX, FRAGMENTS_MAX = 1_000, 5
DATA = st.sampled_from([TEXT, BINARY])
CONTROL = st.sampled_from([CLOSE, PING, PONG])
MASKS = st.binary(min_size=4, max_size=4)
BAD_TEXT = st.sampled_from(
    [
        b"\xff",
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xf8\x88\x80\x80\x80",
        b"\x80",
        b"\xe2\x82",
        b"\xc3(",
    ]
)
BAD_CODES = st.sampled_from([0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535])


def changed(frame: bytes, *, clear: int = 0, set_: int = 0) -> bytes:
    """Return a frame with other bits in its first byte."""
    return bytes((frame[0] & ~clear & 0xFF | set_,)) + frame[1:]


def header(opcode: int, short: int, extended: bytes = b"") -> bytes:
    return bytes((0x80 | opcode, 0x80 | short)) + extended


def data_frame(inside: bool) -> st.SearchStrategy[bytes]:
    """A frame that would be valid there."""
    opcode = st.just(CONTINUATION) if inside else DATA
    return st.builds(masked_frame, opcode, st.just(b"ab"), MASKS)


def long_forms(opcode: int) -> st.SearchStrategy[bytes]:
    short = st.integers(0, 125).map(lambda size: header(opcode, 126, size.to_bytes(2)))
    middle = st.integers(0, 65_535).map(lambda size: header(opcode, 127, size.to_bytes(8)))
    top_bit = st.integers(1 << 63, (1 << 64) - 1).map(lambda size: header(opcode, 127, size.to_bytes(8)))
    return st.one_of(short, middle, top_bit).map(lambda head: head + b"mask")


def too_big(opcode: int) -> st.SearchStrategy[bytes]:
    middle = st.integers(BYTES_MAX + 1, 65_535).map(lambda size: header(opcode, 126, size.to_bytes(2)))
    large = st.integers(65_536, (1 << 63) - 1).map(lambda size: header(opcode, 127, size.to_bytes(8)))
    return st.one_of(middle, large).map(lambda head: head + b"mask")


def violations(inside: bool) -> dict[str, tuple[st.SearchStrategy[bytes], int]]:
    """Return by name: bytes that break the protocol there, and the code."""
    opcode = CONTINUATION if inside else BINARY
    wrong_start = DATA if inside else st.just(CONTINUATION)
    any_frame = st.one_of(data_frame(inside), st.builds(masked_frame, CONTROL, st.just(b""), MASKS))
    first = TEXT if not inside else CONTINUATION
    fragments = st.builds(lambda mask: changed(masked_frame(CONTINUATION, b"", mask), clear=0x80), MASKS)
    start = b"" if inside else changed(masked_frame(BINARY, b"", b"mask"), clear=0x80)
    return {
        "no mask": (any_frame.map(lambda frame: frame[:1] + bytes((frame[1] & 0x7F,)) + frame[6:]), PROTOCOL_BROKEN),
        "RSV2": (any_frame.map(lambda frame: changed(frame, set_=0x20)), PROTOCOL_BROKEN),
        "RSV3": (any_frame.map(lambda frame: changed(frame, set_=0x10)), PROTOCOL_BROKEN),
        "RSV1 on a control frame": (
            st.builds(masked_frame, CONTROL, st.just(b""), MASKS).map(lambda frame: changed(frame, set_=0x40)),
            PROTOCOL_BROKEN,
        ),
        "RSV1 on a continuation": (
            st.builds(masked_frame, st.just(CONTINUATION), st.just(b"x"), MASKS).map(
                lambda one: changed(one, set_=0x40)
            ),
            PROTOCOL_BROKEN,
        ),
        "an unknown opcode": (
            st.builds(masked_frame, st.sampled_from([3, 4, 5, 6, 7, 11, 12, 13, 14, 15]), st.just(b""), MASKS),
            PROTOCOL_BROKEN,
        ),
        "a control frame in fragments": (
            st.builds(masked_frame, CONTROL, st.just(b""), MASKS).map(lambda frame: changed(frame, clear=0x80)),
            PROTOCOL_BROKEN,
        ),
        "a long control frame": (
            st.builds(masked_frame, CONTROL, st.binary(min_size=126, max_size=300), MASKS),
            PROTOCOL_BROKEN,
        ),
        "a frame in the wrong place": (st.builds(masked_frame, wrong_start, st.just(b"x"), MASKS), PROTOCOL_BROKEN),
        "a length that is not the shortest": (long_forms(opcode), PROTOCOL_BROKEN),
        "a size above the cap": (too_big(opcode), TOO_BIG),
        "fragments without end": (
            st.lists(fragments, min_size=FRAGMENTS_MAX, max_size=40).map(lambda more: start + b"".join(more)),
            TOO_BIG,
        ),
        "a text that is not UTF-8": (
            st.builds(lambda bad, mask: masked_frame(first, b"ok" + bad, mask), BAD_TEXT, MASKS),
            INVALID_DATA,
        ),
        "a close of one byte": (st.builds(masked_frame, st.just(CLOSE), st.just(b"\x03"), MASKS), PROTOCOL_BROKEN),
        "a close code that is none": (
            st.builds(lambda code, mask: masked_frame(CLOSE, code.to_bytes(2), mask), BAD_CODES, MASKS),
            PROTOCOL_BROKEN,
        ),
        "a close reason that is not UTF-8": (
            st.builds(lambda bad, mask: masked_frame(CLOSE, b"\x03\xe8" + bad, mask), BAD_TEXT, MASKS),
            INVALID_DATA,
        ),
    }


@st.composite
def beginnings(draw: st.DrawFn) -> tuple[bytes, list[Event]]:
    """Some valid messages and controls."""
    data, events = b"", list[Event]()
    for kind in draw(st.lists(st.sampled_from(["text", "binary", "ping", "empty"]), max_size=3)):
        payload = b"" if kind == "empty" else draw(st.binary(max_size=20)) if kind == "binary" else "sé€".encode()
        opcode = {"text": TEXT, "binary": BINARY, "ping": PING, "empty": TEXT}[kind]
        data += masked_frame(opcode, payload, draw(MASKS))
        events.append(Text(payload) if opcode == TEXT else Binary(payload) if opcode == BINARY else Ping(payload))
    return data, events


def fed(parser: FrameParser, pieces: list[bytes]) -> list[Event]:
    return [event for piece in pieces for event in parser.feed(piece)]


def chopped(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


@pytest.mark.parametrize("parser", [FrameParser, InflatingParser])
@pytest.mark.parametrize("inside", [False, True], ids=["between messages", "inside a message"])
@pytest.mark.parametrize("case", violations(False))
@settings(max_examples=8, deadline=None)
@given(beginning=beginnings(), cuts=st.lists(st.integers(0, 5_000), max_size=8), data=st.data())
def test_a_violation_has_its_code_and_is_the_last_event_however_the_bytes_are_cut(
    parser: type[FrameParser],
    inside: bool,
    case: str,
    beginning: tuple[bytes, list[Event]],
    cuts: list[int],
    data: st.DataObject,
) -> None:
    bytes_, events = beginning
    if inside:
        bytes_ += changed(masked_frame(TEXT, b"begun", data.draw(MASKS)), clear=0x80)
    strategy, code = violations(inside)[case]
    bytes_ += data.draw(strategy) + data.draw(st.binary(max_size=20))
    for pieces in ([bytes_], chopped(bytes_, cuts), [bytes((byte,)) for byte in bytes_]):
        reader = parser(message_bytes_max=BYTES_MAX, fragments_max=FRAGMENTS_MAX)
        found = fed(reader, pieces)
        assert found[:-1] == events
        assert isinstance(found[-1], ProtocolViolation) and found[-1].code == code
        assert reader.closed and reader.feed(masked_frame(PING, b"", b"mask")) == []
