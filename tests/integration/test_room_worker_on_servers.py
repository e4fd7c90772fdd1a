"""The room worker on a real Kafka and a real Redis: what the twins cannot show."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from fanout.adapters import apply_topics, open_log, open_store
from fanout.core.messages import Priority
from fanout.core.records import JOINED as JOINED_KIND
from fanout.core.records import MESSAGES, Joined, encode
from fanout.ports import Topics
from fanout.runtime.clock import SystemClock
from scripts.parts import start_kafka, start_redis
from sharding.placement import partition_of, shard_key, shard_of
from tests.support.partitions import merged
from tests.support.parts import freeze, need
from tests.support.rooms import message
from tests.support.tcp_proxy import tcp_proxy
from tests.support.worker_world import World, until
from workers.member_worker import MemberWorker

pytestmark = pytest.mark.real

ROOM = "app/group:a"
ROOMS = [f"app/group:{name}" for name in "abcdefgh"]


@asynccontextmanager
async def a_world(kafka_url: str, redis_url: str, topics: Topics) -> AsyncIterator[World]:
    """A world on servers, with topics and keys of its own."""
    clock = SystemClock()
    await apply_topics(kafka_url, topics, replication=1)
    log = await open_log(kafka_url, topics=topics, clock=clock)
    store = await open_store(redis_url, prefix=topics.prefix, clock=clock)
    world = World(log, store, clock)
    try:
        yield world
    finally:
        await world.close()
        await log.close()
        await store.backend.close()


@pytest.fixture
async def world(kafka_url: str, redis_url: str, topics: Topics) -> AsyncIterator[World]:
    async with a_world(kafka_url, redis_url, topics) as opened:
        yield opened


async def test_workers_come_and_go_and_every_message_arrives_once_and_in_order(world: World) -> None:
    first = await world.worker()
    gateway = await world.gateway(1)
    for room in ROOMS:
        await world.attach(room, gateway)
    ids: dict[str, list[int]] = {room: [] for room in ROOMS}
    stop = asyncio.Event()

    async def publish_until_stopped() -> None:
        while not stop.is_set():
            for room in ROOMS:
                ids[room] += await world.publish(room)
            await asyncio.sleep(0.02)

    publishing = asyncio.create_task(publish_until_stopped())
    await asyncio.sleep(1)
    second = await world.worker()
    await until(lambda: bool(second._partitions.active), "the second worker has partitions")
    await asyncio.sleep(1)
    await first.drain()
    await first.close()
    await until(lambda: len(second._partitions.active) == 4, "the second worker has all partitions")
    await asyncio.sleep(1)
    stop.set()
    await publishing
    world.workers.remove(first)
    for room in ROOMS:
        await world.received(gateway, room, ids[room])
    await world.settled()
    for room in ROOMS:
        assert [entry.id for entry in await world.history(room)] == ids[room]
        assert (await world.ledger(room))["accepted"]["high"] == len(ids[room])
        meta = await world.meta(room)
        assert meta is not None and meta.n == len(ids[room])


@pytest.mark.parametrize("compression", [None, "gzip"])
async def test_only_the_brokers_time_makes_a_message_late(
    world: World, kafka_url: str, topics: Topics, compression: str | None
) -> None:
    """A producer that stamps its records with the time of an hour ago has its likes delivered."""
    room = "app/live:stage"
    await world.worker()
    gateway = await world.gateway(1)
    await world.attach(room, gateway)
    producer = AIOKafkaProducer(
        bootstrap_servers=kafka_url.removeprefix("kafka://"), acks="all", compression_type=compression
    )
    await producer.start()
    hour_ago_ms = world.clock.wall_ms() - 3_600_000
    for number in range(5):
        value = message(Priority.LOW, number + 1)
        await producer.send(topics.name(MESSAGES), value, room.encode(), world.partition(room), hour_ago_ms)
    await producer.stop()
    await world.received(gateway, room, [1, 2, 3, 4, 5])
    await world.settled()
    assert (await world.ledger(room))["dropped"] == {}


async def test_likes_are_folded_on_by_whoever_takes_over_in_the_middle_of_a_window(world: World) -> None:
    room = "app/live:stage"
    await world.worker()
    gateway = await world.gateway(1)
    await world.attach(room, gateway)
    likes = 0
    for _ in range(3):
        writer = await world.log.writer(durable=True)
        for _ in range(5):
            await writer.append_many(MESSAGES, world.partition(room), [(room.encode(), merged())] * 100)
            likes += 100
            await asyncio.sleep(0.05)
        await writer.close()
        await world.workers.pop().close()  # as if it had been killed: what it holds is the next owner's
        await world.worker()

    def counted() -> int:
        return sum(int((entry.tags or {})["merge_count"]) for entry in gateway.entries(room))

    await until(lambda: counted() >= likes, f"{likes} likes")
    await world.settled()
    assert counted() == likes
    found = await world.ledger(room)
    assert found["accepted"]["low"] == found["merged"]["low"] == likes
    assert found["folds"]["low"] == len(gateway.entries(room))


async def test_poison_is_parked_while_the_partition_goes_on(world: World) -> None:
    await world.worker()
    gateway = await world.gateway(1)
    await world.attach(ROOM, gateway)
    ids = await world.publish(ROOM)
    poison = await world.append(ROOM, b"\x01\x01\x02\x00")
    other = (world.partition(ROOM) + 1) % 4
    stray = await world.append_to(other, ROOM.encode(), message(Priority.HIGH, 7))
    huge = await world.append(ROOM, b"{" + b"x" * 900_000)
    ids += await world.publish(ROOM)
    await world.received(gateway, ROOM, ids)
    await world.settled()
    parked = {(one.partition, one.offset): one.reason for one in await world.dead()}
    assert parked == {
        (poison.partition, poison.offset): "short_header",
        (stray.partition, stray.offset): "wrong_partition",
        (huge.partition, huge.offset): "too_large",
    }


async def test_with_redis_away_chunks_flow_history_catches_up_and_commits_wait(
    kafka_url: str, topics: Topics, tmp_path: Path
) -> None:
    part = need(lambda: start_redis(tmp_path))
    try:
        async with tcp_proxy(int(part.address.rpartition(":")[2])) as proxy:
            url = f"redis://127.0.0.1:{proxy.port}"
            async with a_world(kafka_url, url, topics) as world:
                worker = await world.worker()
                gateway = await world.gateway(1)
                await world.attach(ROOM, gateway)
                ids = await world.publish(ROOM, 3)
                await world.received(gateway, ROOM, ids)
                await world.settled()
                reader = worker._partitions.reader
                assert reader is not None
                number = world.partition(ROOM)
                owned = worker._partitions.active[number]
                await until(lambda: owned.commits.committed == owned.next_offset, "the commit")
                committed = await reader.committed(number)
                proxy.cut(stay_down=True)
                for _ in range(20):
                    ids += await world.publish(ROOM)
                    await asyncio.sleep(0.1)
                await world.received(gateway, ROOM, ids)
                assert await reader.committed(number) == committed
                proxy.restore()
                await world.settled()
                assert [entry.id for entry in await world.history(ROOM)] == ids
                await until(lambda: owned.commits.committed == owned.next_offset, "the commit")
                assert await reader.committed(number) == owned.next_offset
    finally:
        part.stop()


async def test_a_redis_that_lost_everything_begins_a_new_epoch(kafka_url: str, topics: Topics, tmp_path: Path) -> None:
    part = need(lambda: start_redis(tmp_path))
    try:
        async with a_world(kafka_url, f"redis://{part.address}", topics) as world:
            await world.worker()
            gateway = await world.gateway(1)
            first = await world.attach(ROOM, gateway)
            await world.received(gateway, ROOM, await world.publish(ROOM, 3))
            await world.settled()
            part.kill()
            part.spawn()
            await world.publish(ROOM)
            number = world.partition(ROOM)

            async def renewed() -> bool:
                try:
                    return await world.store.epochs.current(number) not in (None, first.epoch)
                except Exception:
                    return False

            await until(renewed, "a new epoch")
            again = await world.attach(ROOM, gateway)
            assert again.epoch != first.epoch
            fresh = await world.publish(ROOM, 2)
            await until(lambda: gateway.ids(ROOM)[-2:] == fresh, "publications of the new epoch")
            await world.settled()
            assert [entry.id for entry in await world.history(ROOM)][-2:] == fresh
    finally:
        part.stop()


async def test_a_partition_made_anew_begins_a_new_epoch(world: World, kafka_url: str, topics: Topics) -> None:
    await world.worker()
    gateway = await world.gateway(1)
    first = await world.attach(ROOM, gateway)
    await world.received(gateway, ROOM, await world.publish(ROOM, 20))
    await world.settled()
    await until(
        lambda: all(not owned.commits.is_due for owned in world.workers[0]._partitions.active.values()), "commits"
    )
    await recreate(kafka_url, topics, MESSAGES)
    number = world.partition(ROOM)

    async def renewed() -> bool:
        return await world.store.epochs.current(number) != first.epoch

    await until(renewed, "a new epoch", 90)
    again = await world.attach(ROOM, gateway)
    assert again.epoch != first.epoch
    ids = await world.publish(ROOM, 5)
    await until(lambda: gateway.ids(ROOM)[-5:] == ids, "publications of the new epoch")
    await world.settled()
    assert [entry.id for entry in await world.history(ROOM)] == ids


async def recreate(kafka_url: str, topics: Topics, topic: str) -> None:
    """Delete a topic and make it again: its log offsets begin at 0."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_url.removeprefix("kafka://"))
    await admin.start()
    try:
        name = topics.name(topic)
        await admin.delete_topics([name])
        while name in await admin.list_topics():
            await asyncio.sleep(0.1)
        await admin.create_topics([NewTopic(name, topics.partitions[topic], 1)])
    finally:
        await admin.close()


