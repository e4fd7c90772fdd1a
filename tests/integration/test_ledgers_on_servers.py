"""The last hour, an app's sum and outcomes on a real Kafka and a real Redis, with a worker that dies in between."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from fanout.adapters import apply_topics, open_log, open_store
from fanout.core.ledger import differences
from fanout.core.messages import Priority
from fanout.core.records import KEYED, TRACKED
from fanout.ports import Topics
from fanout.runtime.clock import SystemClock
from fanout.sender.ledgers import LedgerReader
from tests.support.rooms import message
from tests.support.worker_world import World, until

pytestmark = pytest.mark.real

ROOMS = [f"app/live:{name}" for name in "abcdef"]
EACH = 40


@pytest.fixture
async def world(kafka_url: str, redis_url: str, topics: Topics) -> AsyncIterator[World]:
    clock = SystemClock()
    await apply_topics(kafka_url, topics, replication=1)
    log = await open_log(kafka_url, topics=topics, clock=clock)
    store = await open_store(redis_url, prefix=topics.prefix, clock=clock)
    opened = World(log, store, clock)
    yield opened
    await opened.close()
    await log.close()
    await store.backend.close()


async def test_the_hour_the_sum_and_every_outcome_survive_a_worker_that_dies(world: World) -> None:
    first = await world.worker()
    ids = iter(range(1, 10_000))
    published: dict[str, list[int]] = {room: [] for room in ROOMS}

    async def publish(messages: int) -> None:
        for _ in range(messages):
            for room in ROOMS:
                id = next(ids)
                published[room].append(id)
                await world.append(room, message(Priority.HIGH, id, flags=TRACKED | KEYED))

    await publish(EACH // 2)
    await until(lambda: any(first.position(number) for number in range(4)), "something is decided")
    await first.close()  # not drained: nothing is finished, nothing committed
    world.workers.remove(first)
    await publish(EACH // 2)
    await world.worker()
    await world.settled()

    reader = LedgerReader(store=world.store, log=world.log, profiles=world.profiles, clock=world.clock)
    for room, expected in published.items():
        name = room.partition("/")[2]
        whole, hour = await reader.room("app", name, ""), await reader.room("app", name, "1h")
        for ledger in (whole, hour):
            assert ledger["accepted"] == ledger["kept"] == {"system": 0, "high": EACH, "normal": 0, "low": 0}
            assert differences(ledger) == []
            assert ledger["from"] <= ledger["as_of"] <= time.time() * 1_000 + 60_000
        offsets = [entry.offset for entry in await world.history(room)]
        outcomes = [await reader.outcome("app", str(id)) for id in expected]
        assert [one.offset for one in outcomes] == offsets
        assert {(one.outcome, one.room, one.class_) for one in outcomes} == {("kept", name, "high")}
    app = await reader.app("app", "1h", 0)
    assert (app["rooms"], app["accepted"]["high"], app["next"]) == (len(ROOMS), len(ROOMS) * EACH, None)
    assert (await reader.app("other", "", 0))["rooms"] == 0
