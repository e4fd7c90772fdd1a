"""WebSocket frames (RFC 6455) as pure functions of bytes: parser, builder and close handshake of both sides.

The upgrade that precedes the frames lives in ``handshake.py`` and is exported from here too. No sockets, clocks or
dice: a mask key is an argument. Where permessage-deflate was agreed on (``deflate.py``) an ``InflatingParser`` reads
and large frames go through ``deflated``; elsewhere every reserved bit is a violation.

A frame is always a WebSocket frame in this file; the joined bytes of the glossary are its payload.
"""

from __future__ import annotations

from codecs import utf_8_decode
from typing import Final, NoReturn, TypeAlias

import msgspec

from fanout.core.limits import CLIENT_MESSAGE_BYTES_MAX, DEFLATE_FROM_BYTES, MESSAGE_FRAGMENTS_MAX
from fanout.protocol.deflate import Corrupt, TooLong, deflate, inflate
from fanout.protocol.handshake import (
    Accepted,
    ClientHandshake,
    Endpoint,
    Extension,
    PlainHttp,
    Refusal,
    ServerHandshake,
    Upgrade,
    accept_key,
    accept_response,
    asks_for_websocket,
    client_request,
    endpoint,
    make_key,
    refuse_response,
)

__all__ = [
    "BINARY",
    "CLOSE",
    "CLOSE_REASON_BYTES_MAX",
    "CONTINUATION",
    "GOING_AWAY",
    "INVALID_DATA",
    "NORMAL_CLOSURE",
    "NO_STATUS",
    "PING",
    "PONG",
    "PROTOCOL_BROKEN",
    "TEXT",
    "TOO_BIG",
    "Accepted",
    "Binary",
    "ClientHandshake",
    "Close",
    "CloseHandshake",
    "Endpoint",
    "Event",
    "Extension",
    "FrameParser",
    "InflatingParser",
    "Ping",
    "PlainHttp",
    "Pong",
    "ProtocolViolation",
    "Refusal",
    "ServerHandshake",
    "Text",
    "Upgrade",
    "accept_key",
    "accept_response",
    "asks_for_websocket",
    "client_request",
    "close_frame",
    "close_payload",
    "deflated",
    "endpoint",
    "frame",
    "make_key",
    "masked_frame",
    "message_end",
    "refuse_response",
]

CONTINUATION: Final = 0
TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10
_OPCODES: Final = frozenset((CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG))

NORMAL_CLOSURE: Final = 1000
GOING_AWAY: Final = 1001
PROTOCOL_BROKEN: Final = 1002
NO_STATUS: Final = 1005  # stands for an empty close payload; never on the wire
INVALID_DATA: Final = 1007
TOO_BIG: Final = 1009

CONTROL_BYTES_MAX: Final = 125
_RSV1: Final = 0x40  # of a message's first frame: it is compressed
CLOSE_REASON_BYTES_MAX: Final = CONTROL_BYTES_MAX - 2


class Text(msgspec.Struct, frozen=True, gc=False):
    """A whole text message; ``data`` is valid UTF-8."""

    data: bytes


class Binary(msgspec.Struct, frozen=True, gc=False):
    """A whole binary message."""

    data: bytes


class Ping(msgspec.Struct, frozen=True, gc=False):
    """To be answered by a pong with the same ``data`` (≤ 125 bytes); how often is for the owner to limit."""

    data: bytes


class Pong(msgspec.Struct, frozen=True, gc=False):
    """An answer, or an unsolicited pong that nobody needs to mind."""

    data: bytes


class Close(msgspec.Struct, frozen=True, gc=False):
    """The peer's close frame, the last event of a connection; ``code`` is NO_STATUS where none was sent."""

    code: int
    reason: str


class ProtocolViolation(msgspec.Struct, frozen=True, gc=False):
    """The peer broke the protocol: close with ``code`` (1002, 1007, 1009). The last event of a connection."""

    code: int
    detail: str


Event: TypeAlias = Text | Binary | Ping | Pong | Close | ProtocolViolation


