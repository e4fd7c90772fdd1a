"""Compressed WebSocket messages cut anywhere, sent by any compressor, and tampered with."""

from __future__ import annotations

import zlib
from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from fanout.core.limits import DEFLATE_FROM_BYTES
from fanout.protocol.deflate import Corrupt, TooLong, deflate, inflate
from fanout.protocol.websocket import (
    BINARY,
    CONTINUATION,
    INVALID_DATA,
    PING,
    PROTOCOL_BROKEN,
    TEXT,
    TOO_BIG,
    Binary,
    Close,
    Event,
    InflatingParser,
    Ping,
    ProtocolViolation,
    Text,
    deflated,
    frame,
    masked_frame,
)

RSV1 = 0x40
TAIL = b"\x00\x00\xff\xff"
MASKS = st.binary(min_size=4, max_size=4)
TEXTS = st.text('az{}"\x00\x7f\u0080ß€😀', max_size=300)


@st.composite
def packed(draw: st.DrawFn, message: bytes) -> bytes:
    """The message as one of many compressors would send it: other levels, windows, block borders, ends of streams."""
    data = b""
    cut = draw(st.integers(0, len(message)))
    compressor = zlib.compressobj(draw(st.integers(0, 9)), zlib.DEFLATED, -draw(st.integers(9, 15)))
    data += compressor.compress(message[:cut])
    if draw(st.booleans()):
        data += compressor.flush(draw(st.sampled_from([zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH])))
    data += compressor.compress(message[cut:])
    if draw(st.booleans()):
        return data + compressor.flush(zlib.Z_FINISH) + b"\x00"
    return (data + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


@st.composite
def messages(draw: st.DrawFn) -> tuple[bytes, list[Event]]:
    """A message, compressed or not, in 1 to 3 fragments with pings between them, and the events it must give."""
    is_text = draw(st.booleans())
    message = draw(TEXTS).encode() if is_text else draw(st.binary(max_size=300))
    is_packed = draw(st.booleans())
    payload = draw(packed(message)) if is_packed else message
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=2)))
    pieces = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
    data, events = b"", list[Event]()
    for index, piece in enumerate(pieces):
        first = CONTINUATION if index else (TEXT if is_text else BINARY) | (RSV1 if is_packed else 0)
        last = index == len(pieces) - 1
        data += bytes((first | 0x80 if last else first,)) + masked_frame(TEXT, piece, draw(MASKS))[1:]
        if not last and draw(st.booleans()):
            data += masked_frame(PING, b"?", draw(MASKS))
            events.append(Ping(b"?"))
    events.append(Text(message) if is_text else Binary(message))
    return data, events


CONVERSATIONS = st.lists(messages(), min_size=1, max_size=4).map(
    lambda parts: (b"".join(data for data, _ in parts), [event for _, events in parts for event in events])
)


def fed(pieces: list[bytes]) -> list[Event]:
    parser = InflatingParser(message_bytes_max=2_000, fragments_max=4)
    return [event for piece in pieces for event in parser.feed(piece)]


def chopped(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


@given(CONVERSATIONS, st.lists(st.integers(0, 5_000), max_size=12))
def test_any_chopping_gives_the_same_messages(conversation: tuple[bytes, list[Event]], cuts: list[int]) -> None:
    data, events = conversation
    assert fed([data]) == events
    assert fed(chopped(data, cuts)) == events
    assert fed([bytes((byte,)) for byte in data]) == events


@given(
    CONVERSATIONS,
    st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 255)), min_size=1, max_size=6),
    st.lists(st.integers(0, 5_000), max_size=12),
)
def test_tampered_bytes_end_in_a_declared_violation_or_in_events(
    conversation: tuple[bytes, list[Event]], changes: list[tuple[int, int]], cuts: list[int]
) -> None:
    data = bytearray(conversation[0])
    for place, byte in changes:
        data[place % len(data)] = byte
    events = fed([bytes(data)])
    for event in events[:-1]:
        assert not isinstance(event, ProtocolViolation | Close)
    if events and isinstance(events[-1], ProtocolViolation):
        assert events[-1].code in (PROTOCOL_BROKEN, INVALID_DATA, TOO_BIG)
    assert fed(chopped(bytes(data), cuts)) == events


@given(st.binary(max_size=400), st.integers(1, 2_000))
def test_any_bytes_inflate_within_the_limit_or_not_at_all(payload: bytes, bytes_max: int) -> None:
    with suppress(TooLong, Corrupt):
        assert len(inflate(payload, bytes_max)) <= bytes_max


@given(st.binary(max_size=3_000))
def test_what_is_compressed_here_is_read_by_a_stock_inflater(message: bytes) -> None:
    assert zlib.decompressobj(-15).decompress(deflate(message) + TAIL) == message


@given(st.binary(max_size=200), st.integers(1, 400), st.booleans())
def test_frame_is_the_same_message_compressed_or_not(seed: bytes, times: int, is_text: bool) -> None:
    payload = (seed.hex().encode() if is_text else seed) * times
    opcode = TEXT if is_text else BINARY
    plain = frame(opcode, payload)
    for built in (plain, deflated(plain)):
        parser = InflatingParser(masked=False, message_bytes_max=1 << 20)
        assert parser.feed(built) == [Text(payload) if is_text else Binary(payload)]
    assert len(deflated(plain)) <= len(plain)
    assert len(payload) > DEFLATE_FROM_BYTES or deflated(plain) is plain
