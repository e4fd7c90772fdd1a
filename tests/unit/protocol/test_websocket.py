"""RFC 6455 frames, row by row of the strictness checklist in the protocol reference."""

from __future__ import annotations

import sys
import tracemalloc

import pytest

from fanout.protocol.websocket import (
    BINARY,
    CLOSE,
    CLOSE_REASON_BYTES_MAX,
    CONTINUATION,
    INVALID_DATA,
    NO_STATUS,
    NORMAL_CLOSURE,
    PING,
    PONG,
    PROTOCOL_BROKEN,
    TEXT,
    TOO_BIG,
    Binary,
    Close,
    CloseHandshake,
    Event,
    FrameParser,
    Ping,
    Pong,
    ProtocolViolation,
    Text,
    close_frame,
    close_payload,
    frame,
    masked_frame,
    message_end,
    unmask,
)

MASK = b"\x37\xfa\x21\x3d"  # the key of the examples in RFC 6455 §5.7


def raw(first: int, payload: bytes, *, mask: bytes = MASK) -> bytes:
    """Return a masked frame whose first byte is given whole: FIN, reserved bits and opcode."""
    return bytes((first,)) + masked_frame(TEXT, payload, mask)[1:]


def part(opcode: int, payload: bytes) -> bytes:
    """Return a masked frame without FIN."""
    return raw(opcode, payload)


def violation(events: list[Event]) -> int:
    """Return the code of the one violation that must end the events."""
    assert isinstance(events[-1], ProtocolViolation), events
    return events[-1].code


def server() -> FrameParser:
    return FrameParser(message_bytes_max=1_000, fragments_max=4)


# --- the RFC's own examples (§5.7) -----------------------------------------------------------------------------------


def test_masked_hello_of_the_rfc_is_read_by_a_server() -> None:
    assert server().feed(bytes.fromhex("818537fa213d7f9f4d5158")) == [Text(b"Hello")]


def test_unmasked_hello_of_the_rfc_is_read_by_a_client() -> None:
    assert FrameParser(masked=False).feed(bytes.fromhex("810548656c6c6f")) == [Text(b"Hello")]


def test_fragmented_hello_of_the_rfc_becomes_one_message() -> None:
    parser = FrameParser(masked=False)
    assert parser.feed(bytes.fromhex("010348656c")) == []
    assert parser.feed(bytes.fromhex("80026c6f")) == [Text(b"Hello")]


def test_ping_and_masked_pong_of_the_rfc_are_read() -> None:
    assert FrameParser(masked=False).feed(bytes.fromhex("890548656c6c6f")) == [Ping(b"Hello")]
    assert server().feed(bytes.fromhex("8a8537fa213d7f9f4d5158")) == [Pong(b"Hello")]


@pytest.mark.parametrize(
    ("size", "head"),
    [(0, "8200"), (125, "827d"), (126, "827e007e"), (65_535, "827effff"), (65_536, "827f0000000000010000")],
)
def test_frames_are_built_with_the_shortest_length_and_read_back(size: int, head: str) -> None:
    payload = b"x" * size
    built = frame(BINARY, payload)
    assert built == bytes.fromhex(head) + payload
    assert FrameParser(masked=False, message_bytes_max=65_536).feed(built) == [Binary(payload)]
    assert FrameParser(message_bytes_max=65_536).feed(masked_frame(BINARY, payload, MASK)) == [Binary(payload)]


def test_masking_is_its_own_inverse() -> None:
    assert unmask(unmask(b"seven b", MASK), MASK) == b"seven b"


# --- frame -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [0x10, 0x20, 0x40, 0x70])
@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING])
def test_reserved_bits_break_the_protocol(bits: int, opcode: int) -> None:
    assert violation(server().feed(raw(0x80 | bits | opcode, b"hi"))) == PROTOCOL_BROKEN


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_unknown_opcodes_break_the_protocol(opcode: int) -> None:
    assert violation(server().feed(raw(0x80 | opcode, b""))) == PROTOCOL_BROKEN


def test_unmasked_frame_from_a_client_breaks_the_protocol() -> None:
    assert violation(server().feed(frame(TEXT, b"hello"))) == PROTOCOL_BROKEN


def test_masked_frame_from_a_server_breaks_the_protocol() -> None:
    assert violation(FrameParser(masked=False).feed(masked_frame(TEXT, b"hello", MASK))) == PROTOCOL_BROKEN


