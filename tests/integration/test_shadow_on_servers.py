"""``fanout shadow`` against the ledger that a room worker stored, on a real Kafka and a real Redis."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from fanout.adapters import apply_topics, open_log, open_store
from fanout.core.messages import Priority
from fanout.core.records import CHUNKS, DEAD, MEMBERS, MESSAGES, PARTITIONS, TASKS
from fanout.ports import Topics
from fanout.runtime.clock import SystemClock
from tests.support.rooms import ROOM, message
from tests.support.worker_world import World

pytestmark = pytest.mark.real

FEW = '{"reserved_slots": 1, "shared_slots_min": 1, "shared_slots_max": 3}'


@pytest.fixture
def own_topics() -> Topics:
    """As many partitions of ``messages`` as a shadow expects, and few of what it does not read."""
    counts = {MESSAGES: PARTITIONS[MESSAGES], MEMBERS: 2, TASKS: 2, CHUNKS: 4, DEAD: 1}
    return Topics(prefix=f"t{uuid.uuid4().hex[:12]}", partitions=counts)


@pytest.fixture
async def world(kafka_url: str, redis_url: str, own_topics: Topics) -> AsyncIterator[World]:
    clock = SystemClock()
    await apply_topics(kafka_url, own_topics, replication=1)
    log = await open_log(kafka_url, topics=own_topics, clock=clock)
    store = await open_store(redis_url, prefix=own_topics.prefix, clock=clock)
    opened = World(log, store, clock)
    yield opened
    await opened.close()
    await log.close()
    await store.backend.close()


async def shadow(*arguments: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "fanout", "shadow", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_a_shadow_finds_what_the_worker_stored_and_writes_nothing(
    world: World, kafka_url: str, redis_url: str, own_topics: Topics, tmp_path: Path
) -> None:
    await world.worker()
    gateway = await world.gateway(1)
    await world.attach(ROOM, gateway)
    classes = [Priority.HIGH, *[Priority.NORMAL] * 5, *[Priority.LOW] * 3]
    values = [message(classes[n % 9], n + 1, sender=f"u{n % 7}", data=b'{"n":%d}' % n) for n in range(450)]
    await asyncio.gather(*(world.append(ROOM, value) for value in values))
    await world.append(ROOM, b"no record")
    await world.publish("app/live:other", 5)
    await world.settled()
    expected = await world.ledger(ROOM)
    del expected["edge"]
    ends = await world.log.ends(MESSAGES, range(PARTITIONS[MESSAGES]))

    policy, svg = tmp_path / "few.json", tmp_path / "plot.svg"
    policy.write_text(FEW)
    where = ["--policy", str(policy), "--app", "app", "--log", kafka_url, "--prefix", own_topics.prefix]
    ended = await shadow(*where, "--store", redis_url, "--room", "live:stage", "--json", "--svg", str(svg))
    assert ended.returncode == 0, ended.stderr
    found = msgspec.json.decode(ended.stdout)
    assert found["in_force"] == expected
    assert sum(expected["accepted"].values()) == 450
    assert 0 < found["proposed"]["kept"]["normal"] < expected["kept"]["normal"] < 250
    assert found["proposed"]["kept"]["high"] == expected["kept"]["high"] == 50
    assert any("records of the room are none" in note for note in found["notes"])
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")

    shown = await shadow(*where, "--room", "live:stage", "--since", "1h")
    assert shown.returncode == 0, shown.stderr
    assert "difference" in shown.stdout and "█" in shown.stdout
    silent = await shadow(*where, "--room", "live:silent")
    assert (silent.returncode, silent.stdout) == (1, "")
    assert "no messages of room live:silent of app app" in silent.stderr
    assert await world.log.ends(MESSAGES, range(PARTITIONS[MESSAGES])) == ends


async def test_a_shadow_makes_no_topics_where_there_are_none(kafka_url: str, tmp_path: Path) -> None:
    (tmp_path / "few.json").write_text(FEW)
    where = ["--policy", str(tmp_path / "few.json"), "--log", kafka_url, "--prefix", f"t{uuid.uuid4().hex[:12]}"]
    for _ in range(2):
        ended = await shadow(*where, "--room", "live:stage")
        assert ended.returncode == 2
        assert "fanout topics apply" in ended.stderr
        assert len(ended.stderr.splitlines()) == 1
