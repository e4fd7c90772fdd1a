"""The wires in use, by small numbers, and the frames that sessions in step share.

A wire is what a session's bytes look like: a wire format, with permessage-deflate or without. Both wires of a format
share encoded pushes and joined frames; a large joined frame is compressed once more for all who negotiated that.

A frame here is a complete WebSocket frame, header included: handing it to a socket is all that is left to do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from fanout.core.limits import FRAME_BYTES_MAX, FRAME_MESSAGES_MAX, SWEEP_FRAME_SESSIONS
from fanout.core.records import Entry
from fanout.core.room_log import NONE, Encode, Publication, RoomLog, Tally, minus, tally
from fanout.protocol import websocket
from fanout.protocol.centrifuge import Push, Reply, WireFormat
from fanout.protocol.codecs import CODECS, Codec
from fanout.runtime.metrics import FRAMES_DEFLATED

WIRE_FORMATS: Final = (WireFormat.JSON, WireFormat.PROTOBUF)
_DEFLATE: Final = len(WIRE_FORMATS)  # added to the index of a format: the wire with permessage-deflate
WIRES: Final = range(2 * _DEFLATE)  # index of a wire, in rooms and sessions
FORMAT_OF: Final = tuple(wire % _DEFLATE for wire in WIRES)  # index of a wire's format, in publications
IS_DEFLATED: Final = tuple(wire >= _DEFLATE for wire in WIRES)
WIRE_LABELS: Final = tuple(  # of metrics
    (WIRE_FORMATS[FORMAT_OF[wire]].value, "deflate" if IS_DEFLATED[wire] else "none") for wire in WIRES
)
WIRE_CODECS: Final[tuple[Codec, ...]] = tuple(CODECS[WIRE_FORMATS[FORMAT_OF[wire]]] for wire in WIRES)
PING_FRAMES: Final = tuple(websocket.frame(codec.opcode, codec.ping) for codec in WIRE_CODECS)

Encoders = tuple[Callable[[Entry], bytes], ...]

_JOINED_MAX: Final = 8  # frames of 64 KB that a room holds while a sweep is under way
_ROOM_FOR_HEADER: Final = 16  # separators and the frame header count against FRAME_BYTES_MAX, too


class Frame(NamedTuple):
    """What sessions at one cursor are given: the bytes (empty: nothing to show), the cursor after them, and counts.

    ``written`` are the publications in it, ``skipped`` those too old for a session that was behind, ``binary`` those
    that this wire format cannot show. ``saved``: bytes that compression took off.
    """

    data: bytes
    sent: int
    written: Tally
    skipped: Tally
    binary: Tally
    publications: Sequence[Publication]
    saved: int = 0


def wire_of(wire_format: WireFormat, *, is_deflated: bool) -> int:
    """Return the wire of a session that speaks a format."""
    return WIRE_FORMATS.index(wire_format) + (_DEFLATE if is_deflated else 0)


def encoders(room: str, *, id_tag: bool) -> Encoders:
    """Return for each wire the function that turns an entry of a room into a push, shared by the wires of a format."""
    of_format = [_encoder(CODECS[wire_format], room, id_tag) for wire_format in WIRE_FORMATS]
    return tuple(of_format[FORMAT_OF[wire]] for wire in WIRES)


def _encoder(codec: Codec, room: str, id_tag: bool) -> Encode:
    """Return a function that gives ``b""`` where the format cannot show an entry."""
    prefix = codec.push_prefix(room)

    def encode(entry: Entry) -> bytes:
        if not codec.representable(entry):
            return b""
        return codec.encode_publication_push(prefix, entry, id_tag=id_tag)

    return encode


def build_frame(
    log: RoomLog, sent: int, wire: int, encode: Encode, *, stop: int | None = None, droppable_since_ms: int = 0
) -> Frame:
    """Return the next frame after a cursor: at most 256 publications or 64 KB, or one that is larger.

    It is not compressed, which is allowed on every wire: that is worth its time for ``SharedFrames`` only.
    """
    wire_format = FORMAT_OF[wire]
    read = log.read(
        sent,
        entries_max=FRAME_MESSAGES_MAX,
        bytes_max=FRAME_BYTES_MAX - _ROOM_FOR_HEADER,
        size=lambda publication: len(publication.push(wire_format, encode)) + 1,
        droppable_since_ms=droppable_since_ms,
        stop=stop,
    )
    pushes = [publication.push(wire_format, encode) for publication in read.publications]
    binary = NONE
    if not all(pushes):
        shown = tally(publication.entry for publication, push in zip(read.publications, pushes, strict=True) if push)
        binary = minus(read.given, shown)
        pushes = [push for push in pushes if push]
    data = joined(wire, pushes)
    return Frame(data, read.sent, minus(read.given, binary), read.skipped, binary, read.publications)


class SharedFrames:
    """Frames of one room that sessions in step share, by the cursor after which they begin.

    A format is encoded and joined once for all its wires. A frame is compressed once for all who are given it, and it
    is worth that: until it has gone to ``SWEEP_FRAME_SESSIONS`` it is not replaced by one with newer publications.
    """

    __slots__ = ("_encode", "_end", "_held", "_joined")

    def __init__(self, encode: Encoders) -> None:
        self._encode = encode
        self._held: dict[int, _Held] = {}  # by wire
        self._joined: dict[tuple[int, int], Frame] = {}  # by format and cursor, as long as the log ends at ``_end``
        self._end = 0

    def held(self, log: RoomLog, wire: int, sent: int) -> Frame | None:
        """Return the frame after a cursor that is being handed out on a wire, where it is still the one to give."""
        held = self._held.get(wire)
        if held is None or held.after != sent or not (held.sessions > 0 or held.frame.sent == log.end):
            return None
        return held.frame

    def build(self, log: RoomLog, wire: int, sent: int, *, droppable_since_ms: int = 0) -> Frame:
        """Return the next frame after a cursor, up to the end of the log as far as its bounds allow, and hold it.

        Droppable publications that came before ``droppable_since_ms`` (as in ``RoomLog.read``) are skipped in it.
        """
        if log.end != self._end or len(self._joined) >= _JOINED_MAX:
            self._joined.clear()
            self._end = log.end
        place = (FORMAT_OF[wire], sent)
        frame = self._joined.get(place)
        if frame is None:
            frame = self._joined[place] = build_frame(
                log, sent, wire, self._encode[wire], droppable_since_ms=droppable_since_ms
            )
        if IS_DEFLATED[wire]:
            frame = _deflated(frame)
        self._held[wire] = _Held(sent, frame)
        return frame

    def given(self, wire: int, sessions: int) -> None:
        """Count those who were given the frame that is held for a wire."""
        self._held[wire].sessions -= sessions

    def clear(self) -> None:
        """Forget all frames: everybody has them."""
        self._held.clear()
        self._joined.clear()


class _Held:
    """A frame on its way, the cursor that it follows, and how many sessions it goes to at least."""

    __slots__ = ("after", "frame", "sessions")

    def __init__(self, after: int, frame: Frame) -> None:
        self.after = after
        self.frame = frame
        self.sessions = SWEEP_FRAME_SESSIONS


def _deflated(frame: Frame) -> Frame:
    """Return a frame compressed, or the same one where it is small or does not shrink."""
    data = websocket.deflated(frame.data) if frame.data else frame.data
    if data is frame.data:
        return frame
    FRAMES_DEFLATED.inc()
    return frame._replace(data=data, saved=len(frame.data) - len(data))


def joined(wire: int, pushes: Sequence[bytes]) -> bytes:
    """Return one WebSocket frame of encoded replies, or nothing where there are none."""
    if not pushes:
        return b""
    codec = WIRE_CODECS[wire]
    return websocket.frame(codec.opcode, codec.join(pushes))


def reply_frame(wire: int, reply: Reply) -> bytes:
    """Return one reply as a WebSocket frame."""
    codec = WIRE_CODECS[wire]
    return websocket.frame(codec.opcode, codec.encode_reply(reply))


def push_frame(wire: int, push: Push) -> bytes:
    """Return one push as a WebSocket frame."""
    return reply_frame(wire, Reply(push=push))
