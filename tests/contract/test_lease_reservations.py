"""What a lease says about time that its holders have used; the twin and Redis alike (FAULTS 52)."""

from __future__ import annotations

import asyncio

from fanout.ports import Lease, Store

TTL_MS = 10_000


async def acquire(store: Store, wall_ms: int = 1_000) -> Lease:
    lease = await store.leases.acquire("nodes", 1, "h", "", wall_ms, TTL_MS)
    assert lease is not None
    return lease


async def test_a_number_that_was_never_leased_has_used_no_time(store: Store) -> None:
    assert (await acquire(store)).used_ms == 0


async def test_a_renewal_raises_what_is_reserved_and_never_lowers_it(store: Store) -> None:
    lease = await acquire(store)
    for told, kept in ((5_000, 5_000), (4_000, 5_000), (0, 5_000), (1_790_000_000_123, 1_790_000_000_123)):
        assert await store.leases.renew(lease, TTL_MS, told)
        assert (await store.leases.table("nodes"))[0].used_ms == kept


async def test_the_next_holder_learns_what_was_reserved_or_what_was_really_used(store: Store) -> None:
    lease = await acquire(store)
    assert await store.leases.renew(lease, TTL_MS, 9_000)
    await store.leases.release(lease)
    second = await acquire(store)
    assert second.used_ms == 9_000
    await store.leases.release(second, 7_000)
    assert (await acquire(store)).used_ms == 7_000


async def test_one_that_is_fenced_leaves_word_of_what_it_may_have_used(store: Store) -> None:
    old = await acquire(store)
    await store.leases.release(old)
    new = await acquire(store, wall_ms=2_000)
    assert not await store.leases.renew(old, TTL_MS, 99_000)
    await store.leases.release(old, 999_000)
    found = (await store.leases.table("nodes"))[0]
    assert (found.generation, found.holder, found.used_ms) == (new.generation, "h", 99_000)
    assert new.used_ms == 0


async def test_a_lease_says_how_long_the_store_has_known_its_pool(store: Store) -> None:
    first = await acquire(store)
    assert first.pool_age_ms == 0
    await asyncio.sleep(0.02)
    await store.leases.release(first)
    assert 0 <= (await acquire(store)).pool_age_ms < 60_000
    assert (await store.leases.acquire("slots", 1, "h", "", 1_000, TTL_MS)) is not None


async def test_a_renewal_on_an_emptied_store_is_the_birth_of_its_pool(store: Store) -> None:
    lost = Lease("nodes", 3, 1_000, "h", "", 0)
    assert await store.leases.renew(lost, TTL_MS)
    found = await store.leases.acquire("nodes", 8, "other", "", 1_000, TTL_MS)
    assert found is not None
    assert 0 <= found.pool_age_ms < 60_000
    assert found.number != lost.number
