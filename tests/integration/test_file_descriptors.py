"""A process that runs short of file descriptors turns clients away by itself, in words, and recovers."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import time
from collections.abc import Iterator

import pytest

from tests.support.engine_process import ServedEngine, engine_process

UPGRADE = (
    b"GET /connection/websocket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
LIMIT = 256


@pytest.fixture
def engine() -> Iterator[ServedEngine]:
    with engine_process() as started:
        _, hard = resource.prlimit(started.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(started.process.pid, resource.RLIMIT_NOFILE, (LIMIT, hard))
        yield started


async def knock(port: int) -> tuple[bytes, asyncio.StreamWriter]:
    """Ask for a WebSocket; return the status line (empty: cut off without a word) and the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(UPGRADE)
    try:
        return await asyncio.wait_for(reader.readline(), 5), writer
    except ConnectionError:
        return b"", writer


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


async def test_when_descriptors_run_short_clients_are_turned_away_in_words_and_come_back(engine: ServedEngine) -> None:
    answers = [await knock(engine.port) for _ in range(LIMIT + 50)]
    states = [answer.split(b" ")[1] if answer else b"" for answer, _ in answers]
    assert set(states) == {b"101", b"503"}
    assert states.count(b"101") > LIMIT // 2

    before_s = cpu_s(engine.process.pid)
    begun_s = time.monotonic()
    await asyncio.sleep(1)
    assert cpu_s(engine.process.pid) - before_s < 0.5 * (time.monotonic() - begun_s), "it spins"

    for _, writer in answers:
        writer.close()
    await asyncio.sleep(0.5)
    answer, writer = await knock(engine.port)
    assert b" 101 " in answer
    writer.close()
    assert "fanout_descriptors_short_total 0" not in (await asyncio.to_thread(engine.get, "/metrics")).text


async def test_a_burst_beyond_the_limit_leaves_the_port_listening(engine: ServedEngine) -> None:
    answers = await asyncio.gather(*(knock(engine.port) for _ in range(2 * LIMIT)), return_exceptions=True)
    for answer in answers:
        if not isinstance(answer, BaseException):
            answer[1].close()
    await asyncio.sleep(0.5)
    status, writer = await knock(engine.port)
    assert b" 101 " in status
    writer.close()


async def test_where_no_connection_can_be_accepted_at_all_nothing_spins_and_the_port_comes_back(
    engine: ServedEngine,
) -> None:
    pid = engine.process.pid
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")) - 5, hard))
    clients = [socket.create_connection(("127.0.0.1", engine.port)) for _ in range(100)]
    await asyncio.sleep(1.5)  # a look at the descriptors comes once a second
    before_s, begun_s = cpu_s(pid), time.monotonic()
    await asyncio.sleep(1)
    assert cpu_s(pid) - before_s < 0.5 * (time.monotonic() - begun_s), "it spins"
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (LIMIT, hard))
    for client in clients:
        client.close()
    answer, writer = await knock(engine.port)
    assert b" 101 " in answer or b" 503 " in answer
    writer.close()
