"""What one small frame costs to read, and what a connection that says nothing keeps in memory.

Invariant: every frame comes out as one text message. Goals (ours): ≤ 2.5 µs a frame, ≤ 400 bytes an idle parser.
"""

from __future__ import annotations

import argparse
import json
import time
import tracemalloc
from collections.abc import Sequence
from statistics import median

from fanout.protocol.deflate import deflate
from fanout.protocol.websocket import TEXT, FrameParser, InflatingParser, masked_frame

FRAMES = 50_000
ROUNDS = 5
PARSERS = 10_000
MASK = b"\x12\x34\x56\x78"
RSV1 = 0x40
BODIES = {
    "pong": b"{}",
    "ack": b'{"id":12,"rpc":{"method":"ack","data":{"acks":[{"c":"live:1","o":4711,"e":"abcd"}]}}}',
    "chat_utf8": ('{"id":1,"publish":{"channel":"live:1","data":{"t":"' + "你好世界" * 4 + '"}}}').encode(),
    "publish_1k": b'{"id":1,"publish":{"channel":"live:1","data":"' + b"x" * 1_000 + b'"}}',
}


def parse_us(body: bytes, *, is_deflated: bool = False) -> tuple[float, bool]:
    """Return CPU µs per frame (median of the rounds) and whether every frame came out as one event.

    ``is_deflated``: compressed, as a browser sends all of its messages.
    """
    data = masked_frame(RSV1 | TEXT, deflate(body), MASK) if is_deflated else masked_frame(TEXT, body, MASK)
    parser, seconds, events = InflatingParser() if is_deflated else FrameParser(), [], 0
    for _ in range(ROUNDS):
        begin = time.process_time()
        for _ in range(FRAMES):
            events += len(parser.feed(data))
        seconds.append(time.process_time() - begin)
    return median(seconds) / FRAMES * 1e6, events == ROUNDS * FRAMES


def idle_bytes() -> float:
    """Return the bytes that one parser keeps between messages."""
    data = masked_frame(TEXT, b"x" * 600, MASK)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    parsers = [FrameParser() for _ in range(PARSERS)]
    for parser in parsers:
        parser.feed(data[:100])
        parser.feed(data[100:])
    kept = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return kept / len(parsers)


def main(argv: Sequence[str]) -> int:
    """Print the figures; 1 when an invariant does not hold."""
    options = argparse.ArgumentParser(prog="bench websocket_parse", description=__doc__)
    options.add_argument("--json", action="store_true", help="only the JSON line")
    chosen = options.parse_args(argv)
    figures: dict[str, float | bool | str] = {"bench": "websocket_parse"}
    whole = True
    for name, body in BODIES.items():
        cost_us, complete = parse_us(body)
        figures[f"{name}_us"] = round(cost_us, 2)
        whole = whole and complete
        if not chosen.json:
            print(f"{name:>12} ({len(body)} bytes): {cost_us:.2f} µs a frame")
    cost_us, complete = parse_us(BODIES["ack"], is_deflated=True)
    figures["ack_deflated_us"] = round(cost_us, 2)
    whole = whole and complete
    figures["idle_parser_bytes"] = round(idle_bytes(), 1)
    if not chosen.json:
        print(f"ack, compressed: {cost_us:.2f} µs a frame")
        print(f"an idle parser keeps {figures['idle_parser_bytes']} bytes")
    figures["ok"] = whole
    print(json.dumps(figures))
    return 0 if whole else 1