@pytest.mark.parametrize("way", ["killed", "stopped"])
async def test_a_broker_that_was_away_costs_time_and_nothing_else(
    redis_url: str, topics: Topics, tmp_path: Path, way: str
) -> None:
    part = need(lambda: start_kafka(tmp_path))
    try:
        async with a_world(f"kafka://{part.address}", redis_url, topics) as world:
            worker = await world.worker()
            gateway = await world.gateway(1)
            await world.attach(ROOM, gateway)
            ids = await world.publish(ROOM, 10)
            await world.received(gateway, ROOM, ids)
            if way == "killed":
                part.kill()
                await asyncio.sleep(1)
                part.spawn()
            else:
                freeze(part.pid)
                await asyncio.sleep(12)  # longer than the group waits for a member
                os.kill(part.pid, signal.SIGCONT)

            async def published() -> bool:
                try:
                    ids.extend(await world.publish(ROOM))
                except Exception:
                    return False
                return True

            await until(published, "Kafka is back", 60)
            ids += await world.publish(ROOM, 5)
            await until(lambda: gateway.ids(ROOM)[-5:] == ids[-5:], "the last publications", 60)
            seen = gateway.ids(ROOM)
            assert seen == sorted(set(seen))
            assert set(ids) <= set(seen)  # an append whose answer was lost may stand on the log as well
            await world.settled()
            assert [entry.id for entry in await world.history(ROOM)] == seen
            await until(lambda: all(worker.readiness().values()), "readiness")
    finally:
        part.stop()


async def test_members_are_written_through_to_redis(world: World) -> None:
    worker = MemberWorker(log=world.log, store=world.store, clock=world.clock)
    await worker.start()
    try:
        room, users = f"app/group:{uuid.uuid4().hex}", [f"user-{number}" for number in range(30)]
        writer = await world.log.writer(durable=True)
        partitions = world.log.partitions("members")
        for user in users:
            where = partition_of(shard_key(room, shard_of(user, 64)), partitions)
            await writer.append("members", where, f"{room}/{user}".encode(), encode(JOINED_KIND, Joined(1)))

        async def written() -> bool:
            return await world.store.members.count(room, 64) == len(users)

        await until(written, "all members")
        await worker.drain()
    finally:
        await worker.close()
