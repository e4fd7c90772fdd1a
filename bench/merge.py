"""What a merged message costs the room worker: CPU µs to read and fold one, beside one that thinning drops. No I/O.

    python -m bench merge --json

One room with 10,000 likes a second of record time, decided in slices of 1,000 records with the room's state encoded
after each, as a poll does. Exit 1 where merging sent more than five publications a second, or a like is missing.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from fanout.core import ledger
from fanout.core.limits import TURN_RECORDS
from fanout.core.messages import Priority
from fanout.core.policy import WINDOW_MS
from fanout.core.profiles import Profiles
from fanout.core.records import ATTACH, MERGE, MESSAGE, Attach, Merge, Message, encode
from workers import decide
from workers.partition import Partition
from workers.turn import Ownership, Turn

KEY: Final = b"bench/live:stage"
LIKES_PER_S: Final = 10_000
DATA: Final = b'{"like":"heart"}'


class _Record:
    """A record as read: slots, like those of the log's client."""

    __slots__ = ("key", "offset", "timestamp", "value")

    def __init__(self, offset: int, value: bytes) -> None:
        self.key = KEY
        self.offset = offset
        self.timestamp = 1_800_000_000_000 + offset * 1_000 // LIKES_PER_S
        self.value = value


class Figures(NamedTuple):
    """One run: CPU µs a message, publications sent, likes that the ledger does not account for."""

    cpu_us: float
    publications: int
    missing: int


def main(argv: Sequence[str]) -> int:
    """Run the bench; print its figures as one JSON object in the last line."""
    parser = argparse.ArgumentParser(prog="bench merge", description=__doc__)
    parser.add_argument("--likes", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5, help="the best one counts")
    asked = parser.parse_args(argv)
    merged = [_run(asked.likes, Merge("likes", "sum")) for _ in range(asked.rounds)]
    plain = [_run(asked.likes, None) for _ in range(asked.rounds)]
    per_s = max(run.publications for run in merged) * LIKES_PER_S / asked.likes
    missing = sum(run.missing for run in (*merged, *plain))
    figures = {
        "bench": "merge",
        "likes": asked.likes,
        "folded_us": round(min(run.cpu_us for run in merged), 2),
        "thinned_us": round(min(run.cpu_us for run in plain), 2),
        "publications_per_s": per_s,
        "missing": missing,
    }
    print(json.dumps(figures))
    return 1 if missing or per_s > 1_000 / WINDOW_MS else 0


def _run(likes: int, merge: Merge | None) -> Figures:
    partition = Partition(Ownership(0, 1, "e1"), 0, 1, Profiles())
    _take(partition, [_Record(0, encode(ATTACH, Attach(3, 1, 1)))])
    records = [_Record(number, _like(number, merge)) for number in range(1, likes + 1)]
    gc.collect()
    begun_s = time.process_time()
    for start in range(0, likes, TURN_RECORDS):
        _take(partition, records[start : start + TURN_RECORDS])
    cpu_s = time.process_time() - begun_s
    report = ledger.report(partition.rooms[KEY].encode())
    missing = likes - report["accepted"]["low"] + len(ledger.differences(report))
    return Figures(cpu_s / likes * 1e6, report["folds"]["low"], missing)


def _like(number: int, merge: Merge | None) -> bytes:
    message = Message(DATA, sender=f"user-{number % 5_000}", type="like", sent_ms=1, merge=merge)
    flags = MERGE if merge is not None else 0
    return encode(MESSAGE, message, priority=Priority.LOW.value, flags=flags, id=number)


def _take(partition: Partition, records: Sequence[_Record]) -> None:
    turn = Turn(1, 0.0)
    partition.take(turn, records)
    if wanted := partition.ask(1):
        partition.loaded(turn, dict.fromkeys(wanted), lambda _: False)
    decide.close(turn)
