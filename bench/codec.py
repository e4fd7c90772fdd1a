"""What the codecs cost: µs for each publication push, command and reply, in both wire formats.

``python -m bench codec [--rounds N]``: the last line is one JSON object; figures are medians over the rounds. Exits 1
where a push made by hand differs from what the struct encoder gives.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import timeit
from collections.abc import Callable

from fanout.core.records import Entry
from fanout.protocol.centrifuge import (
    Command,
    ConnectRequest,
    PublishRequest,
    Push,
    Reply,
    SubscribeRequest,
    SubscribeResult,
    publication_of,
    raw_of,
)
from fanout.protocol.codecs import CODECS, Codec

ROOM = "live:concert-42"
CALLS = 5_000
CHAT = b'{"text":"' + b"x" * 89 + b'"}'  # 100 bytes, the payload of the protocol comparison
ENTRY = Entry(1_234_567, 0, 0, 2, 1_234_500, 99, 7_158_278_826_987_520, 0, 0, CHAT, "user-1234")
COMMANDS = {
    "connect": Command(1, connect=ConnectRequest(token="t" * 200, name="js")),
    "subscribe": Command(2, subscribe=SubscribeRequest(ROOM, recover=True, epoch="e7", offset=1_234_567)),
    "publish": Command(3, publish=PublishRequest(ROOM, raw_of(CHAT))),
    "pong": Command(),
}


def main(argv: list[str]) -> int:
    """Measure, print, and return the exit status."""
    parser = argparse.ArgumentParser(prog="bench codec")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="accepted for all benches; the last line always is")
    rounds = parser.parse_args(argv).rounds
    figures: dict[str, float | int | str] = {"bench": "codec", "payload_bytes": len(CHAT), "rounds": rounds}
    for wire_format, codec in CODECS.items():
        for name, work in _cases(codec).items():
            figures[f"{wire_format.value}_{name}_us"] = _median_us(work, rounds)
        figures[f"{wire_format.value}_push_bytes"] = len(_push(codec))
    wrong = [wire_format.value for wire_format, codec in CODECS.items() if not _is_exact(codec)]
    for name, figure in figures.items():
        print(f"{name:32} {figure}")
    print(json.dumps(figures))
    return 1 if wrong else 0


def _cases(codec: Codec) -> dict[str, Callable[[], object]]:
    prefix = codec.push_prefix(ROOM)
    replay = Reply(2, subscribe=SubscribeResult(publications=[publication_of(ENTRY, id_tag=False)] * 100))
    whole = Reply(push=Push(channel=ROOM, pub=publication_of(ENTRY, id_tag=False)))
    pushes = [_push(codec)] * 256
    cases: dict[str, Callable[[], object]] = {
        "push": lambda: codec.encode_publication_push(prefix, ENTRY, id_tag=False),
        "push_with_id_tag": lambda: codec.encode_publication_push(prefix, ENTRY, id_tag=True),
        "push_by_struct": lambda: codec.encode_reply(whole),
        "join_256": lambda: codec.join(pushes),
        "subscribe_reply_of_100": lambda: codec.encode_reply(replay),
    }
    for name, command in COMMANDS.items():
        frame = codec.encode_command(command)
        cases[f"decode_{name}"] = lambda frame=frame: codec.decode_commands(frame)  # type: ignore[misc]
    return cases


def _push(codec: Codec) -> bytes:
    return codec.encode_publication_push(codec.push_prefix(ROOM), ENTRY, id_tag=False)


def _is_exact(codec: Codec) -> bool:
    whole = Reply(push=Push(channel=ROOM, pub=publication_of(ENTRY, id_tag=False)))
    return _push(codec) == codec.encode_reply(whole) and codec.decode_replies(_push(codec)) == [whole]


def _median_us(work: Callable[[], object], rounds: int) -> float:
    calls = CALLS if timeit.timeit(work, number=10) < 0.001 else CALLS // 25
    return round(statistics.median(timeit.repeat(work, number=calls, repeat=rounds)) / calls * 1e6, 3)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
