"""How long a record takes from ``append`` to the reader's ``poll``, on Kafka: chunks (acks=1) and durable records.

Also what appending and polling cost in bulk. Invariant: every record arrives, once and in order.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from fanout.adapters import open_log
from fanout.core.records import CHUNKS, MESSAGES
from fanout.ports import Log, LogReader, Topics
from fanout.runtime.clock import SystemClock
from scripts.parts import start_kafka

_TOPICS = Topics(prefix="bench", partitions={MESSAGES: 4, CHUNKS: 4})
_BULK = 1_000


async def latencies_ms(log: Log, topic: str, *, durable: bool, records: int, per_s: float) -> list[float]:
    """Append at a steady rate and read at the same time; return sorted append → poll times."""
    writer, reader = await log.writer(durable=durable), await log.reader(topic, [1])
    await writer.append(topic, 1, None, b"0")
    taken: list[float] = []

    async def read() -> None:
        while len(taken) <= records:
            for found in (await reader.poll(1_000, 5.0)).values():
                now_s = time.perf_counter()
                taken.extend((now_s - float(record.value or b"0")) * 1e3 for record in found)

    reading = asyncio.create_task(read())
    next_s = time.perf_counter()
    for _ in range(records):
        await writer.append(topic, 1, None, repr(time.perf_counter()).encode())
        next_s += 1 / per_s
        await asyncio.sleep(max(0.0, next_s - time.perf_counter()))
    await asyncio.wait_for(reading, 10)
    return sorted(taken[1:])


async def bulk(log: Log, records: int) -> dict[str, float]:
    """Append in thousands, then read in thousands; return client CPU per record."""
    writer, reader = await log.writer(durable=True), await log.reader(MESSAGES, [0])
    value = b"x" * 200
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    for _ in range(records // _BULK):
        await writer.append_many(MESSAGES, 0, [(b"dev/live:room", value)] * _BULK)
    append_cpu_s, append_wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    await _read_in_order(reader, records)
    return {
        "append_many_cpu_us": round(append_cpu_s / records * 1e6, 2),
        "append_many_per_s": round(records / append_wall_s),
        "poll_cpu_us": round((time.process_time() - cpu_s) / records * 1e6, 2),
        "poll_per_s": round(records / (time.perf_counter() - wall_s)),
    }


async def _read_in_order(reader: LogReader, records: int) -> None:
    expected = reader.position(0)
    last = expected + records
    while expected < last:
        found = (await reader.poll(5_000, 5.0)).get(0, ())
        assert found, f"no record after log offset {expected}"
        for record in found:
            assert record.offset == expected, f"{record.offset} came instead of {expected}"
            expected += 1


async def _run(url: str, records: int) -> dict[str, float]:
    log = await open_log(url, topics=_TOPICS, clock=SystemClock())
    figures: dict[str, float] = {}
    try:
        for name, topic, durable in (("chunk", CHUNKS, False), ("durable", MESSAGES, True)):
            taken = await latencies_ms(log, topic, durable=durable, records=records, per_s=200)
            assert len(taken) == records, f"{records} appended, {len(taken)} read"
            figures[f"{name}_p50_ms"] = round(taken[len(taken) // 2], 2)
            figures[f"{name}_p99_ms"] = round(taken[len(taken) * 99 // 100], 2)
        return figures | await bulk(log, 100 * _BULK)
    finally:
        await log.close()


def main(argv: Sequence[str]) -> int:
    """Run; the last line printed is one JSON object. Returns 1 where the invariant does not hold."""
    parser = argparse.ArgumentParser(prog="bench log_latency", description=__doc__)
    parser.add_argument("--log", help="kafka://…; without it a broker of its own is started")
    parser.add_argument("--records", type=int, default=1_000)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as directory:
        kafka = None if options.log else start_kafka(Path(directory))
        try:
            figures = asyncio.run(_run(options.log or f"kafka://{kafka.address if kafka else ''}", options.records))
        except (AssertionError, TimeoutError) as error:
            print(json.dumps({"bench": "log_latency", "failed": str(error) or "records did not arrive"}))
            return 1
        finally:
            if kafka is not None:
                kafka.stop()
    print(json.dumps({"bench": "log_latency", **figures}))
    return 0
