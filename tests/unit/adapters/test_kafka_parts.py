"""The pure parts of the Kafka adapter: addresses, topic settings, and when a reader counts as silent."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from fanout.adapters.kafka import _is_loopback
from fanout.adapters.kafka_client import Questions, bootstrap_of, bounded, close_quietly
from fanout.adapters.kafka_reader import SILENT_S, STARVED_S, KafkaReader
from fanout.adapters.kafka_topics import TopicMismatch, check_counts, settings
from fanout.core.errors import Unavailable
from fanout.core.records import PARTITIONS
from fanout.ports import Topics


def reader_at(position: int) -> KafkaReader:
    reader = KafkaReader([], "unit", "t.chunks", Questions([], "unit"))
    reader._positions = {0: position}
    return reader


def look(reader: KafkaReader, ends: Mapping[int, int], now_s: float, *, polls: int = 1, empty: int = 1) -> bool:
    """Let the watch look once, after so many polls."""
    reader._polls, reader._empty_polls = polls, empty
    return reader._is_silent(ends, now_s)


def test_a_reader_that_stands_still_behind_the_end_is_silent_after_a_while() -> None:
    reader = reader_at(5)
    assert not look(reader, {0: 9}, 100.0)
    assert not look(reader, {0: 9}, 100.0 + SILENT_S - 0.1)
    assert look(reader, {0: 12}, 100.0 + SILENT_S)


def test_a_reader_at_the_end_or_on_its_way_is_not() -> None:
    reader = reader_at(5)
    assert not look(reader, {0: 5}, 0.0)
    assert not look(reader, {0: 9}, 100.0)
    reader._positions[0] = 7
    assert not look(reader, {0: 9}, 100.0 + SILENT_S)
    assert not look(reader, {0: 9}, 100.0 + 2 * SILENT_S - 0.1)


def test_a_reader_that_nobody_polls_is_not() -> None:
    reader = reader_at(5)
    look(reader, {0: 9}, 100.0)
    assert not look(reader, {0: 9}, 200.0, polls=0)
    assert not look(reader, {0: 9}, 201.0), "it counts from here on"


def test_a_partition_may_wait_for_its_turn_while_others_bring_records() -> None:
    reader = reader_at(5)
    look(reader, {0: 9}, 100.0, empty=0)
    assert not look(reader, {0: 9}, 100.0 + STARVED_S - 0.1, empty=0)
    assert look(reader, {0: 9}, 100.0 + STARVED_S, empty=0)


def test_a_partition_that_was_lost_does_not_count() -> None:
    reader = reader_at(5)
    look(reader, {0: 9, 1: 9}, 100.0)
    reader._positions.clear()
    assert not look(reader, {0: 9, 1: 9}, 100.0 + STARVED_S)


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("kafka://a:1", ["a:1"]),
        ("kafka://a:1,b:2/", ["a:1", "b:2"]),
        ("kafka://broker", ["broker:9092"]),
    ],
)
def test_addresses_come_out_of_the_url(url: str, addresses: list[str]) -> None:
    assert bootstrap_of(url) == addresses


@pytest.mark.parametrize("url", ["kafka://", "kafka", "redis://a:1"])
def test_a_url_without_addresses_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="kafka://host:port"):
        bootstrap_of(url)


@pytest.mark.parametrize(
    ("address", "loopback"),
    [("127.0.0.1:1", True), ("localhost:1", True), ("[::1]:1", True), ("10.0.0.1:1", False), ("broker:1", False)],
)
def test_only_loopback_gets_topics_by_itself(address: str, loopback: bool) -> None:
    assert _is_loopback(address) is loopback


@pytest.mark.parametrize("topic", PARTITIONS)
def test_every_topic_has_the_brokers_time_and_bounded_contents(topic: str) -> None:
    found = settings(topic, 1)
    assert found["message.timestamp.type"] == "LogAppendTime"
    assert "retention.ms" in found or found["cleanup.policy"] == "compact"
    assert (found["min.insync.replicas"], settings(topic, 3)["min.insync.replicas"]) == ("1", "2")


def test_another_partition_count_is_named() -> None:
    check_counts(Topics(), dict(PARTITIONS))
    with pytest.raises(TopicMismatch, match=r"fanout\.messages has 65, not 64"):
        check_counts(Topics(), {"messages": 65})


async def test_a_client_that_ends_its_own_tasks_while_it_closes_does_not_end_its_owner() -> None:
    async def close() -> None:
        raise asyncio.CancelledError  # what aiokafka lets escape from the tasks that it cancels

    await close_quietly(close(), close())
    with pytest.raises(Unavailable, match="closed meanwhile"):
        async with bounded("a question"):
            await close()


async def test_the_owners_own_cancellation_is_no_failure_of_the_log() -> None:
    async def ask() -> None:
        async with bounded("a question"):
            await asyncio.get_running_loop().create_future()

    task = asyncio.ensure_future(ask())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
