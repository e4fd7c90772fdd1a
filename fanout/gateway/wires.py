"""The wire formats in use, by small numbers, and the frames that sessions in step share.

A frame here is a complete WebSocket frame, header included: handing it to a socket is all that is left to do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from fanout.core.limits import FRAME_BYTES_MAX, FRAME_MESSAGES_MAX
from fanout.core.records import Entry
from fanout.core.room_log import NONE, Encode, Publication, RoomLog, Tally, minus, tally
from fanout.protocol import websocket
from fanout.protocol.centrifuge import Push, Reply, WireFormat
from fanout.protocol.codecs import CODECS, Codec

WIRE_FORMATS: Final = (WireFormat.JSON, WireFormat.PROTOBUF)
WIRES: Final = range(len(WIRE_FORMATS))  # index of a wire format, in rooms, publications and sessions
WIRE_CODECS: Final[tuple[Codec, ...]] = tuple(CODECS[wire_format] for wire_format in WIRE_FORMATS)
PING_FRAMES: Final = tuple(websocket.frame(codec.opcode, codec.ping) for codec in WIRE_CODECS)

_ROOM_FOR_HEADER: Final = 16  # separators and the frame header count against FRAME_BYTES_MAX, too


class Frame(NamedTuple):
    """What sessions at one cursor are given: the bytes (empty: nothing to show), the cursor after them, and counts.

    ``written`` are the publications in it, ``skipped`` those too old for a session that was behind, ``binary`` those
    that this wire format cannot show.
    """

    data: bytes
    sent: int
    written: Tally
    skipped: Tally
    binary: Tally
    publications: Sequence[Publication]


def encoder(wire: int, room: str, *, id_tag: bool) -> Encode:
    """Return the function that turns an entry of a room into a push; ``b""`` where the format cannot show it."""
    codec = WIRE_CODECS[wire]
    prefix = codec.push_prefix(room)

    def encode(entry: Entry) -> bytes:
        if not codec.representable(entry):
            return b""
        return codec.encode_publication_push(prefix, entry, id_tag=id_tag)

    return encode


def build_frame(
    log: RoomLog, sent: int, wire: int, encode: Encode, *, stop: int | None = None, droppable_since_ms: int = 0
) -> Frame:
    """Return the next frame after a cursor: at most 256 publications or 64 KB, or one that is larger."""
    read = log.read(
        sent,
        entries_max=FRAME_MESSAGES_MAX,
        bytes_max=FRAME_BYTES_MAX - _ROOM_FOR_HEADER,
        size=lambda publication: len(publication.push(wire, encode)) + 1,
        droppable_since_ms=droppable_since_ms,
        stop=stop,
    )
    pushes = [publication.push(wire, encode) for publication in read.publications]
    binary = NONE
    if not all(pushes):
        shown = tally(publication.entry for publication, push in zip(read.publications, pushes, strict=True) if push)
        binary = minus(read.given, shown)
        pushes = [push for push in pushes if push]
    data = joined(wire, pushes)
    return Frame(data, read.sent, minus(read.given, binary), read.skipped, binary, read.publications)


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


Encoders = tuple[Callable[[Entry], bytes], ...]
