"""The topics of DESIGN §3 on Kafka: created once, checked ever after. Partition counts never change."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import TopicAlreadyExistsError, for_code

from fanout.adapters.kafka_client import bootstrap_of, bounded, close_quietly
from fanout.core.errors import FanoutError, Unavailable
from fanout.core.records import CHUNKS, DEAD, MEMBERS, MESSAGES, TASKS
from fanout.ports import Topics

_HOUR_MS: Final = 3_600_000
_APPEND_TIME: Final = {"message.timestamp.type": "LogAppendTime"}  # only the broker's clock counts in decisions

SETTINGS: Final[Mapping[str, Mapping[str, str]]] = {
    MESSAGES: {"retention.ms": str(7 * 24 * _HOUR_MS)},
    MEMBERS: {"cleanup.policy": "compact"},
    TASKS: {"retention.ms": str(_HOUR_MS), "segment.ms": "600000", "segment.bytes": str(64 << 20)},
    CHUNKS: {"retention.ms": "600000", "segment.ms": "120000", "segment.bytes": str(16 << 20)},
    DEAD: {"retention.ms": str(30 * 24 * _HOUR_MS)},
}


class TopicMismatch(FanoutError):
    """A topic has another partition count than this engine is set to: keys would be hashed differently."""


def settings(topic: str, replication: int) -> dict[str, str]:
    """Return the settings of a topic. From three replicas on, two must have a record before it is acknowledged."""
    in_sync = {"min.insync.replicas": "2" if replication >= 3 else "1"}
    return {**_APPEND_TIME, **in_sync, **SETTINGS.get(topic, {})}


async def apply(url: str, topics: Topics, *, replication: int) -> list[str]:
    """Create what is missing, check what is there; return a sentence per topic, with its differences.

    Raises TopicMismatch for a partition count that differs (nothing is created then), Unavailable.
    """
    async with _admin(bootstrap_of(url)) as admin:
        counts = await _counts(admin, topics)
        check_counts(topics, counts)
        missing = [topic for topic in topics.partitions if topic not in counts]
        await _create(admin, topics, missing, replication)
        differences = await _differences(admin, topics, list(counts), replication)
    said = [f"{topics.name(topic)}: created with {topics.partitions[topic]} partitions" for topic in missing]
    for topic, found in differences.items():
        state = "as wanted" if not found else f"differs: {', '.join(found)}"
        said.append(f"{topics.name(topic)}: {counts[topic]} partitions, {state}")
    return said


async def partition_counts(bootstrap: list[str], topics: Topics) -> dict[str, int]:
    """Return the partition counts of those topics that there are; raises Unavailable."""
    async with _admin(bootstrap) as admin:
        return await _counts(admin, topics)


async def _counts(admin: Any, topics: Topics) -> dict[str, int]:
    by_name = {topics.name(topic): topic for topic in topics.partitions}
    described = await admin.describe_topics(list(by_name))
    return {by_name[one["topic"]]: len(one["partitions"]) for one in described if not one["error_code"]}


def check_counts(topics: Topics, counts: Mapping[str, int]) -> None:
    """Raise TopicMismatch where a topic that is there has another partition count."""
    wrong = {topic: found for topic, found in counts.items() if found != topics.partitions[topic]}
    if wrong:
        detail = ", ".join(f"{topics.name(t)} has {n}, not {topics.partitions[t]}" for t, n in wrong.items())
        raise TopicMismatch(
            f"partition counts are fixed at creation: {detail}; use another --prefix, or move the rooms"
        )


@contextlib.asynccontextmanager
async def _admin(bootstrap: list[str]) -> AsyncIterator[Any]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, client_id="fanout-topics", request_timeout_ms=20_000)
    try:
        async with bounded("connect"):
            await admin.start()
        async with bounded("topics", 30.0):  # 449 partitions take a small broker a few seconds
            yield admin
    finally:
        await close_quietly(admin.close())


async def _create(admin: Any, topics: Topics, missing: list[str], replication: int) -> None:
    if not missing:
        return
    new = [
        NewTopic(
            name=topics.name(topic),
            num_partitions=topics.partitions[topic],
            replication_factor=replication,
            topic_configs=settings(topic, replication),
        )
        for topic in missing
    ]
    answer = await admin.create_topics(new, timeout_ms=15_000)
    for name, code, *message in answer.topic_errors:
        error = for_code(code)
        if code and error is not TopicAlreadyExistsError:  # another process was quicker
            raise Unavailable(f"kafka, topic {name}: {error.__name__} {message[0] if message else ''}")


async def _differences(admin: Any, topics: Topics, there: list[str], replication: int) -> dict[str, list[str]]:
    """Return, by topic, ``setting is x, not y`` for what is set otherwise than wanted."""
    if not there:
        return {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, topics.name(topic)) for topic in there]
    found: dict[str, dict[str, str]] = {}
    for answer in await admin.describe_configs(resources):
        for resource in answer.resources:
            name, entries = resource[3], resource[4]
            found[name] = {entry[0]: entry[1] for entry in entries}
    return {
        topic: [
            f"{setting} is {found.get(topics.name(topic), {}).get(setting)}, not {wanted}"
            for setting, wanted in settings(topic, replication).items()
            if found.get(topics.name(topic), {}).get(setting) != wanted
        ]
        for topic in there
    }
