"""The log on Kafka: writers, readers, group readers, offsets. The ``kafka_*`` files beside it are its parts."""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Final

from fanout.adapters.kafka_client import Questions, bootstrap_of
from fanout.adapters.kafka_reader import KafkaGroupReader, KafkaReader
from fanout.adapters.kafka_topics import apply, check_counts, partition_counts
from fanout.adapters.kafka_writer import KafkaWriter
from fanout.core.errors import Unavailable
from fanout.ports import Assignment, GroupReader, LogReader, LogWriter, Topics

_LED_S: Final = 20.0  # several hundred new partitions on a small, busy broker
_LOOK_AGAIN_S: Final = 0.1


class KafkaLog:
    """``ports.Log`` on Kafka."""

    def __init__(self, bootstrap: list[str], topics: Topics) -> None:
        self.topics = topics
        self._bootstrap = bootstrap
        # Range assignment goes by member id, which begins with the client id: readers of one process stand at the same
        # place in every group, so equal partitions of two topics share an owner.
        self._client_id = f"fanout-{secrets.token_hex(8)}"
        self._questions = Questions(bootstrap, self._client_id)
        self._open: list[KafkaReader | KafkaWriter] = []

    @classmethod
    async def open(cls, url: str, topics: Topics, *, create_missing: bool = True) -> KafkaLog:
        """Connect and check the topics; on loopback missing ones are created, unless that is not wanted.

        Raises ValueError (URL), TopicMismatch (partition counts), Unavailable (no answer, or topics are missing).
        """
        log = cls(bootstrap_of(url), topics)
        try:
            counts = await partition_counts(log._bootstrap, topics)
            check_counts(topics, counts)
            missing = [topics.name(topic) for topic in topics.partitions if topic not in counts]
            if missing and not (create_missing and all(_is_loopback(address) for address in log._bootstrap)):
                raise Unavailable(f"kafka has no topic {', '.join(missing)}: run `fanout topics apply`")
            if missing:
                await apply(url, topics, replication=1)
            await log._wait_until_led()
        except BaseException:
            await log.close()
            raise
        return log

    async def _wait_until_led(self) -> None:
        """Wait, bounded, until every partition has a leader that answers.

        A broker tells of new topics before it takes records for them: the first appends would run into their bound.
        What nobody leads by then is an outage like any later one.
        """
        deadline_s = time.monotonic() + _LED_S
        for topic, count in self.topics.partitions.items():
            while True:
                try:
                    await self.ends(topic, range(count))
                    break
                except Unavailable:
                    if time.monotonic() > deadline_s:
                        return
                    await asyncio.sleep(_LOOK_AGAIN_S)

    async def writer(self, *, durable: bool) -> LogWriter:
        """Return a connected writer; raises Unavailable."""
        writer = KafkaWriter(self._bootstrap, self._client_id, self.topics, durable=durable)
        self._keep(writer)
        await writer.start()
        return writer

    async def reader(self, topic: str, partitions: Sequence[int]) -> LogReader:
        """Return a reader that stands at the end of each partition; raises Unavailable."""
        reader = KafkaReader(self._bootstrap, self._client_id, self.topics.name(topic), self._questions)
        self._keep(reader)
        await reader.start(partitions)
        return reader

    async def group_reader(self, topic: str, group: str, assignment: Assignment) -> GroupReader:
        """Join a group, whose name gets the prefix of the topics; raises Unavailable."""
        name = self.topics.name(topic)
        group = self.topics.name(group)
        reader = KafkaGroupReader(self._bootstrap, self._client_id, name, self._questions, group, assignment)
        self._keep(reader)
        await reader.join()
        return reader

    def _keep(self, opened: KafkaReader | KafkaWriter) -> None:
        """Remember what ``close`` has to close; what was closed since is forgotten."""
        self._open = [*(one for one in self._open if not one.closed), opened]

    async def ends(self, topic: str, partitions: Sequence[int]) -> Mapping[int, tuple[int, int]]:
        """Return (earliest, end) of each partition; raises Unavailable."""
        return await self._questions.ends(self.topics.name(topic), partitions)

    async def offset_at(self, topic: str, partition: int, at_ms: int) -> int:
        """Return the offset of the first record at or after ``at_ms``, or the end; raises Unavailable."""
        return await self._questions.offset_at(self.topics.name(topic), partition, at_ms)

    def partitions(self, topic: str) -> int:
        """Return the partition count of a topic, as checked when the log was opened."""
        return self.topics.partitions[topic]

    async def ping(self) -> None:
        """Return when a broker answers; raises Unavailable."""
        await self._questions.ping()

    async def close(self) -> None:
        """Close what was opened here and is still open."""
        for one in self._open:
            await one.close()
        await self._questions.close()


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
