"""What every store keeps besides the history: epochs, keys, leases, members; the twin and Redis alike."""

from __future__ import annotations

import asyncio
import uuid

import msgspec
import pytest

from fanout.adapters import open_store
from fanout.core.errors import Fenced
from fanout.ports import Claim, Earlier, Lease, MemberChange, Store
from tests.support.clocks import SteppedClock

TTL_MS = 10_000


async def pass_ms(clock: SteppedClock, ms: int) -> None:
    """Let time go by for the twin, whose clock is the test's, and for Redis, whose clock is its own."""
    clock.advance(ms)
    await asyncio.sleep(ms / 1_000)


async def acquire(
    store: Store, pool: str = "slots", size: int = 3, *, ttl_ms: int = TTL_MS, holder: str = "h"
) -> Lease:
    lease = await store.leases.acquire(pool, size, holder, "127.0.0.1:1", 1_000, ttl_ms)
    assert lease is not None
    return lease


# --- epochs ----------------------------------------------------------------------------------------------------------


async def test_the_first_owner_of_a_partition_founds_the_epoch(store: Store) -> None:
    assert await store.epochs.current(3) is None
    assert await store.epochs.claim(3, 0, 1_000, "first") == Claim("first", 1_000, 0, renewed=True)
    assert await store.epochs.current(3) == "first"
    assert await store.epochs.current(4) is None


async def test_every_owner_is_higher_than_the_one_before_and_keeps_the_epoch(store: Store) -> None:
    await store.epochs.claim(0, 0, 5_000, "first")
    await store.epochs.saw(0, 5_000, 17)
    assert await store.epochs.claim(0, 17, 4_000, "x") == Claim("first", 5_001, 17, renewed=False)
    assert await store.epochs.claim(0, 40, 9_000, "x") == Claim("first", 9_000, 17, renewed=False)


async def test_a_log_that_ends_below_what_was_seen_begins_a_new_epoch(store: Store) -> None:
    await store.epochs.claim(0, 0, 1_000, "first")
    await store.epochs.saw(0, 1_000, 17)
    assert await store.epochs.claim(0, 16, 2_000, "second") == Claim("second", 2_000, 0, renewed=True)
    assert await store.epochs.current(0) == "second"


async def test_the_highest_offset_seen_only_rises(store: Store) -> None:
    await store.epochs.claim(0, 0, 1_000, "first")
    await store.epochs.saw(0, 1_000, 17)
    await store.epochs.saw(0, 1_000, 12)
    assert (await store.epochs.claim(0, 100, 2_000, "x")).highest == 17


async def test_an_older_owner_does_not_raise_it(store: Store) -> None:
    await store.epochs.claim(0, 0, 1_000, "first")
    await store.epochs.claim(0, 0, 2_000, "x")
    with pytest.raises(Fenced):
        await store.epochs.saw(0, 1_000, 17)
    assert (await store.epochs.claim(0, 0, 3_000, "x")).highest == 0


async def test_an_owner_learns_that_the_store_has_forgotten_what_it_was_told(store: Store) -> None:
    await store.epochs.claim(0, 40, 1_000, "first")
    await store.epochs.saw(0, 1_000, 17)
    await store.epochs.saw(0, 1_000, 18, 17)
    with pytest.raises(Fenced, match="forgotten"):
        await store.epochs.saw(0, 1_000, 21, 20)
    assert (await store.epochs.claim(0, 40, 0, "other")).highest == 18


async def test_an_owner_whose_claim_the_store_has_lost_must_claim_again(store: Store) -> None:
    with pytest.raises(Fenced):
        await store.epochs.saw(5, 1_000, 17)


# --- keys ------------------------------------------------------------------------------------------------------------


async def test_a_key_is_claimed_once_and_tells_later_ones_who_came_first(store: Store) -> None:
    first, second = (1 << 62) + 1, (1 << 62) + 2
    assert await store.keys.claim("dev/r", "k", first, b"digest", 600) is None
    assert await store.keys.claim("dev/r", "k", second, b"other", 600) == Earlier(first, None, b"digest")
    await store.keys.settle("dev/r", "k", first, 0, 600)
    assert await store.keys.claim("dev/r", "k", second, b"other", 600) == Earlier(first, 0, b"digest")
    await store.keys.settle("dev/r", "k", first, (1 << 53) - 1, 600)
    assert await store.keys.claim("dev/r", "k", second, b"", 600) == Earlier(first, (1 << 53) - 1, b"digest")