@pytest.mark.parametrize(
    "head",
    [
        b"\x82\xfe\x00\x7d",  # 125 in two bytes
        b"\x82\xff\x00\x00\x00\x00\x00\x00\x00\x7d",  # 125 in eight
        b"\x82\xff\x00\x00\x00\x00\x00\x00\xff\xff",  # 65,535 in eight
        b"\x82\xff\x80\x00\x00\x00\x00\x00\x00\x00",  # top bit
    ],
)
def test_lengths_that_are_not_in_shortest_form_break_the_protocol(head: bytes) -> None:
    assert violation(server().feed(head + MASK)) == PROTOCOL_BROKEN


def test_declared_size_above_the_cap_is_refused_on_the_header_alone() -> None:
    header_only = masked_frame(BINARY, b"x" * 1_001, MASK)[:8]
    assert violation(server().feed(header_only)) == TOO_BIG


def test_message_of_exactly_the_cap_is_taken() -> None:
    assert server().feed(masked_frame(TEXT, b"x" * 1_000, MASK)) == [Text(b"x" * 1_000)]


def test_sum_of_fragments_above_the_cap_is_refused_before_the_last_is_read() -> None:
    parser = server()
    assert parser.feed(part(TEXT, b"x" * 600)) == []
    assert violation(parser.feed(part(CONTINUATION, b"x" * 401)[:8])) == TOO_BIG


def test_more_fragments_than_the_cap_are_refused_even_when_empty() -> None:
    parser = server()
    events = parser.feed(part(TEXT, b"") + part(CONTINUATION, b"") * 3)
    assert events == []
    assert violation(parser.feed(part(CONTINUATION, b""))) == TOO_BIG


def test_fragment_cap_is_per_message() -> None:
    message = part(TEXT, b"a") + part(CONTINUATION, b"b") * 2 + raw(0x80, b"c")
    assert server().feed(message * 3) == [Text(b"abbc")] * 3


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_fragmented_control_frame_breaks_the_protocol(opcode: int) -> None:
    assert violation(server().feed(part(opcode, b""))) == PROTOCOL_BROKEN


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_control_frame_above_125_bytes_breaks_the_protocol(opcode: int) -> None:
    assert violation(server().feed(masked_frame(opcode, b"\x03\xe8" + b"x" * 124, MASK))) == PROTOCOL_BROKEN


def test_control_frame_of_125_bytes_is_taken() -> None:
    assert server().feed(masked_frame(PING, b"p" * 125, MASK)) == [Ping(b"p" * 125)]


def test_control_frames_are_accepted_between_fragments() -> None:
    data = part(TEXT, b"Hel") + masked_frame(PING, b"now", MASK) + raw(0x80, b"lo")
    assert server().feed(data) == [Ping(b"now"), Text(b"Hello")]


def test_continuation_without_a_start_breaks_the_protocol() -> None:
    assert violation(server().feed(raw(0x80, b"lo"))) == PROTOCOL_BROKEN
    assert violation(server().feed(masked_frame(TEXT, b"whole", MASK) + raw(0x80, b"lo"))) == PROTOCOL_BROKEN


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_new_message_inside_a_fragmented_one_breaks_the_protocol(opcode: int) -> None:
    assert violation(server().feed(part(TEXT, b"Hel") + masked_frame(opcode, b"x", MASK))) == PROTOCOL_BROKEN


def test_zero_length_frames_and_fragments_are_legal() -> None:
    assert server().feed(masked_frame(TEXT, b"", MASK)) == [Text(b"")]
    assert server().feed(masked_frame(BINARY, b"", MASK)) == [Binary(b"")]
    assert server().feed(part(BINARY, b"") + part(CONTINUATION, b"x") + raw(0x80, b"")) == [Binary(b"x")]


def test_one_byte_per_read_gives_the_same_as_one_read() -> None:
    data = (
        masked_frame(TEXT, "Grüße".encode(), MASK)
        + part(BINARY, b"\x00" * 300)
        + masked_frame(PONG, b"pong", MASK)
        + raw(0x80, b"\xff")
        + masked_frame(CLOSE, close_payload(3001, "shutdown"), MASK)
    )
    whole, chopped = server(), server()
    events = [event for byte in data for event in chopped.feed(bytes((byte,)))]
    assert events == whole.feed(data)
    assert len(events) == 4


