"""Commands on a real Kafka and Redis: topics, doctor, several processes on one port."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

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


async def test_a_process_that_is_killed_is_started_again_and_its_sessions_count_no_more(engine: EngineProcess) -> None:
    clients = [Client(engine.websocket_url) for _ in range(12)]
    try:
        await asyncio.gather(*(client.connect() for client in clients))
        assert sessions(engine) == len(clients)
        opened = metric(engine, OPENED)
        await asyncio.to_thread(kill_a_child, engine.pid)
        async with asyncio.timeout(30):  # those of the dead one come back, to the other one or to its successor
            while metric(engine, OPENED) == opened or sessions(engine) != len(clients):
                await asyncio.sleep(0.1)
        assert metric(engine, 'fanout_process_restarts_total{cause="crash"}') == 1
        assert metric(engine, OPENED) > opened, "counters of the dead one go on"
        async with asyncio.timeout(30):
            while metric(engine, 'fanout_leases_held{pool="slots"}') != 2:
                await asyncio.sleep(0.1)
    finally:
        await asyncio.gather(*(client.close() for client in clients))
    assert await asyncio.to_thread(engine.stop) == 0


def test_processes_that_find_no_log_wait_for_it_and_can_be_stopped() -> None:
    command = [sys.executable, "-m", "fanout", "serve", "--insecure", "--port", "0", "--processes", "2"]
    command += ["--log", "kafka://127.0.0.1:1", "--store", "redis://127.0.0.1:1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    with process.stderr as errors:
        said = [errors.readline() for _ in range(6)]
        assert all("127.0.0.1" in line for line in said)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


OPENED = 'fanout_sessions_opened_total{compression="none",wire_format="json"}'


def sessions(engine: EngineProcess) -> float:
    """Return how many sessions both processes hold."""
    return metric(engine, 'fanout_sessions{compression="none",wire_format="json"}')


def kill_a_child(pid: int) -> None:
    """Kill the first child of a process."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)


def metric(engine: EngineProcess, name: str) -> float:
    """Return a value of one scrape, which counts both processes."""
    text = ""
    while not text:
        # it may be the killed process that had taken the connection
        with (
            contextlib.suppress(ConnectionError),
            urllib.request.urlopen(engine.url + "/metrics", timeout=10) as answer,
        ):
            text = answer.read().decode()
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found, name
    return float(found[1])
