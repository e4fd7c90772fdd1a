"""What shared compression gives and costs: bytes on the wire for each message, CPU µs for each frame, at every level.

Frames are those of a live room, joined from the seeded corpus of chat lines in ``_chat_lines``. ``python -m bench
deflate`` prints as its last line the figures of the level in use at 64 joined JSON publications, with ``--table`` those
of all levels before it. ``worst_ms``: a frame of 64 KB that is made to be slow, which somebody may publish.
Invariants: every frame inflates to what it was, and a message takes at most 40 bytes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from random import Random
from statistics import median
from typing import Final, NamedTuple

from bench._chat_lines import SEED, payloads
from fanout.core.limits import DEFLATE_LEVEL, FRAME_BYTES_MAX
from fanout.core.messages import Kind
from fanout.core.profiles import LIVE
from fanout.core.records import Entry
from fanout.core.room_log import Position
from fanout.gateway.room import Room
from fanout.gateway.wires import WIRE_FORMATS
from fanout.protocol import websocket
from fanout.protocol.deflate import deflate, inflate

ROOM: Final = "dev/live:final-2026"
FIRST_OFFSET: Final = 48_211_904
FRAMES: Final = 64
JOINED: Final = 64
BYTES_PER_MESSAGE_MAX: Final = 40.0


class Cost(NamedTuple):
    """Of one level at one number of joined messages, medians over the rounds."""

    plain_bytes_per_message: float
    bytes_per_message: float
    us_per_frame: float
    is_exact: bool


def room_frames(joined: int, wire: int, count: int = FRAMES) -> Iterator[bytes]:
    """Yield frames of ``joined`` messages as a live room makes them, no two with a line in common."""
    dice = Random(SEED)
    room = Room(ROOM, LIVE, 0, 1)
    room.begin(Position("e", FIRST_OFFSET, FIRST_OFFSET, FIRST_OFFSET, 0))
    log, offset = room.known_log, FIRST_OFFSET
    for index, (user, data) in enumerate(payloads(joined * count), 1):
        offset += dice.choice((1, 1, 2, 3))  # other rooms have records in the partition, too
        log.append(Entry(offset, 0, Kind.RECENT.value, 2, log.last, 0, offset, 0, 0, data, user), 0, 0, 0)
        if index % joined == 0:
            frame = room.frame(log.end - joined, wire)
            assert frame.sent == log.end, "a frame holds them all"
            yield frame.data


def cost(frames: Sequence[bytes], joined: int, level: int, rounds: int) -> Cost:
    """Return what compressing the frames costs and gives."""
    bodies = [frame[_head(frame) :] for frame in frames]
    seconds = []
    for _ in range(rounds):
        begin = time.process_time()
        packed = [deflate(body, level) for body in bodies]
        seconds.append(time.process_time() - begin)
    messages = joined * len(frames)
    sent = sum(len(websocket.frame(websocket.TEXT, one)) for one in packed)
    is_exact = all(inflate(one, len(body)) == body for one, body in zip(packed, bodies, strict=True))
    us = median(seconds) / len(frames) * 1e6
    return Cost(sum(map(len, frames)) / messages, sent / messages, us, is_exact)


def worst_ms(level: int, rounds: int) -> float:
    """Return the CPU ms that the slowest 64 KB take which are known: few letters in random order."""
    dice = Random(SEED)
    slowest = 0.0
    for letters in (b"ab", b"abcde", b"0123456789", b"abcdefghijklmnop"):
        text = bytes(dice.choices(letters, k=FRAME_BYTES_MAX))
        slowest = max(slowest, min(_seconds(text, level) for _ in range(rounds)))
    return slowest * 1e3


def _seconds(text: bytes, level: int) -> float:
    begin = time.process_time()
    deflate(text, level)
    return time.process_time() - begin


def _head(frame: bytes) -> int:
    return 2 if frame[1] < 126 else 4 if frame[1] == 126 else 10


def main(argv: Sequence[str]) -> int:
    """Print the figures; 1 when an invariant does not hold."""
    parser = argparse.ArgumentParser(prog="bench deflate", description=__doc__)
    parser.add_argument("--json", action="store_true", help="accepted for all benches; the last line always is")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--table", action="store_true", help="all levels, both wire formats")
    parser.add_argument("--joined", type=int, nargs="+", default=[4, 16, JOINED, 128, 256])
    options = parser.parse_args(argv)
    is_exact = True
    if options.table:
        for joined in options.joined:
            is_exact &= _table(joined, options.rounds)
    chosen = cost(list(room_frames(JOINED, 0)), JOINED, DEFLATE_LEVEL, options.rounds)
    figures = {
        "bench": "deflate",
        "joined": JOINED,
        "level": DEFLATE_LEVEL,
        "wire": WIRE_FORMATS[0].value,
        "plain_bytes_per_message": round(chosen.plain_bytes_per_message, 2),
        "bytes_per_message": round(chosen.bytes_per_message, 2),
        "us_per_frame": round(chosen.us_per_frame, 1),
        "worst_ms": round(worst_ms(DEFLATE_LEVEL, options.rounds), 1),
        "ok": is_exact and chosen.is_exact and chosen.bytes_per_message <= BYTES_PER_MESSAGE_MAX,
    }
    print(json.dumps(figures))
    return 0 if figures["ok"] else 1


def _table(joined: int, rounds: int) -> bool:
    """Print all levels for both wire formats; False where a frame did not come back whole."""
    is_exact = True
    for wire, wire_format in enumerate(WIRE_FORMATS):
        frames = list(room_frames(joined, wire))
        for level in range(1, 10):
            found = cost(frames, joined, level, rounds)
            is_exact &= found.is_exact
            print(
                f"{joined:>4} joined, {wire_format.value:>8}, level {level}: {found.plain_bytes_per_message:6.1f} →"
                f" {found.bytes_per_message:5.1f} bytes a message, {found.us_per_frame:7.1f} µs a frame"
            )
    return is_exact