class _Broken(Exception):
    """Carries a violation out of the parser's inside; never leaves ``feed``."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(detail)
        self.violation = ProtocolViolation(code, detail)


class FrameParser:
    """Turns bytes, cut anywhere, into events. One per connection; holds no buffer between messages.

    ``masked`` is True on the server (clients mask, anything else is 1002) and False on the client. A message is at
    most ``message_bytes_max`` bytes (≥ 125) in at most ``fragments_max`` frames: both are checked on the header,
    before anything is kept. After a Close or a ProtocolViolation all further bytes are discarded.
    """

    __slots__ = (
        "_bytes_max",
        "_checked",
        "_control",
        "_fast",
        "_final",
        "_fragments",
        "_fragments_max",
        "_kind",
        "_left",
        "_mask",
        "_mask_bit",
        "_message",
        "_opcode",
        "_rest",
        "closed",
    )

    def __init__(
        self,
        *,
        masked: bool = True,
        message_bytes_max: int = CLIENT_MESSAGE_BYTES_MAX,
        fragments_max: int = MESSAGE_FRAGMENTS_MAX,
    ) -> None:
        if message_bytes_max < CONTROL_BYTES_MAX or fragments_max < 1:
            raise ValueError("a message may have at least 125 bytes and one fragment")
        self._bytes_max = message_bytes_max
        self._fragments_max = fragments_max
        self._mask_bit = 0x80 if masked else 0
        self.closed = False
        self._fast = masked  # between messages, on the side where small masked frames are what comes
        self._rest = b""  # part of a header, < 14 bytes
        self._opcode = 0  # of the frame whose payload is being read
        self._final = False
        self._left = 0  # bytes of that payload still to come
        self._mask = b""  # turned so that its first byte meets the next payload byte
        self._control: bytearray | None = None
        self._kind = 0  # opcode of the message being read; 0 between messages
        self._fragments = 0
        self._message: bytearray | None = None
        self._checked = 0  # bytes of the message known to be whole code points

    def feed(self, data: bytes) -> list[Event]:
        """Take the next bytes of the connection; return what they complete, in order."""
        events: list[Event] = []
        try:
            # One small unfragmented text frame per read is nearly all that clients send.
            if self._fast and len(data) > 6 and data[0] == 0x81 and 128 < data[1] < 254 and len(data) == data[1] - 122:
                payload = unmask(data[6:], data[2:6])
                _whole_code_points(payload, final=True)
                return [Text(payload)]
            self._read(data, events)
        except _Broken as broken:
            events.append(broken.violation)
            self._end()
        return events

    def _read(self, data: bytes, events: list[Event]) -> None:
        if self._rest:
            data, self._rest = self._rest + data, b""
        at, end = 0, len(data)
        while at < end and not self.closed:
            if not self._left:
                begin = self._header(data, at)
                if not begin:
                    self._rest = data[at:]
                    break
                at = begin
            stop = min(at + self._left, end)
            event = self._payload(data[at:stop])
            at = stop
            if event is not None:
                events.append(event)
        self._fast = bool(self._mask_bit) and not (self.closed or self._rest or self._left or self._kind)

    def _header(self, data: bytes, at: int) -> int:
        """Read the frame header at ``at``; return where its payload begins, or 0 while the header is incomplete."""
        have = len(data) - at
        if have < 2:
            return 0
        first, second = data[at], data[at + 1]
        opcode, short = first & 0x0F, second & 0x7F
        self._check_first_byte(first, opcode)
        if second & 0x80 != self._mask_bit:
            _break("frames of a client are masked, those of a server are not")
        if opcode >= CLOSE and (short > CONTROL_BYTES_MAX or not first & 0x80):
            _break("a control frame is one frame of at most 125 bytes")
        extended = 0 if short < 126 else 2 if short == 126 else 8
        body = 2 + extended
        size = body + 4 if self._mask_bit else body
        if have < size:
            return 0
        length = int.from_bytes(data[at + 2 : at + body]) if extended else short
        if length >= 1 << 63 or (extended and length < 126) or (extended == 8 and length < 65_536):
            _break("a length has its shortest form and no top bit")
        if opcode < CLOSE:
            self._admit(first, length)
        self._opcode, self._final, self._left = opcode, first >= 0x80, length
        self._mask = data[at + body : at + size]
        return at + size

    def _check_first_byte(self, first: int, opcode: int) -> None:
        if first & 0x70:
            _break("reserved bits are set that no extension was negotiated for")
        if opcode not in _OPCODES:
            _break(f"opcode {opcode} does not exist")
        if opcode == CONTINUATION and not self._kind:
            _break("a continuation without a message to continue")
        if opcode in (TEXT, BINARY) and self._kind:
            _break("a new message inside a fragmented one")

    def _admit(self, first: int, length: int) -> None:
        """Count a data frame into its message, before any of its payload is kept."""
        kept = 0 if self._message is None else len(self._message)
        if kept + length > self._bytes_max:
            raise _Broken(TOO_BIG, f"a message has at most {self._bytes_max} bytes")
        if self._fragments >= self._fragments_max:
            raise _Broken(TOO_BIG, f"a message has at most {self._fragments_max} fragments")
        self._fragments += 1
        self._kind = self._kind or first & 0x0F

    def _payload(self, part: bytes) -> Event | None:
        """Take the next part of the current frame's payload; return the event when that was the last one needed."""
        self._left -= len(part)
        if self._mask:
            part, turn = unmask(part, self._mask), len(part) & 3
            self._mask = self._mask[turn:] + self._mask[:turn] if self._left else b""
        if self._opcode >= CLOSE:
            return self._control_part(part)
        if self._message is None:
            if self._final and not self._left:
                return self._complete(part)
            self._message = bytearray()
        self._message += part
        whole = self._final and not self._left
        if self._kind == TEXT:
            self._checked += _whole_code_points(bytes(self._message[self._checked :]), final=whole)
        return self._complete(bytes(self._message)) if whole else None

    def _complete(self, message: bytes) -> Event:
        """Give out a whole message and forget it."""
        if self._kind == BINARY:
            event: Event = Binary(message)
        else:
            if self._message is None:
                _whole_code_points(message, final=True)
            event = Text(message)
        self._kind = self._fragments = self._checked = 0
        self._message = None
        return event

    def _control_part(self, part: bytes) -> Event | None:
        if self._left:
            self._control = (self._control or bytearray()) + part
            return None
        payload = part if self._control is None else bytes(self._control + part)
        self._control = None
        if self._opcode == PING:
            return Ping(payload)
        if self._opcode == PONG:
            return Pong(payload)
        event = _read_close(payload)
        self._end()
        return event

    def _end(self) -> None:
        self.closed, self._fast = True, False
        self._rest, self._mask, self._left = b"", b"", 0
        self._message = self._control = None


