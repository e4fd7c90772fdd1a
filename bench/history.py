"""What one room batch costs the worker when it is stored: client CPU, in pipelines of 1,000 one-entry batches.

Invariant: every batch is stored, and a second run over the same batches changes nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from fanout.adapters import open_store
from fanout.core.records import Entry, encode_body
from fanout.ports import HistoryBatch, HistoryEntry, Store
from fanout.runtime.clock import SystemClock
from scripts.parts import start_redis

_ROOMS = 1_000


def batches(round_number: int, now_ms: int) -> list[HistoryBatch]:
    """Return one batch with one reliable entry of 100 bytes for each of a thousand rooms."""
    made = []
    for room in range(_ROOMS):
        offset = round_number * _ROOMS + room + 1
        prev = offset - _ROOMS if round_number else room
        entry = Entry(offset, 0, 0, 2, prev, round_number + 1, offset << 20, now_ms, now_ms, b"x" * 100, "alice")
        made.append(
            HistoryBatch(
                key=f"dev/group:{room}",
                epoch="bench",
                owner=now_ms,
                head=offset,
                last=offset,
                n=round_number + 1,
                applied=offset,
                state=b"s" * 64,
                entries=[HistoryEntry(offset, 0, prev, now_ms, encode_body(entry))],
                now_ms=now_ms,
                reliable_max=1_000,
                reliable_ttl_ms=600_000,
                recent_max=0,
                recent_ttl_ms=0,
            )
        )
    return made


async def measure(store: Store, rounds: int) -> dict[str, float]:
    """Store ``rounds`` pipelines; return figures. Raises AssertionError where the invariant does not hold."""
    now_ms = SystemClock().wall_ms()
    work = [batches(number, now_ms) for number in range(rounds)]
    await store.history.store(work[0])
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    for pipeline in work[1:]:
        results = await store.history.store(pipeline)
        assert not any(results), f"not stored: {next(filter(None, results))}"
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    stored = (rounds - 1) * _ROOMS
    await store.history.store(work[-1])
    page = await store.history.read("dev/group:7", "bench", after=0, limit=1_000, bytes_max=1 << 24)
    assert len(page.entries) == min(rounds, 1_000), "a replay must change nothing"
    started_s = time.perf_counter()
    for _ in range(200):
        await store.history.read("dev/group:7", "bench", after=0, limit=100, bytes_max=1 << 20)
    return {
        "batches": stored,
        "cpu_us_per_batch": round(cpu_s / stored * 1e6, 2),
        "wall_us_per_batch": round(wall_s / stored * 1e6, 2),
        "batches_per_s": round(stored / wall_s),
        "read_100_ms": round((time.perf_counter() - started_s) / 200 * 1e3, 3),
    }


async def _run(url: str, rounds: int) -> dict[str, float]:
    store = await open_store(url, prefix="bench", clock=SystemClock())
    try:
        return await measure(store, rounds)
    finally:
        await store.backend.close()


def main(argv: Sequence[str]) -> int:
    """Run; the last line printed is one JSON object. Returns 1 where the invariant does not hold."""
    parser = argparse.ArgumentParser(prog="bench history", description=__doc__)
    parser.add_argument("--store", help="redis://…; without it a Redis of its own is started")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as directory:
        redis = None if options.store else start_redis(Path(directory))
        try:
            figures = asyncio.run(_run(options.store or f"redis://{redis.address if redis else ''}", options.rounds))
        except AssertionError as error:
            print(json.dumps({"bench": "history", "failed": str(error)}))
            return 1
        finally:
            if redis is not None:
                redis.stop()
    print(json.dumps({"bench": "history", **figures}))
    return 0
