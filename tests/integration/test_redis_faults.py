"""The Redis adapter when Redis dies, hangs, forgets and comes back (FAULTS 17–19): bounded waits, then on by itself."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from fanout.adapters import open_store
from fanout.core.errors import Unavailable
from fanout.ports import Store
from scripts.parts import Running, start_redis
from tests.support.batches import EPOCH, ROOM, batch, entry
from tests.support.clocks import SteppedClock
from tests.support.parts import freeze, need
from tests.support.tcp_proxy import tcp_proxy

pytestmark = pytest.mark.real
BOUND_S = 3.0  # the adapter's own bound is 2 s


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    """A Redis of this test's own."""
    part = need(lambda: start_redis(tmp_path / "redis"))
    yield part
    part.stop()


async def open_here(server: Running, clock: SteppedClock) -> Store:
    return await open_store(f"redis://{server.address}", prefix="faults", clock=clock)


async def works(store: Store, clock: SteppedClock, offset: int) -> bool:
    """Store one entry and read it back; False while Redis is away."""
    now = clock.wall_ms()
    (failed,) = await store.history.store([batch(entry(offset, offset - 1, at_ms=now), now_ms=now)])
    if failed is not None:
        assert isinstance(failed, Unavailable)
        return False
    page = await store.history.read(ROOM, EPOCH, after=offset - 1, limit=1, bytes_max=100)
    return list(page.entries) == [b"%d" % offset]


async def answers_within_the_bound(store: Store, clock: SteppedClock) -> None:
    """Call everything while Redis is away; all of it fails in time and as Unavailable."""
    now = clock.wall_ms()
    started_s = time.monotonic()
    many = [batch(entry(5, 4, at_ms=now), now_ms=now, key=f"r{number}", state=b"x" * 4_000) for number in range(2_000)]
    results = await asyncio.gather(
        store.history.store(many),
        store.history.load([(ROOM, EPOCH)]),
        store.epochs.claim(0, 0, 1, "e"),
        store.keys.claim("r", "k", 1, b"", 1),
        store.leases.table("slots"),
        store.members.count("r", 3),
        store.backend.ping(),
        *(store.members.marked(number) for number in range(50)),
        return_exceptions=True,
    )
    assert time.monotonic() - started_s < BOUND_S
    stored, *others = results
    assert isinstance(stored, list)
    assert all(isinstance(one, Unavailable) for one in stored)
    assert all(isinstance(one, Unavailable) for one in others)


async def test_a_redis_that_dies_blocks_nobody_and_is_used_again_when_it_is_back(
    server: Running, clock: SteppedClock
) -> None:
    store = await open_here(server, clock)
    assert await works(store, clock, 5)
    server.kill()
    await answers_within_the_bound(store, clock)
    server.spawn()
    deadline_s = time.monotonic() + 10
    while not await works(store, clock, 6):
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.05)
    await store.backend.close()


async def test_a_redis_that_hangs_blocks_nobody_beyond_the_bound(server: Running, clock: SteppedClock) -> None:
    store = await open_here(server, clock)
    assert await works(store, clock, 5)
    freeze(server.processes[0].pid)
    try:
        await answers_within_the_bound(store, clock)
    finally:
        server.processes[0].send_signal(signal.SIGCONT)
    assert await works(store, clock, 6)
    await store.backend.close()


async def test_a_primary_that_was_demoted_is_left_for_the_one_that_took_its_address(
    server: Running, clock: SteppedClock, tmp_path: Path
) -> None:
    """A demoted primary keeps its connections and refuses writes; a new connection reaches the new one."""
    primary = need(lambda: start_redis(tmp_path / "primary"))
    try:
        async with tcp_proxy(int(server.address.rpartition(":")[2])) as proxy:
            store = await open_store(f"redis://127.0.0.1:{proxy.port}", prefix="faults", clock=clock)
            assert await works(store, clock, 5)
            host, _, port = primary.address.rpartition(":")
            async with Redis.from_url(f"redis://{server.address}") as demoted:
                await demoted.replicaof(host, int(port))
            proxy.target_port = int(port)
            await works(store, clock, 6)
            assert await works(store, clock, 7)
            await store.backend.close()
    finally:
        primary.stop()


async def test_scripts_that_redis_forgot_are_loaded_again(server: Running, clock: SteppedClock) -> None:
    store = await open_here(server, clock)
    assert await works(store, clock, 5)
    async with Redis.from_url(f"redis://{server.address}") as other:
        await other.script_flush()
        assert await works(store, clock, 6)
        await other.flushall()
    assert list(await store.history.load([(ROOM, EPOCH)])) == [None]
    assert await works(store, clock, 7)
    await store.backend.close()


async def test_a_script_that_fails_is_unavailable_for_its_call_alone(server: Running, clock: SteppedClock) -> None:
    store = await open_here(server, clock)
    now = clock.wall_ms()
    async with Redis.from_url(f"redis://{server.address}") as other:
        await other.set(f"faults:{{bad}}:{EPOCH}:meta", "not a hash")
    good, bad = (batch(entry(5, 4, at_ms=now), now_ms=now, key=key) for key in ("good", "bad"))
    first, second, third = await store.history.store([good, bad, good])
    assert (first, type(second), third) == (None, Unavailable, None)
    with pytest.raises(Unavailable, match="WRONGTYPE"):
        await store.history.load([("bad", EPOCH)])
    await store.backend.close()
