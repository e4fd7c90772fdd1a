"""What the doctor asks Kafka and Redis. Nothing is written."""

from __future__ import annotations

from typing import Final

import redis.asyncio
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from fanout.ports import Clock, Topics
from fanout.runtime.findings import FAIL, OK, WARN, Finding, examine_clock_difference

_TIMEOUT_MS: Final = 5_000
_REDIS_LEAST: Final = 7
_APPEND_TIME: Final = "LogAppendTime"


async def examine_kafka(url: str, topics: Topics) -> list[Finding]:
    """Return whether the brokers answer and each topic has its partitions and settings. ``url``: kafka://host:port."""
    servers = url.removeprefix("kafka://")
    admin = AIOKafkaAdminClient(bootstrap_servers=servers, request_timeout_ms=_TIMEOUT_MS)
    try:
        await admin.start()
    except (KafkaError, OSError) as error:
        await admin.close()
        return [Finding("kafka", FAIL, f"{servers}: {error}", "start it (make up), or correct --log")]
    try:
        described = {found["topic"]: found for found in await admin.describe_topics()}
        findings = [Finding("kafka", OK, f"{servers}: {len(described)} topics")]
        for topic, wanted in topics.partitions.items():
            name = f"{topics.prefix}.{topic}"
            partitions = len(described[name]["partitions"]) if name in described else 0
            findings.append(_topic_finding(name, partitions, wanted))
            if partitions:
                findings.append(await _append_time(admin, name))
        return findings
    finally:
        await admin.close()


def _topic_finding(name: str, partitions: int, wanted: int) -> Finding:
    if partitions == 0:
        return Finding(name, FAIL, "missing", "fanout topics apply")
    if partitions != wanted:
        remedy = "counts are fixed at creation: make the topics anew under another --prefix and let the rooms move"
        return Finding(name, FAIL, f"{partitions} partitions instead of {wanted}", remedy)
    return Finding(name, OK, f"{partitions} partitions")


async def _append_time(admin: AIOKafkaAdminClient, name: str) -> Finding:
    """Decisions count in the broker's append time; a producer's own time would let it choose its window."""
    answers = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
    values = {entry[0]: entry[1] for answer in answers for resource in answer.resources for entry in resource[4]}
    value = values.get("message.timestamp.type", "unknown")
    label = f"{name} time"
    if value == _APPEND_TIME:
        return Finding(label, OK, value)
    return Finding(label, FAIL, str(value), f"kafka-configs --alter --add-config message.timestamp.type={_APPEND_TIME}")


async def examine_redis(url: str, clock: Clock) -> list[Finding]:
    """Return version, eviction policy and clock of the store."""
    client = redis.asyncio.Redis.from_url(
        url.replace("redis+cluster://", "redis://"), socket_timeout=_TIMEOUT_MS / 1000, decode_responses=True
    )
    try:
        about = await client.info("server")
        memory = await client.info("memory")
        before_ms = clock.wall_ms()
        seconds, micros = await client.time()
        difference = examine_clock_difference("redis", seconds * 1000 + micros // 1000, before_ms, clock.wall_ms())
    except (redis.RedisError, OSError) as error:
        return [Finding("redis", FAIL, f"{url}: {error}", "start it (make up), or correct --store")]
    finally:
        await client.aclose()
    version = str(about["redis_version"])
    old = int(version.split(".", maxsplit=1)[0]) < _REDIS_LEAST
    policy = str(memory.get("maxmemory_policy", "noeviction"))
    return [
        Finding("redis", FAIL if old else OK, f"version {version}", "use Redis 7 or newer" if old else ""),
        Finding("redis eviction", OK, policy)
        if policy == "noeviction"
        else Finding("redis eviction", WARN, f"{policy}: histories may vanish early", "maxmemory-policy noeviction"),
        difference,
    ]
