"""Fixtures for everybody: real parts, started once per session; a log and a store on twins and on real parts alike."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import settings

from fanout.adapters import open_log, open_store
from fanout.core.records import CHUNKS, DEAD, MEMBERS, MESSAGES, TASKS
from fanout.ports import Log, Store, Topics
from scripts.parts import Running, start_kafka, start_redis
from tests.support.clocks import SteppedClock
from tests.support.parts import need, start_redis_cluster

REAL = pytest.mark.real

settings.register_profile("fanout", deadline=None)  # no test fails by the clock
settings.load_profile("fanout")


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A Kafka broker of this session; tests take topics with a prefix of their own."""
    part = need(lambda: start_kafka(tmp_path_factory.mktemp("kafka")))
    yield part
    part.stop()


@pytest.fixture(scope="session")
def kafka_url(kafka: Running) -> str:
    """The URL of the session's Kafka."""
    return f"kafka://{kafka.address}"


@pytest.fixture(scope="session")
def redis_part(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A Redis of this session; tests take keys with a prefix of their own and never flush it."""
    part = need(lambda: start_redis(tmp_path_factory.mktemp("redis")))
    yield part
    part.stop()


@pytest.fixture(scope="session")
def redis_url(redis_part: Running) -> str:
    """The URL of the session's Redis."""
    return f"redis://{redis_part.address}"


@pytest.fixture(scope="session")
def redis_cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Redis Cluster (one node) of this session."""
    part = need(lambda: start_redis_cluster(tmp_path_factory.mktemp("redis-cluster")))
    yield f"redis+cluster://{part.address}"
    part.stop()


@pytest.fixture
def clock() -> SteppedClock:
    """A clock at the real time that the test moves."""
    return SteppedClock()


@pytest.fixture
def topics() -> Topics:
    """Few partitions, under a prefix of this test's own."""
    counts = {MESSAGES: 4, MEMBERS: 2, TASKS: 2, CHUNKS: 4, DEAD: 1}
    return Topics(prefix=f"t{uuid.uuid4().hex[:12]}", partitions=counts)


@pytest.fixture(params=["memory", pytest.param("kafka", marks=REAL)])
def log_url(request: pytest.FixtureRequest) -> str:
    """Every log adapter in turn."""
    return "memory" if request.param == "memory" else str(request.getfixturevalue("kafka_url"))


@pytest.fixture
async def log(log_url: str, topics: Topics, clock: SteppedClock) -> AsyncIterator[Log]:
    """A log with empty topics."""
    opened = await open_log(log_url, topics=topics, clock=clock)
    yield opened
    await opened.close()


@pytest.fixture(params=["memory", pytest.param("redis", marks=REAL), pytest.param("redis_cluster", marks=REAL)])
def store_url(request: pytest.FixtureRequest) -> str:
    """Every store adapter in turn. The twin has a name, so that a test can open it twice."""
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}"
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
async def store(store_url: str, clock: SteppedClock) -> AsyncIterator[Store]:
    """An empty store."""
    opened = await open_store(store_url, prefix=f"t{uuid.uuid4().hex[:12]}", clock=clock)
    yield opened
    await opened.backend.close()