class InflatingParser(FrameParser):
    """A FrameParser for a connection on which permessage-deflate was agreed on, without context takeover (RFC 7692).

    Compressed messages are inflated when they are whole, up to ``message_bytes_max``; larger ones are 1009, what is no
    DEFLATE data 1007. It holds no more between messages than its parent.
    """

    __slots__ = ()

    def _check_first_byte(self, first: int, opcode: int) -> None:
        super()._check_first_byte(first & ~_RSV1 if opcode in (TEXT, BINARY) else first, opcode)

    def _admit(self, first: int, length: int) -> None:
        super()._admit(first, length)
        self._kind |= first & _RSV1

    def _complete(self, message: bytes) -> Event:
        if self._kind & _RSV1:
            self._kind ^= _RSV1
            self._message = None  # so that a text is checked now, as one that came whole
            try:
                message = inflate(message, self._bytes_max)
            except TooLong as error:
                raise _Broken(TOO_BIG, f"a message has at most {self._bytes_max} bytes") from error
            except Corrupt as error:
                raise _Broken(INVALID_DATA, "a compressed message must be DEFLATE data") from error
        return super()._complete(message)


class CloseHandshake:
    """Which close frames have crossed: each side sends one, and nothing after it.

    Methods return the payload of the close frame to send now, or None where one went out already; the owner frames it
    (``frame`` or ``masked_frame``). Once ``complete`` the server closes the socket first, after a timeout in any case.
    """

    __slots__ = ("received", "sent")

    def __init__(self) -> None:
        self.sent = False
        self.received = False

    @property
    def complete(self) -> bool:
        """True when both close frames have crossed."""
        return self.sent and self.received

    def start(self, code: int, reason: str = "") -> bytes | None:
        """Begin (or answer a violation): send ``code`` unless a close frame is out already."""
        if self.sent:
            return None
        self.sent = True
        return close_payload(code, reason)

    def receive(self, close: Close) -> bytes | None:
        """Note the peer's close frame; return the echo of its code where this side still owes one."""
        self.received = True
        return self.start(close.code)


