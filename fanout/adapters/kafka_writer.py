"""Appends to Kafka. A producer that failed for good or has become stuck is replaced (aiokafka issues 1133, 1017)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    IllegalOperation,
    InvalidProducerEpoch,
    KafkaError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    ProducerClosed,
    ProducerFenced,
    UnknownProducerId,
)

from fanout.adapters.kafka_client import ANSWER_S, bounded, close_quietly, is_cancelled
from fanout.adapters.memory_log import check_record_size
from fanout.core.errors import Unavailable
from fanout.core.limits import RECORD_BYTES_MAX
from fanout.ports import Appended, Topics
from fanout.runtime.metrics import REBUILDS

_STUCK_S: Final = 10.0  # a partition that took nothing for so long, while appends to it ran out of time
_PAUSE_S: Final = 0.25  # between two attempts to connect: thousands of callers must not try at once
_REQUEST_TIMEOUT_MS: Final = 4_000
_FATAL: Final = (
    IllegalOperation,
    InvalidProducerEpoch,
    OutOfOrderSequenceNumber,
    ProducerClosed,
    ProducerFenced,
    UnknownProducerId,
)
# a cancellation that is not the caller's: the producer was closed
_FAILURES: Final = (KafkaError, OSError, TimeoutError, Unavailable, asyncio.CancelledError)


class KafkaWriter:
    """``ports.LogWriter``. ``durable``: acks=all, idempotent; else acks=1. Nothing lingers: what comes while a request
    is under way goes with the next one.
    """

    def __init__(self, bootstrap: Sequence[str], client_id: str, topics: Topics, *, durable: bool) -> None:
        self.durable = durable
        self._bootstrap = bootstrap
        self._client_id = client_id
        self._topics = topics
        self._producer: Any = None
        self._starting = asyncio.Lock()
        self._failed_s = 0.0
        self._built = False
        self._failing: dict[tuple[str, int], float] = {}  # partition → since when appends to it run out of time
        self._closing: set[asyncio.Task[None]] = set()
        self.closed = False

    async def start(self) -> None:
        """Connect; raises Unavailable."""
        async with bounded("connect"):
            await self._ready()

    async def append(self, topic: str, partition: int, key: bytes | None, value: bytes | None) -> Appended:
        """Append one record; raises Unavailable (it may still come to stand there), ValueError when it is too large."""
        check_record_size(key, value)
        producer = self._producer
        try:
            async with asyncio.timeout(ANSWER_S):
                producer = producer or await self._ready()
                future = await producer.send(self._topics.name(topic), value, key, partition)
                place = await future
        except _FAILURES as error:
            if isinstance(error, asyncio.CancelledError) and is_cancelled():
                raise
            raise self._failed(producer, topic, partition, error) from error
        if self._failing:
            self._failing.pop((topic, partition), None)
        return Appended(partition, place.offset, place.timestamp)

    async def append_many(
        self, topic: str, partition: int, records: Sequence[tuple[bytes | None, bytes | None]]
    ) -> Appended:
        """Append records in one batch of the log; raises as ``append``.

        What is larger than a record may be goes in several batches, and records of others may come in between.
        """
        if not records:
            raise ValueError("append_many needs a record")
        for key, value in records:
            check_record_size(key, value)
        producer = self._producer
        try:
            async with asyncio.timeout(ANSWER_S):
                producer = producer or await self._ready()
                place = await _send_batches(producer, self._topics.name(topic), partition, records)
        except _FAILURES as error:
            if isinstance(error, asyncio.CancelledError) and is_cancelled():
                raise
            raise self._failed(producer, topic, partition, error) from error
        if self._failing:
            self._failing.pop((topic, partition), None)
        return Appended(partition, place.offset, place.timestamp)

    async def close(self) -> None:
        """Send what is under way (bounded) and close the connections."""
        self.closed = True
        producer, self._producer = self._producer, None
        if producer is not None:
            await close_quietly(producer.stop())
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _failed(self, producer: Any, topic: str, partition: int, error: BaseException) -> Exception:
        """Return what the caller gets; give the producer up when it failed for good or has been stuck too long."""
        if isinstance(error, MessageSizeTooLargeError):
            return ValueError(f"kafka, append to {topic}[{partition}]: {error}")
        now_s = time.monotonic()
        since_s = self._failing.setdefault((topic, partition), now_s)
        current = producer is not None and producer is self._producer
        if current and (isinstance(error, _FATAL) or now_s - since_s > _STUCK_S):
            self._producer = None
            self._failing.clear()
            task = asyncio.create_task(_abandon(producer))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        return Unavailable(f"kafka, append to {topic}[{partition}]: {str(error) or type(error).__name__}")

    async def _ready(self) -> Any:
        """Return the producer, made anew where there is none; one caller builds, after a failure all wait a bit."""
        async with self._starting:
            if self.closed:
                raise Unavailable("this writer is closed")
            if self._producer is not None:
                return self._producer
            if time.monotonic() - self._failed_s < _PAUSE_S:
                raise Unavailable("kafka, connect: failed a moment ago")
            producer = self._new()
            try:
                await producer.start()
                for topic in self._topics.partitions:  # known before the first append: then call order is send order
                    await producer.partitions_for(self._topics.name(topic))
            except BaseException:
                self._failed_s = time.monotonic()
                await close_quietly(producer.stop())
                raise
            if self._built:
                REBUILDS.labels("writer").inc()
            self._built = True
            self._producer = producer
            return producer

    def _new(self) -> Any:
        return AIOKafkaProducer(
            bootstrap_servers=self._bootstrap,
            client_id=self._client_id,
            acks="all" if self.durable else 1,
            enable_idempotence=self.durable,
            linger_ms=0,
            max_batch_size=RECORD_BYTES_MAX,
            max_request_size=4 * RECORD_BYTES_MAX,
            request_timeout_ms=_REQUEST_TIMEOUT_MS,
            retry_backoff_ms=50,
            metadata_max_age_ms=60_000,
        )


async def _send_batches(
    producer: Any, topic: str, partition: int, records: Sequence[tuple[bytes | None, bytes | None]]
) -> Any:
    """Send records in as few batches as they fit into; return the place of the first, when all are on the log."""
    futures = []
    batch = producer.create_batch()
    for key, value in records:
        if batch.append(key=key, value=value, timestamp=None) is None:
            futures.append(await producer.send_batch(batch, topic, partition=partition))
            batch = producer.create_batch()
            batch.append(key=key, value=value, timestamp=None)
    futures.append(await producer.send_batch(batch, topic, partition=partition))
    return [await future for future in futures][0]  # noqa: RUF015 - every one has to be awaited


async def _abandon(producer: Any) -> None:
    """Give up a producer: fail what it still holds (its callers were told Unavailable or will be), then close it."""
    with contextlib.suppress(Exception):
        producer._message_accumulator.fail_all(ProducerClosed())  # else stop() waits for batches that never go out
    await close_quietly(producer.stop(), producer.client.close())


assert _REQUEST_TIMEOUT_MS / 1_000 < ANSWER_S, "the client's own error, which says more, comes first"
