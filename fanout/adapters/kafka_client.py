"""What the parts of the Kafka adapter share: addresses, bounds, one error, a client for questions."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from fanout.core.errors import Unavailable

ANSWER_S: Final = 5.0  # longest wait of a caller; a Kafka that is well answers within milliseconds
CLOSE_S: Final = 2.0
_ASK_TIMEOUT_MS: Final = 4_000  # below ANSWER_S, so that the client's own error, which says more, comes first

# Every failure reaches the caller as Unavailable and /readyz; the client library would log a line per retry besides.
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


def bootstrap_of(url: str) -> list[str]:
    """Return the addresses of ``kafka://host:port[,host:port]``; raises ValueError."""
    scheme, _, rest = url.partition("://")
    addresses = [address for address in rest.rstrip("/").split(",") if address]
    if scheme != "kafka" or not addresses:
        raise ValueError(f"log: kafka://host:port[,host:port], not {url!r}")
    return [address if ":" in address else f"{address}:9092" for address in addresses]


@contextlib.asynccontextmanager
async def bounded(what: str, timeout_s: float = ANSWER_S) -> AsyncIterator[None]:
    """Bound what is done within; turn whatever the client library raises into Unavailable."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except asyncio.CancelledError as error:
        if is_cancelled():
            raise
        raise Unavailable(f"kafka, {what}: the client was closed meanwhile") from error
    except MessageSizeTooLargeError as error:
        raise ValueError(f"kafka, {what}: {error}") from error
    except (KafkaError, OSError, TimeoutError) as error:
        raise Unavailable(f"kafka, {what}: {str(error) or type(error).__name__}") from error


def is_cancelled() -> bool:
    """Return whether somebody cancels the current task.

    aiokafka cancels its own tasks and futures when a client is closed, and lets that escape to whoever waits for them:
    a CancelledError that nobody meant, which would end the caller's task in silence.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def close_quietly(*closing: Awaitable[Any]) -> None:
    """Close clients that may be broken: bounded, and what they raise is of no interest any more."""
    for one in closing:
        task = asyncio.ensure_future(one)
        task.add_done_callback(_forget)
        try:
            await asyncio.wait((task,), timeout=CLOSE_S)
        finally:
            if task.cancel():  # its connections are closed on the way out
                await asyncio.wait((task,), timeout=CLOSE_S)


def _forget(task: asyncio.Future[Any]) -> None:
    if not task.cancelled():
        task.exception()


class Questions:
    """A consumer that reads nothing: it asks for offsets, and is made anew when it fails."""

    def __init__(self, bootstrap: Sequence[str], client_id: str) -> None:
        self._bootstrap = bootstrap
        self._client_id = client_id
        self._consumer: Any = None
        self._starting = asyncio.Lock()

    async def _ready(self) -> Any:
        async with self._starting:
            if self._consumer is None:
                consumer = AIOKafkaConsumer(
                    bootstrap_servers=self._bootstrap,
                    client_id=self._client_id,
                    enable_auto_commit=False,
                    request_timeout_ms=_ASK_TIMEOUT_MS,
                )
                try:
                    await consumer.start()
                except BaseException:
                    await close_quietly(consumer.stop())
                    raise
                self._consumer = consumer
            return self._consumer

    @contextlib.asynccontextmanager
    async def _asking(self, what: str) -> AsyncIterator[Any]:
        consumer = None
        try:
            async with bounded(what):
                consumer = await self._ready()
                yield consumer
        except Unavailable:
            if consumer is not None and self._consumer is consumer:
                self._consumer = None
                await close_quietly(consumer.stop())
            raise

    async def ends(self, topic: str, partitions: Sequence[int]) -> Mapping[int, tuple[int, int]]:
        """Return (earliest, end) of partitions; ``topic`` with its prefix. Raises Unavailable."""
        wanted = [TopicPartition(topic, partition) for partition in partitions]
        async with self._asking(f"offsets of {topic}") as consumer:
            earliest, end = await asyncio.gather(consumer.beginning_offsets(wanted), consumer.end_offsets(wanted))
        return {one.partition: (earliest[one], end[one]) for one in wanted}

    async def offset_at(self, topic: str, partition: int, at_ms: int) -> int:
        """Return the offset of the first record at or after ``at_ms``, or the end; ``topic`` with its prefix."""
        one = TopicPartition(topic, partition)
        async with self._asking(f"offsets of {topic}") as consumer:
            # The end is asked for first: what is appended between both answers is not passed over.
            end: int = (await consumer.end_offsets([one]))[one]
            found = (await consumer.offsets_for_times({one: max(0, at_ms)}))[one]
        return end if found is None else int(found.offset)

    async def ping(self) -> None:
        """Return when a broker answers. Raises Unavailable."""
        async with self._asking("metadata") as consumer:
            await consumer.topics()

    async def close(self) -> None:
        """Close the connections."""
        if self._consumer is not None:
            await close_quietly(self._consumer.stop())
            self._consumer = None