def test_many_frames_in_one_read_come_out_in_order() -> None:
    data = b"".join(masked_frame(TEXT, b"%d" % number, MASK) for number in range(50))
    assert server().feed(data) == [Text(b"%d" % number) for number in range(50)]


def test_read_that_ends_after_a_small_frame_and_a_bit_keeps_the_bit() -> None:
    parser = server()
    small = masked_frame(TEXT, b"small", MASK)
    assert parser.feed(small + small[:3]) == [Text(b"small")]
    assert parser.feed(small[3:]) == [Text(b"small")]


@pytest.mark.parametrize("size", [126, 127, 132, 133])
def test_lengths_next_to_the_fast_path_are_not_mistaken(size: int) -> None:
    payload = b"y" * size
    data = masked_frame(TEXT, payload, MASK)
    for cut in range(1, 16):
        parser = server()
        assert parser.feed(data[:cut]) + parser.feed(data[cut:]) == [Text(payload)]
    parser = server()
    assert parser.feed(data[:132]) + parser.feed(data[132:]) == [Text(payload)]


# --- content ---------------------------------------------------------------------------------------------------------

BAD_TEXT = [
    b"\xff",
    b"\xc0\xaf",  # overlong slash
    b"\xe0\x80\xaf",
    b"\xf0\x80\x80\xaf",
    b"\xed\xa0\x80",  # surrogate
    b"\xf4\x90\x80\x80",  # above U+10FFFF
    b"\xf5\x80\x80\x80",
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",  # Autobahn 6.4
    b"\x80",
    b"abc\xc3",  # ends inside a code point
]


@pytest.mark.parametrize("text", BAD_TEXT)
def test_text_that_is_not_utf8_is_invalid_data(text: bytes) -> None:
    assert server().feed(masked_frame(TEXT, text, MASK)) == [
        ProtocolViolation(INVALID_DATA, "text must be valid UTF-8")
    ]
    assert violation(server().feed(masked_frame(TEXT, text + b"x" * 200, MASK))) == INVALID_DATA
    assert violation(server().feed(part(TEXT, text[:1]) + raw(0x80, text[1:]))) == INVALID_DATA


@pytest.mark.parametrize(
    ("text", "decided_at"), [(b"ab\xff", 3), (b"\xc0", 1), (b"\xe0\x80", 2), (b"\xed\xa0", 2), (b"\xf4\x90", 2)]
)
def test_invalid_text_is_noticed_at_the_byte_that_decides(text: bytes, decided_at: int) -> None:
    parser = server()
    unfinished = part(TEXT, text + b"more to come")
    head = len(unfinished) - len(text) - 12
    assert parser.feed(unfinished[: head + decided_at - 1]) == []
    assert violation(parser.feed(unfinished[head + decided_at - 1 : head + decided_at])) == INVALID_DATA


def test_code_point_may_span_fragments_and_reads() -> None:
    smile = "😀".encode()
    data = part(TEXT, b"a" + smile[:1]) + part(CONTINUATION, smile[1:3]) + raw(0x80, smile[3:] + b"b")
    assert server().feed(data) == [Text(b"a" + smile + b"b")]


def test_text_that_ends_inside_a_code_point_is_invalid_after_fragments_too() -> None:
    assert violation(server().feed(part(TEXT, b"a\xe2\x82") + raw(0x80, b""))) == INVALID_DATA


def test_binary_is_not_looked_at() -> None:
    assert server().feed(masked_frame(BINARY, b"\xff\xfe\xc0", MASK)) == [Binary(b"\xff\xfe\xc0")]


def test_surrogate_pairs_and_the_last_code_point_are_told_apart() -> None:
    for text in ("\ud7ff", "\ue000", "\U0010ffff"):
        assert server().feed(masked_frame(TEXT, text.encode(), MASK)) == [Text(text.encode())]


# --- close -----------------------------------------------------------------------------------------------------------


def test_empty_close_means_no_status() -> None:
    assert server().feed(masked_frame(CLOSE, b"", MASK)) == [Close(NO_STATUS, "")]


def test_close_payload_of_one_byte_breaks_the_protocol() -> None:
    assert violation(server().feed(masked_frame(CLOSE, b"\x03", MASK))) == PROTOCOL_BROKEN


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999])
def test_valid_close_codes_are_read_and_may_be_sent(code: int) -> None:
    assert server().feed(masked_frame(CLOSE, close_payload(code, "bye"), MASK)) == [Close(code, "bye")]


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535])
def test_invalid_close_codes_break_the_protocol(code: int) -> None:
    assert violation(server().feed(masked_frame(CLOSE, code.to_bytes(2), MASK))) == PROTOCOL_BROKEN


