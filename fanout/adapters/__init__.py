"""Adapters of the ports: ``memory`` (the twins), ``kafka``, ``redis``. A URL selects one; a server's client library is
imported when it is asked for, so that the engine on twins needs none.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from fanout.adapters.memory import MemoryLog, MemoryState, memory_store
from fanout.ports import Clock, Log, Store, Topics

MEMORY: Final = "memory"
LOG_SCHEMES: Final = ("kafka",)
STORE_SCHEMES: Final = ("redis", "rediss", "redis+cluster", "rediss+cluster")

_LOGS: Final[WeakValueDictionary[str, MemoryLog]] = WeakValueDictionary()
_STATES: Final[WeakValueDictionary[str, MemoryState]] = WeakValueDictionary()


async def open_log(url: str, *, topics: Topics, clock: Clock, create_missing: bool = True) -> Log:
    """Return the log at ``memory`` (one of its own), ``memory://name`` (shared in this process, as long as somebody
    holds it), or ``kafka://host:port[,host:port]``. A Kafka on loopback gets the topics that it lacks, where
    ``create_missing``.

    Raises ValueError for another URL, Unavailable when Kafka does not answer or lacks a topic.
    """
    scheme = _scheme(url)
    if scheme == MEMORY:
        name = urlsplit(url).netloc
        if not name:
            return MemoryLog(topics, clock)
        return _LOGS.setdefault(f"{name}/{topics.prefix}", MemoryLog(topics, clock))
    if scheme in LOG_SCHEMES:
        from fanout.adapters.kafka import KafkaLog

        return await KafkaLog.open(url, topics, create_missing=create_missing)
    raise ValueError(f"log: memory or kafka://host:port, not {url!r}")


async def open_store(url: str, *, prefix: str, clock: Clock) -> Store:
    """Return the store at ``memory``, ``memory://name`` (see ``open_log``), ``redis://``, ``rediss://`` or
    ``redis+cluster://host:port/db``; keys begin with ``prefix``.

    Raises ValueError for another URL. Redis is connected to at the first call, not here.
    """
    scheme = _scheme(url)
    if scheme == MEMORY:
        name = urlsplit(url).netloc
        return memory_store(clock, _STATES.setdefault(f"{name}/{prefix}", MemoryState()) if name else None)
    if scheme in STORE_SCHEMES:
        from fanout.adapters.redis import redis_store

        return redis_store(url, prefix=prefix, clock=clock)
    raise ValueError(f"store: memory or redis://host:port, not {url!r}")


async def apply_topics(url: str, topics: Topics, *, replication: int) -> list[str]:
    """Create what is missing on the log, check what is there; return one sentence per topic.

    Raises ValueError for a URL that is no log's, Unavailable when Kafka does not answer, and
    ``fanout.adapters.kafka.TopicMismatch`` when a topic has another partition count (nothing is created then).
    """
    scheme = _scheme(url)
    if scheme == MEMORY:
        return [f"{topics.name(topic)}: {count} partitions, in memory" for topic, count in topics.partitions.items()]
    if scheme in LOG_SCHEMES:
        from fanout.adapters.kafka_topics import apply

        return await apply(url, topics, replication=replication)
    raise ValueError(f"log: memory or kafka://host:port, not {url!r}")


def _scheme(url: str) -> str:
    return MEMORY if url == MEMORY else urlsplit(url).scheme