async def test_keys_of_rooms_are_apart_and_only_their_message_settles_them(store: Store) -> None:
    assert await store.keys.claim("dev/r", "k", 1, b"a", 600) is None
    assert await store.keys.claim("dev/r2", "k", 2, b"b", 600) is None
    assert await store.keys.claim("dev/r", "k2", 3, b"c", 600) is None
    await store.keys.settle("dev/r", "k", 2, 7, 600)
    await store.keys.settle("dev/r", "none", 9, 7, 600)
    assert await store.keys.claim("dev/r", "k", 4, b"d", 600) == Earlier(1, None, b"a")
    assert await store.keys.claim("dev/r", "none", 5, b"e", 600) is None


async def test_a_key_is_free_again_after_its_time(store: Store, clock: SteppedClock) -> None:
    assert await store.keys.claim("dev/r", "k", 1, b"a", 1) is None
    await pass_ms(clock, 1_100)
    assert await store.keys.claim("dev/r", "k", 2, b"b", 1) is None


# --- leases ----------------------------------------------------------------------------------------------------------


def standing(lease: Lease) -> Lease:
    """Return a lease as the table shows it: the age of the pool is told by ``acquire`` alone."""
    return msgspec.structs.replace(lease, pool_age_ms=0)


async def test_numbers_are_leased_once_and_shown_in_the_table(store: Store) -> None:
    leases = [await acquire(store, holder=f"h{index}") for index in range(3)]
    assert [lease.number for lease in leases] == [0, 1, 2]
    assert {lease.generation for lease in leases} == {1_000}
    assert await store.leases.acquire("slots", 3, "late", "", 1_000, TTL_MS) is None
    assert (await acquire(store, "nodes")).number == 0
    table = await store.leases.table("slots")
    assert table == {lease.number: standing(lease) for lease in leases}
    assert await store.leases.table("empty") == {}


async def test_a_released_number_comes_back_with_a_higher_generation_after_those_never_leased(store: Store) -> None:
    first = await acquire(store)
    await store.leases.release(first)
    assert await store.leases.table("slots") == {}
    assert [(await acquire(store)).number for _ in range(2)] == [1, 2]
    again = await acquire(store)
    assert (again.number, again.generation) == (0, 1_001)


async def test_generations_follow_the_clock_where_it_is_ahead(store: Store) -> None:
    await store.leases.release(await acquire(store, size=1))
    lease = await store.leases.acquire("slots", 1, "h", "", 9_000, TTL_MS)
    assert lease is not None
    assert lease.generation == 9_000


async def test_an_unrenewed_lease_ends_and_its_holder_is_fenced_by_the_next_one(
    store: Store, clock: SteppedClock
) -> None:
    old = await acquire(store, size=1, ttl_ms=200)
    await pass_ms(clock, 300)
    assert await store.leases.table("slots") == {}
    assert await store.leases.renew(old, 200) is True, "nobody else has it: it stands again"
    await pass_ms(clock, 300)
    new = await acquire(store, size=1)
    assert (new.number, new.generation) == (old.number, old.generation + 1)
    assert await store.leases.renew(old, TTL_MS) is False
    await store.leases.release(old)
    assert await store.leases.table("slots") == {0: standing(new)}


async def test_renewal_prolongs(store: Store, clock: SteppedClock) -> None:
    lease = await acquire(store, ttl_ms=300)
    for _ in range(3):
        await pass_ms(clock, 150)
        assert await store.leases.renew(lease, 300)
    assert (await store.leases.table("slots"))[lease.number].generation == lease.generation


async def test_a_lease_that_the_store_has_lost_stands_again_by_its_renewal(store: Store) -> None:
    lost = Lease("slots", 7, 5_000, "h", "a", 0)
    assert await store.leases.renew(lost, TTL_MS) is True
    assert (await store.leases.table("slots"))[7].generation == 5_000
    assert await store.leases.renew(Lease("slots", 7, 4_999, "h", "a", 0), TTL_MS) is False


async def test_the_number_that_has_been_free_longest_is_leased_first(store: Store, clock: SteppedClock) -> None:
    leases = [await acquire(store) for _ in range(3)]
    for number in (1, 0, 2):
        await store.leases.release(leases[number])
        await pass_ms(clock, 5)
    assert [(await acquire(store)).number for _ in range(3)] == [1, 0, 2]


# --- members ---------------------------------------------------------------------------------------------------------


def joined(*users: str) -> list[MemberChange]:
    return [MemberChange(user, b"joined " + user.encode()) for user in users]


