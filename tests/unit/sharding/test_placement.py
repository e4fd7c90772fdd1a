"""Keys land where every Java producer and aiokafka put them."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharding.placement import murmur2, partition_of, shard_key, shard_of

JAVA_VECTORS = {  # org.apache.kafka.common.utils.UtilsTest.testMurmur2; Java's int is signed
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize(("key", "signed"), JAVA_VECTORS.items(), ids=str)
def test_the_hash_is_that_of_java(key: bytes, signed: int) -> None:
    assert murmur2(key) == signed & 0xFFFFFFFF


@given(st.binary(max_size=200))
def test_the_hash_is_that_of_aiokafka(key: bytes) -> None:
    reference = pytest.importorskip("aiokafka.partitioner").murmur2
    assert murmur2(key) == reference(key) & 0xFFFFFFFF
    assert 0 <= murmur2(key) < 2**32


@given(st.binary(min_size=1, max_size=200), st.integers(1, 300))
def test_the_partition_is_that_of_aiokafkas_default_partitioner(key: bytes, partitions: int) -> None:
    default = pytest.importorskip("aiokafka.partitioner").DefaultPartitioner()
    numbers = list(range(partitions))
    assert partition_of(key, partitions) == default(key, numbers, numbers)


def test_the_partitions_of_well_known_keys_never_change() -> None:
    assert [partition_of(key, 64) for key in JAVA_VECTORS] == [signed & 0x3F for signed in JAVA_VECTORS.values()]


def test_rooms_spread_over_the_partitions() -> None:
    counts = Counter(partition_of(f"dev/live:{number}".encode(), 64) for number in range(64_000))
    assert len(counts) == 64
    assert max(counts.values()) < 1_200  # 1,000 each on average


@given(st.text(min_size=1, max_size=64), st.integers(0, 10))
def test_a_user_has_one_shard_and_doubling_the_shards_splits_it(user: str, bits: int) -> None:
    shard = shard_of(user, 1 << bits)
    assert 0 <= shard < 1 << bits
    assert shard_of(user, 2 << bits) in {shard, shard + (1 << bits)}


def test_the_key_of_a_shard_names_room_and_shard() -> None:
    assert shard_key("dev/live:1", 3) == b"dev/live:1#3"