def unmask(payload: bytes, mask: bytes) -> bytes:
    """Return ``payload`` XOR ``mask`` (4 bytes, repeated); masks as well. RFC 6455 §5.3."""
    size = len(payload)
    key = (mask * ((size + 3) >> 2))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")


def frame(opcode: int, payload: bytes) -> bytes:
    """Return a whole unmasked frame, as servers send them; control payloads are for the caller to keep ≤ 125 bytes."""
    return _head(opcode, len(payload), 0) + payload


def masked_frame(opcode: int, payload: bytes, mask: bytes) -> bytes:
    """Return a whole frame as clients send them; ``mask`` is 4 bytes that the peer could not foresee."""
    return _head(opcode, len(payload), 0x80) + mask + unmask(payload, mask)


def deflated(frame_: bytes) -> bytes:
    """Return a whole unmasked data frame compressed, or itself where its payload is small or does not shrink."""
    head = 2 if frame_[1] < 126 else 4 if frame_[1] == 126 else 10
    if len(frame_) - head <= DEFLATE_FROM_BYTES:
        return frame_
    payload = deflate(memoryview(frame_)[head:])
    return frame(frame_[0] | _RSV1, payload) if head + len(payload) < len(frame_) else frame_


def close_payload(code: int, reason: str = "") -> bytes:
    """Return the payload of a close frame, its reason cut at a code point to fit 123 bytes; empty for NO_STATUS."""
    if code == NO_STATUS:
        return b""
    if not _is_sendable(code):
        raise ValueError(f"{code} is no close code that may be sent")
    cut = reason.encode()[:CLOSE_REASON_BYTES_MAX].decode(errors="ignore")
    return code.to_bytes(2) + cut.encode()


def close_frame(code: int, reason: str = "") -> bytes:
    """Return a server's close frame. Raises ValueError for a code that may not be sent (RFC 6455 §7.4)."""
    return frame(CLOSE, close_payload(code, reason))


def message_end(data: bytes, begin: int) -> int:
    """Return where the first whole message or control frame of a server at ``begin`` ends, or 0.

    Only finds the end; whether the frames obey the protocol is for ``FrameParser`` to say.
    """
    at, have = begin, len(data)
    while have - at >= 2:
        short = data[at + 1] & 0x7F
        body = at + (2 if short < 126 else 4 if short == 126 else 10)
        if data[at + 1] & 0x80:
            return have  # masked: a violation, let the parser see it
        size = short if short < 126 else int.from_bytes(data[at + 2 : body])
        if have < body or have - body < size:
            return 0
        at_fin, at = data[at] >= 0x80, body + size
        if at_fin:
            return at
    return 0


def _head(opcode: int, size: int, mask_bit: int) -> bytes:
    if size < 126:
        return bytes((0x80 | opcode, mask_bit | size))
    if size < 65_536:
        return bytes((0x80 | opcode, mask_bit | 126)) + size.to_bytes(2)
    return bytes((0x80 | opcode, mask_bit | 127)) + size.to_bytes(8)


def _is_sendable(code: int) -> bool:
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def _read_close(payload: bytes) -> Close:
    if not payload:
        return Close(NO_STATUS, "")
    code = int.from_bytes(payload[:2])
    if len(payload) == 1 or not _is_sendable(code):
        _break("a close payload begins with a valid code")
    _whole_code_points(payload[2:], final=True)
    return Close(code, payload[2:].decode())


def _whole_code_points(data: bytes, *, final: bool) -> int:
    """Return how many bytes of ``data`` are whole code points: all of them when ``final``, else up to 3 may hang over.

    Raises _Broken 1007 on the first byte that no valid UTF-8 text can go on with.
    """
    if data.isascii():
        return len(data)
    try:
        _, size = utf_8_decode(data, "strict", final)
    except UnicodeDecodeError as error:
        raise _Broken(INVALID_DATA, "text must be valid UTF-8") from error
    # CPython waits for the third byte of a surrogate although the second one already decides.
    if data[size : size + 1] == b"\xed" and data[size + 1 : size + 2] >= b"\xa0":
        raise _Broken(INVALID_DATA, "text must be valid UTF-8")
    return size


def _break(detail: str) -> NoReturn:
    raise _Broken(PROTOCOL_BROKEN, detail)
