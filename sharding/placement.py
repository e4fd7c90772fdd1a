"""Which partition a key belongs to, and which shard a user: the same answer in every process and in every producer."""

from __future__ import annotations

from typing import Final

_M: Final = 0x5BD1E995
_SEED: Final = 0x9747B28C
_MASK: Final = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """Return the 32-bit MurmurHash2 with Kafka's seed, unsigned.

    Source: ``org.apache.kafka.common.utils.Utils.murmur2``, Kafka's default partitioner; in librdkafka ``murmur2``.
    """
    length = len(data)
    h = _SEED ^ length
    whole = length & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at : at + 4], "little") * _M & _MASK
        k ^= k >> 24
        h = (h * _M & _MASK) ^ (k * _M & _MASK)
    if whole < length:
        h ^= int.from_bytes(data[whole:], "little")
        h = h * _M & _MASK
    h ^= h >> 13
    h = h * _M & _MASK
    return h ^ (h >> 15)


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of a key, as every Java producer computes it (sign bit cleared, then modulo)."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def shard_of(user: str, shards: int) -> int:
    """Return the member shard of a user. ``shards`` is a power of two, fixed at the room's first join."""
    return murmur2(user.encode()) & (shards - 1)


def shard_key(room_key: str, shard: int) -> bytes:
    """Return the partitioning key of a room's shard on ``members`` and ``tasks``: ``app/room#shard``."""
    return f"{room_key}#{shard}".encode()