@pytest.mark.parametrize("code", [999, 1004, 1006, 1015, 2500, 5000])
def test_codes_that_may_not_be_sent_are_refused_when_built(code: int) -> None:
    with pytest.raises(ValueError, match="no close code"):
        close_frame(code, "")


def test_close_reason_must_be_utf8() -> None:
    assert violation(server().feed(masked_frame(CLOSE, b"\x03\xe8\xff", MASK))) == INVALID_DATA
    assert violation(server().feed(masked_frame(CLOSE, b"\x03\xe8ok\xc3", MASK))) == INVALID_DATA


def test_long_reason_is_cut_at_a_code_point() -> None:
    payload = close_payload(4000, "ü" * 100)
    assert len(payload) == CLOSE_REASON_BYTES_MAX + 1
    assert payload[2:].decode() == "ü" * 61
    assert close_frame(3001, "shutdown") == b"\x88\x0a\x0b\xb9shutdown"


def test_data_after_a_close_is_discarded() -> None:
    parser = server()
    closing = masked_frame(CLOSE, close_payload(NORMAL_CLOSURE), MASK)
    assert parser.feed(closing + masked_frame(TEXT, b"late", MASK)) == [Close(NORMAL_CLOSURE, "")]
    assert parser.closed
    assert parser.feed(masked_frame(TEXT, b"later", MASK)) == []


def test_data_after_a_violation_is_discarded() -> None:
    parser = server()
    assert violation(parser.feed(frame(TEXT, b"x"))) == PROTOCOL_BROKEN
    assert parser.feed(masked_frame(TEXT, b"later", MASK)) == []


def test_events_before_a_violation_are_given_out() -> None:
    events = server().feed(masked_frame(TEXT, b"fine", MASK) + frame(TEXT, b"x"))
    assert events[0] == Text(b"fine")
    assert violation(events) == PROTOCOL_BROKEN


def test_close_is_answered_once_with_its_code() -> None:
    closing = CloseHandshake()
    assert closing.receive(Close(4001, "bye")) == (4001).to_bytes(2)
    assert closing.complete
    assert closing.receive(Close(4001, "again")) is None
    assert closing.start(1000) is None


def test_close_without_status_is_echoed_empty() -> None:
    assert CloseHandshake().receive(Close(NO_STATUS, "")) == b""


def test_answer_to_our_close_needs_no_answer() -> None:
    closing = CloseHandshake()
    assert closing.start(3001, "shutdown") == close_payload(3001, "shutdown")
    assert not closing.complete
    assert closing.receive(Close(3001, "")) is None
    assert closing.complete


# --- bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "fragments"), [(124, 1), (125, 0)])
def test_caps_that_could_not_hold_a_control_frame_are_refused(size: int, fragments: int) -> None:
    with pytest.raises(ValueError, match="at least"):
        FrameParser(message_bytes_max=size, fragments_max=fragments)


def test_idle_parser_holds_no_buffer() -> None:
    parser = server()
    fresh = sys.getsizeof(parser)
    data = masked_frame(TEXT, b"x" * 900, MASK)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for byte in data:
            parser.feed(bytes((byte,)))
        kept = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert fresh <= 200
    assert kept < 200


# --- finding whole messages without reading them ---------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 5, 125, 126, 65_535, 65_536])
def test_end_of_a_message_is_found_once_it_is_there(size: int) -> None:
    data = frame(TEXT, b"x" * size)
    assert message_end(b"before" + data + b"after", 6) == 6 + len(data)
    for missing in {1, 2, len(data) // 2, len(data) - 1}:
        assert message_end(data[: len(data) - missing], 0) == 0


def test_fragments_end_with_the_last_one() -> None:
    data = b"\x01\x03Hel" + b"\x80\x02lo"
    assert message_end(data, 0) == len(data)
    assert message_end(data[:-1], 0) == 0
    assert message_end(data[:5], 0) == 0


def test_masked_frames_are_left_to_the_parser() -> None:
    assert message_end(masked_frame(TEXT, b"x", MASK) + b"rest", 0) == 11
