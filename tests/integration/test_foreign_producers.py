"""Foreign producers on a real Kafka: what they append reaches clients, and a wrong partitioner's records are parked."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import uuid
import zlib
from pathlib import Path

import msgspec
import pytest

from fanout.adapters import open_log
from fanout.core.records import DEAD, PARTITIONS, Parked
from fanout.ports import Topics
from fanout.runtime.clock import SystemClock
from scripts.parts import Running
from sharding.placement import partition_of
from tests.support.engine_process import ServedEngine, engine_process
from tests.support.wire_client import wire_client

pytestmark = pytest.mark.real
EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str, kafka: Running, prefix: str, *arguments: str) -> str:
    """Run an example as its docstring says; return what it printed."""
    finished = subprocess.run(
        [sys.executable, str(EXAMPLES / name), "--bootstrap", kafka.address, "--topic", f"{prefix}.messages",
         "--app", "dev", *arguments],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


async def received(engine: ServedEngine, room: str, send: list[str], kafka: Running, prefix: str) -> list[object]:
    """Run an example while a client listens; return what the client was given."""
    async with wire_client(engine.ws_url, room=room) as client:
        await asyncio.to_thread(example, send[0], kafka, prefix, "--room", room, *send[1:])
        return [await client.publication() for _ in send[1:]]


def test_records_of_both_clients_are_delivered_and_the_default_partitioner_of_librdkafka_is_parked(
    kafka: Running, kafka_url: str, redis_url: str
) -> None:
    prefix = f"f{uuid.uuid4().hex[:12]}"
    options = ["--insecure", "--log", kafka_url, "--store", redis_url, "--prefix", prefix]
    with engine_process(options, start_s=60) as engine:
        for name in ("foreign_aiokafka.py", "foreign_confluent.py"):
            room = f"open:{name[:-3]}"
            got = asyncio.run(received(engine, room, [name, "one", "two", "three"], kafka, prefix))
            assert [one["data"] for one in got] == [{"text": text} for text in ("one", "two", "three")]  # type: ignore[index]
            assert got[0]["info"]["user"] == "kafka-bridge"  # type: ignore[index]
            ids = [int(item["id"]) for item in engine.get(f"/v1/rooms/{room}/history").json()["items"]]
            assert ids == sorted(set(ids))
        room = crc_room()
        example("foreign_confluent.py", kafka, prefix, "--room", room, "--partitioner", "consistent_random", "lost")
        parked = asyncio.run(first_parked(kafka_url, prefix))
        assert (parked.reason, parked.key, parked.topic) == ("wrong_partition", f"dev/{room}", "messages")
        assert parked.value.startswith(b"{")
        example("foreign_confluent.py", kafka, prefix, "--room", room, "found")
        assert read_room(engine, room) == [{"text": "found"}]


def crc_room() -> str:
    """Return a room whose CRC32 partition (librdkafka's default) is not its murmur2 partition."""
    count = PARTITIONS["messages"]
    for number in range(1_000):
        key = f"dev/open:crc-{number}".encode()
        if zlib.crc32(key) % count != partition_of(key, count):
            return f"open:crc-{number}"
    raise AssertionError("two hashes cannot agree on everything")


async def first_parked(kafka_url: str, prefix: str) -> Parked:
    """Wait for the first record on the dead-letter topic."""
    log = await open_log(kafka_url, topics=Topics(prefix=prefix), clock=SystemClock())
    try:
        reader = await log.reader(DEAD, [0])
        reader.seek(0, 0)
        async with asyncio.timeout(20):
            while not (polled := await reader.poll(10, 0.5)):
                pass
        value = polled[0][0].value
        assert value is not None
        return msgspec.json.decode(value, type=Parked)
    finally:
        await log.close()


def read_room(engine: ServedEngine, room: str) -> list[object]:
    """Wait until a room has a history; return the data of its publications."""
    deadline_s = time.monotonic() + 20
    while (answer := engine.get(f"/v1/rooms/{room}/history")).status_code != 200:
        assert time.monotonic() < deadline_s, answer.text
        time.sleep(0.1)
    return [item["data"] for item in answer.json()["items"]]
