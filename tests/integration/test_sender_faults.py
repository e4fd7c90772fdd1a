"""The sender when the real log or store goes away and comes back: refused with a time, nothing lost, no restart."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fanout.adapters import open_log, open_store
from fanout.core.errors import UNAVAILABLE, Refused
from fanout.core.limits import LEASE_TTL_S
from fanout.core.profiles import Profiles
from fanout.core.publish import Published
from fanout.core.records import CHUNKS, DEAD, MEMBERS, MESSAGES, TASKS, header
from fanout.ports import Log, Topics
from fanout.runtime.clock import SystemClock
from fanout.sender.sender import Sender
from scripts.parts import Running, start_kafka, start_redis
from tests.support.parts import need
from tests.support.sending import publish

pytestmark = pytest.mark.real
TOPICS = Topics(partitions={MESSAGES: 4, MEMBERS: 1, TASKS: 1, CHUNKS: 1, DEAD: 1})
ANSWER_S = 8.0  # the adapter's own bound is 5 s; the rest is a busy machine


@contextlib.asynccontextmanager
async def sender_on(kafka: Running, redis: Running) -> AsyncIterator[tuple[Sender, Log]]:
    """Yield a sender on real servers."""
    clock = SystemClock()
    log = await open_log(f"kafka://{kafka.address}", topics=TOPICS, clock=clock)
    store = await open_store(f"redis://{redis.address}", prefix="faults", clock=clock)
    sender = Sender(log=log, store=store, profiles=Profiles(insecure=True), clock=clock, holder="faults:1")
    await sender.start()
    try:
        yield sender, log
    finally:
        await sender.close()
        await store.backend.close()
        await log.close()


async def ids_on(log: Log) -> list[int]:
    """Return the ids of all message records."""
    partitions = range(log.partitions(MESSAGES))
    ends = await log.ends(MESSAGES, partitions)
    reader = await log.reader(MESSAGES, partitions)
    for partition in partitions:
        reader.seek(partition, 0)
    ids: list[int] = []
    while len(ids) < sum(end for _, end in ends.values()):
        for records in (await reader.poll(1_000, 0.5)).values():
            ids += [header(record.value or b"").id for record in records]
    return ids


async def try_publish(sender: Sender, number: int) -> Published | Refused:
    try:
        return await sender.publish("dev", publish(f"open:r{number % 4}", number, id=f"k{number}"))
    except Refused as refused:
        return refused


async def publishes_again(sender: Sender, number: int, within_s: float) -> Published:
    """Publish until it works; every refusal says when to come back."""
    deadline_s = time.monotonic() + within_s
    while True:
        outcome = await try_publish(sender, number)
        if isinstance(outcome, Published):
            return outcome
        assert outcome.problem is UNAVAILABLE
        assert outcome.retry_after_s is not None
        assert time.monotonic() < deadline_s, outcome
        await asyncio.sleep(0.2)


async def test_a_killed_log_costs_503_and_nothing_that_was_accepted(tmp_path: Path) -> None:
    kafka = need(lambda: start_kafka(tmp_path / "kafka"))
    redis = need(lambda: start_redis(tmp_path / "redis"))
    try:
        async with sender_on(kafka, redis) as (sender, log):
            accepted = [await publishes_again(sender, number, 30) for number in range(20)]
            flood = [asyncio.create_task(try_publish(sender, number)) for number in range(20, 220)]
            await asyncio.sleep(0.01)
            kafka.kill()
            outcomes = await asyncio.gather(*flood)
            began_s = time.monotonic()
            refused = await try_publish(sender, 220)
            assert time.monotonic() - began_s < ANSWER_S
            assert isinstance(refused, Refused)
            assert refused.problem is UNAVAILABLE
            accepted += [outcome for outcome in outcomes if isinstance(outcome, Published)]
            kafka.spawn()
            again = [await publishes_again(sender, number, 60) for number in range(221)]  # 220 may stand there, too
            ids = await ids_on(log)
            assert {int(one.id) for one in accepted} <= set(ids)
            assert {one.id for one in accepted} <= {one.id for one in again}
            assert {int(one.id) for one in again} == set(ids)
    finally:
        kafka.stop()
        redis.stop()


async def test_a_killed_store_costs_idempotence_then_ids_and_comes_back(kafka: Running, tmp_path: Path) -> None:
    redis = need(lambda: start_redis(tmp_path / "redis"))
    try:
        async with sender_on(kafka, redis) as (sender, _):
            await publishes_again(sender, 0, 30)
            redis.kill()
            began_s = time.monotonic()
            first = await sender.publish("dev", publish("open:r", 1, id="k"))
            assert time.monotonic() - began_s < LEASE_TTL_S / 2
            assert first.idempotent is False
            await asyncio.sleep(LEASE_TTL_S / 2)
            assert sender.readiness()["id_node"] is False
            refused = await try_publish(sender, 1)
            assert isinstance(refused, Refused)
            assert refused.problem is UNAVAILABLE
            redis.spawn()
            later = await publishes_again(sender, 2, 30)
            assert int(later.id) > int(first.id)
            assert later.idempotent is None
    finally:
        redis.stop()
