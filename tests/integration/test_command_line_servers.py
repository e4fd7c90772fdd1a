"""Commands on a real Kafka and Redis: topics, doctor, several processes on one port."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator

import pytest

from fanout.cli.api_client import ApiClient
from fanout.client import Client, OnPublication
from fanout.core.records import PARTITIONS
from fanout.runtime.launch import EngineProcess

pytestmark = pytest.mark.real


@pytest.fixture
def prefix() -> str:
    return f"p{uuid.uuid4().hex[:8]}"


def fanout(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fanout", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_topics_are_made_once_and_the_doctor_then_finds_them(kafka_url: str, redis_url: str, prefix: str) -> None:
    before = fanout("doctor", "--log", kafka_url, "--store", redis_url, "--prefix", prefix)
    assert before.returncode == 1
    assert "fanout topics apply" in before.stdout
    made = fanout("topics", "apply", "--log", kafka_url, "--prefix", prefix)
    assert made.returncode == 0, made.stderr
    assert len(made.stdout.splitlines()) == len(PARTITIONS)
    again = fanout("topics", "apply", "--log", kafka_url, "--prefix", prefix)
    assert again.returncode == 0, again.stdout
    after = fanout("doctor", "--log", kafka_url, "--store", redis_url, "--prefix", prefix)
    assert after.returncode == 0, after.stdout
    assert f"{prefix}.messages" in after.stdout


def test_topics_apply_without_a_kafka_says_where_it_looked() -> None:
    assert fanout("topics", "apply", "--log", "memory").returncode == 2
    nobody = fanout("topics", "apply", "--log", "kafka://127.0.0.1:1")
    assert nobody.returncode == 1
    assert "127.0.0.1" in nobody.stderr


@pytest.fixture
def engine(kafka_url: str, redis_url: str, prefix: str) -> Iterator[EngineProcess]:
    flags = ["--insecure", "--port", "0", "--processes", "2", "--prefix", prefix]
    started = EngineProcess([*flags, "--log", kafka_url, "--store", redis_url]).start()
    yield started
    started.kill()


async def test_two_processes_share_a_port_and_every_session_gets_everything(engine: EngineProcess) -> None:
    got: list[list[int]] = [[] for _ in range(12)]

    def shower(seen: list[int]) -> OnPublication:
        return lambda publication: seen.append(publication.offset)

    clients = [Client(engine.websocket_url) for _ in got]
    try:
        for client, seen in zip(clients, got, strict=True):
            await client.connect()
            await client.subscribe("open:both", shower(seen))
        with ApiClient(engine.url) as api:
            sent = [
                (await asyncio.to_thread(api.post, "/v1/publish", {"room": "open:both", "data": number}))["offset"]
                for number in range(20)
            ]
        async with asyncio.timeout(20):
            while any(len(seen) < len(sent) for seen in got):
                await asyncio.sleep(0.05)
        assert all(seen == sent for seen in got)
    finally:
        await asyncio.gather(*(client.close() for client in clients))
    assert metric(engine, 'fanout_leases_held{pool="slots"}') == 2
    assert metric(engine, 'fanout_messages_accepted_total{priority="normal"}') == len(sent)
    assert await asyncio.to_thread(engine.stop) == 0


def metric(engine: EngineProcess, name: str) -> float:
    """Return a value of one scrape, which counts both processes."""
    with urllib.request.urlopen(engine.url + "/metrics", timeout=10) as answer:
        found = re.search(rf"^{re.escape(name)} (\S+)$", answer.read().decode(), re.MULTILINE)
    assert found, name
    return float(found[1])