async def test_the_first_to_ask_fixes_the_number_of_shards(store: Store) -> None:
    assert await store.members.shards("dev/r", 0) == 0
    assert await store.members.shards("dev/r", 64) == 64
    assert await store.members.shards("dev/r", 128) == 64
    assert await store.members.shards("dev/r", 0) == 64


async def test_members_join_and_leave_by_shard(store: Store) -> None:
    await store.members.apply("dev/r", 0, joined("alice", "bob"), 10)
    await store.members.apply("dev/r", 1, joined("carol"), 11)
    assert await store.members.count("dev/r", 2) == 3
    assert await store.members.contains("dev/r", 0, "alice")
    assert not await store.members.contains("dev/r", 1, "alice")
    assert not await store.members.contains("dev/none", 0, "alice")
    await store.members.apply("dev/r", 0, [MemberChange("alice", None), MemberChange("nobody", None)], 12)
    assert not await store.members.contains("dev/r", 0, "alice")
    assert await store.members.count("dev/r", 2) == 2
    assert await store.members.count("dev/none", 2) == await store.members.count("dev/r", 0) == 0


async def test_changes_that_are_not_newer_change_nothing(store: Store) -> None:
    await store.members.apply("dev/r", 0, joined("alice"), 10)
    await store.members.apply("dev/r", 0, [MemberChange("alice", None)], 10)
    await store.members.apply("dev/r", 0, [MemberChange("alice", None)], 9)
    assert await store.members.contains("dev/r", 0, "alice")
    await store.members.apply("dev/r", 0, [MemberChange("alice", None), *joined("alice")], 11)
    assert await store.members.contains("dev/r", 0, "alice")


async def test_pages_follow_the_bytes_of_the_user_ids(store: Store) -> None:
    users = ["Zoe", "a", "a-b", "a.b", "a@b", "ab", "b", "z_9"]
    await store.members.apply("dev/r", 0, joined(*reversed(users)), 1)
    seen: list[str] = []
    start: str | None = ""
    while start is not None:
        page = await store.members.page("dev/r", 0, start, 3)
        assert all(value == b"joined " + user.encode() for user, value in page.items)
        seen += [user for user, _ in page.items]
        start = page.next_user
    assert seen == sorted(users, key=str.encode)
    assert (await store.members.page("dev/r", 0, "zz", 3)).items == []
    assert (await store.members.page("dev/r", 0, "a-", 1)).items == [("a-b", b"joined a-b")]


async def test_a_member_who_joins_again_is_there_once_with_the_newer_record(store: Store) -> None:
    await store.members.apply("dev/r", 0, [MemberChange("alice", b"one")], 1)
    await store.members.apply("dev/r", 0, [MemberChange("alice", b"\x00two")], 2)
    assert await store.members.page("dev/r", 0, "", 10) == ([("alice", b"\x00two")], None)


async def test_ten_thousand_members_go_through_one_call(store: Store) -> None:
    await store.members.apply("dev/r", 0, joined(*(f"u{number:05}" for number in range(10_000))), 1)
    assert await store.members.count("dev/r", 1) == 10_000
    page = await store.members.page("dev/r", 0, "u05000", 2)
    assert ([user for user, _ in page.items], page.next_user) == (["u05000", "u05001"], "u05002")


async def test_marks_tell_how_far_a_partition_is_written(store: Store) -> None:
    assert await store.members.marked(7) is None
    await store.members.mark(7, 100)
    assert (await store.members.marked(7), await store.members.marked(8)) == (100, None)


# --- all of it -------------------------------------------------------------------------------------------------------


async def test_ping_answers_and_stores_of_one_name_and_prefix_share_their_data(
    store_url: str, clock: SteppedClock
) -> None:
    prefix = uuid.uuid4().hex
    one, two = [await open_store(store_url, prefix=prefix, clock=clock) for _ in range(2)]
    apart = await open_store(store_url, prefix=prefix + "x", clock=clock)
    await one.backend.ping()
    await one.epochs.claim(0, 0, 1_000, "shared")
    assert (await two.epochs.current(0), await apart.epochs.current(0)) == ("shared", None)
    for opened in (one, two, apart):
        await opened.backend.close()


async def test_many_calls_at_once_are_all_answered(store: Store) -> None:
    claims = await asyncio.gather(
        *(store.keys.claim("dev/r", f"k{index % 50}", index, b"", 60) for index in range(400))
    )
    assert sum(claim is None for claim in claims) == 50
