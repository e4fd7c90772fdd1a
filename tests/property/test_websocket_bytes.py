"""WebSocket bytes cut anywhere, and bytes that were tampered with."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fanout.protocol.handshake import PlainHttp, Refusal, ServerHandshake, Upgrade, client_request, make_key
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
    Close,
    Event,
    FrameParser,
    Ping,
    Pong,
    ProtocolViolation,
    Text,
    close_payload,
    masked_frame,
)

MASKS = st.binary(min_size=4, max_size=4)
CONTROLS = st.one_of(
    st.builds(lambda data: (PING, Ping(data)), st.binary(max_size=125)),
    st.builds(lambda data: (PONG, Pong(data)), st.binary(max_size=125)),
)


@st.composite
def messages(draw: st.DrawFn) -> tuple[bytes, list[Event]]:
    """A message in 1 to 4 fragments with controls between them, and the events it must give."""
    text = draw(st.booleans())
    payload = (
        draw(st.text('az{}"\x00\x7f\u0080ß\ud7ff\uffff€😀\U0010ffff', max_size=120)).encode()
        if text
        else draw(st.binary(max_size=300))
    )
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
    pieces = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
    data, events = b"", list[Event]()
    for index, piece in enumerate(pieces):
        opcode = CONTINUATION if index else TEXT if text else BINARY
        built = masked_frame(opcode, piece, draw(MASKS))
        last = index == len(pieces) - 1
        data += built if last else bytes((built[0] & 0x7F,)) + built[1:]
        if not last and draw(st.booleans()):
            control, event = draw(CONTROLS)
            data += masked_frame(control, event.data, draw(MASKS))
            events.append(event)
    events.append(Text(payload) if text else Binary(payload))
    return data, events


@st.composite
def conversations(draw: st.DrawFn) -> tuple[bytes, list[Event]]:
    """Some messages and perhaps a close, as bytes and as events."""
    data, events = b"", list[Event]()
    for more, expected in draw(st.lists(messages(), max_size=4)):
        data += more
        events += expected
    if draw(st.booleans()):
        code = draw(st.sampled_from([1000, 1011, 3001, 4999]))
        data += masked_frame(CLOSE, close_payload(code, "bye"), draw(MASKS))
        events.append(Close(code, "bye"))
    return data, events


def chopped(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def fed(pieces: list[bytes]) -> list[Event]:
    parser = FrameParser(message_bytes_max=2_000, fragments_max=4)
    return [event for piece in pieces for event in parser.feed(piece)]


@given(conversations(), st.lists(st.integers(0, 5_000), max_size=12))
def test_any_chopping_gives_the_same_events(conversation: tuple[bytes, list[Event]], cuts: list[int]) -> None:
    data, events = conversation
    assert fed([data]) == events
    assert fed(chopped(data, cuts)) == events
    assert fed([bytes((byte,)) for byte in data]) == events


@given(
    conversations(),
    st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 255)), min_size=1, max_size=6),
    st.lists(st.integers(0, 5_000), max_size=12),
)
def test_tampered_bytes_end_in_a_declared_violation_or_in_events(
    conversation: tuple[bytes, list[Event]], changes: list[tuple[int, int]], cuts: list[int]
) -> None:
    data = bytearray(conversation[0] or b"\x81\x80abcd")
    for place, byte in changes:
        data[place % len(data)] = byte
    events = fed([bytes(data)])
    for event in events[:-1]:
        assert not isinstance(event, ProtocolViolation | Close)
    if events and isinstance(events[-1], ProtocolViolation):
        assert events[-1].code in (PROTOCOL_BROKEN, INVALID_DATA, TOO_BIG)
    assert fed(chopped(bytes(data), cuts)) == events


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=8))
def test_random_bytes_never_raise(data: bytes, cuts: list[int]) -> None:
    assert fed(chopped(data, cuts)) == fed([data])


@given(st.binary(max_size=60))
def test_text_is_valid_exactly_where_python_says_so(payload: bytes) -> None:
    events = fed([bytes((byte,)) for byte in masked_frame(TEXT, payload, b"\x01\x02\x03\x04")])
    try:
        payload.decode()
    except UnicodeDecodeError:
        assert events == [ProtocolViolation(INVALID_DATA, "text must be valid UTF-8")]
    else:
        assert events == [Text(payload)]


@given(
    st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 255)), max_size=4),
    st.lists(st.integers(0, 400), max_size=5),
)
def test_tampered_handshake_is_upgraded_handed_on_or_refused(changes: list[tuple[int, int]], cuts: list[int]) -> None:
    data = bytearray(client_request("h:1", "/c?a=b", make_key(bytes(16)), subprotocols=("centrifuge-json",)))
    for place, byte in changes:
        data[place % len(data)] = byte
    handshake, outcome = ServerHandshake(), None
    for piece in chopped(bytes(data), cuts):
        outcome = outcome or handshake.feed(piece)
    assert outcome is None or isinstance(outcome, Upgrade | PlainHttp | Refusal)
