"""What every history keeps, the twin and Redis alike."""

from __future__ import annotations

import pytest

from fanout.core.errors import Fenced, Unavailable
from fanout.core.limits import KEYED_IDS_MAX
from fanout.ports import History, HistoryBatch, HistoryPage, KeyedId, RoomMeta, Store
from tests.support.batches import EPOCH, RECENT, ROOM, batch, chain, entry
from tests.support.clocks import SteppedClock

HOUR_MS = 3_600_000


@pytest.fixture
def history(store: Store) -> History:
    """The history under test."""
    return store.history


async def stored(history: History, *batches: HistoryBatch) -> None:
    """Store batches, none of which may fail."""
    assert list(await history.store(batches)) == [None] * len(batches)


async def page(history: History, after: int = 0, limit: int = 1_000, *, reverse: bool = False) -> HistoryPage:
    return await history.read(ROOM, EPOCH, after=after, limit=limit, bytes_max=1 << 20, reverse=reverse)


async def offsets(history: History, after: int = 0, limit: int = 1_000, *, reverse: bool = False) -> list[int]:
    found = await page(history, after, limit, reverse=reverse)
    return [int(one.rstrip(b".")) for one in found.entries]


async def meta(history: History) -> RoomMeta:
    (found,) = await history.load([(ROOM, EPOCH)])
    assert found is not None
    return found


async def test_an_unknown_room_has_neither_meta_nor_entries(history: History) -> None:
    assert list(await history.load([("dev/none", EPOCH), ("dev/none2", EPOCH)])) == [None, None]
    assert list(await history.load([])) == []
    assert list(await history.store([])) == []
    found = await history.read("dev/none", EPOCH, after=0, limit=10, bytes_max=1_000)
    assert (found.meta, list(found.entries), found.truncated) == (None, [], False)


async def test_what_is_stored_is_read_in_order_with_the_rooms_meta(history: History, clock: SteppedClock) -> None:
    now = clock.wall_ms()
    await stored(history, batch(*chain([5, 9], prev=2, at_ms=now), now_ms=now, owner=7, n=2, applied=10, state=b"s1"))
    await stored(history, batch(*chain([12], prev=9, at_ms=now), now_ms=now, owner=7, n=3, applied=14, state=b"\x00s2"))
    assert await offsets(history) == [5, 9, 12]
    assert await meta(history) == RoomMeta(EPOCH, 12, 12, 2, 3, 14, 7, b"\x00s2", ())


async def test_reliable_and_recent_entries_are_merged_by_offset(history: History, clock: SteppedClock) -> None:
    now = clock.wall_ms()
    mixed = [entry(3, 1, at_ms=now), entry(4, 3, kind=RECENT, at_ms=now), entry(6, 3, at_ms=now)]
    await stored(history, batch(*mixed, entry(8, 6, kind=RECENT, at_ms=now), now_ms=now))
    assert await offsets(history) == [3, 4, 6, 8]
    assert await offsets(history, reverse=True) == [8, 6, 4, 3]
    found = await meta(history)
    assert (found.head, found.last, found.floor) == (8, 6, 1)


async def test_reading_goes_on_after_a_position_in_both_directions(history: History, clock: SteppedClock) -> None:
    now = clock.wall_ms()
    numbers = list(range(2, 600, 2))  # several pages of the script
    kinds = [entry(n, n - 2, kind=RECENT if n % 3 == 0 else 0, at_ms=now) for n in numbers]
    await stored(history, batch(*kinds, now_ms=now, recent_max=1_000))
    assert await offsets(history) == numbers
    assert await offsets(history, after=300) == [n for n in numbers if n > 300]
    assert await offsets(history, after=301) == [n for n in numbers if n > 301]
    assert await offsets(history, after=598) == []
    assert await offsets(history, reverse=True) == numbers[::-1]
    assert await offsets(history, after=300, reverse=True) == [n for n in numbers if n < 300][::-1]
    assert await offsets(history, after=2, reverse=True) == []
    assert await offsets(history, after=10_000, reverse=True, limit=3) == [598, 596, 594]


async def test_a_page_ends_at_its_limit_or_bytes_and_says_that_there_is_more(
    history: History, clock: SteppedClock
) -> None:
    now = clock.wall_ms()
    entries = [entry(n, n - 1, at_ms=now, size=98) for n in range(10, 20)]
    await stored(history, batch(*entries, now_ms=now))
    limited = await page(history, after=0, limit=4)
    assert (len(limited.entries), limited.truncated) == (4, True)
    exact = await page(history, after=0, limit=10)
    assert (len(exact.entries), exact.truncated) == (10, False)
    cut = await history.read(ROOM, EPOCH, after=0, limit=10, bytes_max=350)
    assert (len(cut.entries), cut.truncated) == (3, True)
    one = await history.read(ROOM, EPOCH, after=0, limit=10, bytes_max=1)
    assert (len(one.entries), one.truncated) == (1, True)


async def test_limit_zero_gives_the_meta_with_its_state_and_a_page_gives_it_without(
    history: History, clock: SteppedClock
) -> None:
    now = clock.wall_ms()
    keyed = [KeyedId(5 << 40, 3, now)]
    await stored(history, batch(entry(3, 1, at_ms=now), now_ms=now, state=b"state", keyed=keyed))
    alone, with_entries = await page(history, limit=0), await page(history, limit=1)
    assert alone.meta is not None and with_entries.meta is not None
    assert (alone.meta.state, tuple(alone.meta.keyed), alone.entries, alone.truncated) == (b"state", (), [], False)
    assert (with_entries.meta.state, tuple(with_entries.meta.keyed)) == (b"", ())
    assert tuple((await meta(history)).keyed) == tuple(keyed)


async def test_a_room_without_entries_has_its_base_as_floor(history: History, clock: SteppedClock) -> None:
    now = clock.wall_ms()
    await stored(history, batch(now_ms=now, head=41, last=41, applied=42))
    found = await meta(history)
    assert (found.head, found.last, found.floor) == (41, 41, 41)
    await stored(history, batch(entry(50, 41, at_ms=now), now_ms=now))
    assert ((await meta(history)).floor, await offsets(history)) == (41, [50])


async def test_a_replay_changes_nothing(history: History, clock: SteppedClock) -> None:
    now = clock.wall_ms()
    work = batch(*chain([5, 9], prev=2, at_ms=now), entry(11, 9, kind=RECENT, at_ms=now), now_ms=now, n=2, state=b"s")
    await stored(history, work)
    before = await meta(history)
    await stored(history, work, work)
    assert await meta(history) == before
    assert await offsets(history) == [5, 9, 11]


async def test_a_replay_that_goes_further_adds_only_what_is_new(history: History, clock: SteppedClock) -> None:
    now = clock.wall_ms()
    await stored(history, batch(*chain([5, 9], prev=2, at_ms=now), now_ms=now))
    await stored(history, batch(*chain([5, 9, 12], prev=2, at_ms=now), now_ms=now))
    assert await offsets(history) == [5, 9, 12]
    assert (await meta(history)).floor == 2


async def test_a_broken_chain_moves_the_floor_to_the_prev_of_the_entry_behind_the_break(
    history: History, clock: SteppedClock
) -> None:
    now = clock.wall_ms()
    await stored(history, batch(*chain([5, 9], prev=2, at_ms=now), now_ms=now))
    await stored(history, batch(*chain([20, 25], prev=15, at_ms=now), now_ms=now))
    found = await meta(history)
    assert (found.floor, found.last) == (15, 25)
    assert await offsets(history) == [5, 9, 20, 25]


async def test_reliable_entries_that_never_came_cut_the_chain(history: History, clock: SteppedClock) -> None:
    now = clock.wall_ms()
    await stored(history, batch(*chain([5, 9], prev=2, at_ms=now), now_ms=now))
    await stored(history, batch(entry(31, 30, kind=RECENT, at_ms=now), now_ms=now, last=30))
    found = await meta(history)
    assert (found.head, found.last, found.floor) == (31, 30, 30)


async def test_an_older_owner_is_fenced_and_changes_nothing(history: History, clock: SteppedClock) -> None:
    now = clock.wall_ms()
    await stored(history, batch(entry(5, 2, at_ms=now), now_ms=now, owner=100, state=b"new"))
    before = await meta(history)
    zombie = batch(entry(6, 5, at_ms=now), now_ms=now, owner=99, state=b"old")
    other = batch(entry(6, 5, at_ms=now), now_ms=now, owner=99, key="dev/group:other")
    (refused, fine) = await history.store([zombie, other])
    assert isinstance(refused, Fenced)
    assert fine is None
    assert await meta(history) == before
    assert await offsets(history) == [5]


async def test_a_new_owner_fences_but_never_goes_back(history: History, clock: SteppedClock) -> None:
    """A late word of the old owner may have gone further than the new one has come; both decide alike. Positions, count
    and state must stay those of one moment, because the next owner loads all of them."""
    now = clock.wall_ms()
    await stored(history, batch(*chain([5, 9], prev=2, at_ms=now), now_ms=now, owner=1, n=2, applied=9, state=b"far"))
    await stored(history, batch(entry(5, 2, at_ms=now), now_ms=now, owner=2, n=1, applied=5, state=b"near"))
    found = await meta(history)
    assert (found.state, found.applied, found.n, found.owner) == (b"far", 9, 2, 2)
    assert (found.head, found.last) == (9, 9)
    (refused,) = await history.store([batch(entry(12, 9, at_ms=now), now_ms=now, owner=1, n=3, applied=12)])
    assert isinstance(refused, Fenced)
    await stored(history, batch(entry(12, 9, at_ms=now), now_ms=now, owner=2, n=3, applied=12, state=b"on"))
    found = await meta(history)
    assert (found.state, found.applied, found.n, found.last) == (b"on", 12, 3, 12)


async def test_the_same_owner_never_goes_back(history: History, clock: SteppedClock) -> None:
    now = clock.wall_ms()
    await stored(history, batch(*chain([5, 9], prev=2, at_ms=now), now_ms=now, n=2, applied=9, state=b"far"))
    await stored(history, batch(entry(5, 2, at_ms=now), now_ms=now, n=1, applied=5, state=b"near"))
    found = await meta(history)
    assert (found.state, found.applied, found.n) == (b"far", 9, 2)


async def test_reliable_entries_beyond_their_number_go_and_the_floor_follows(
    history: History, clock: SteppedClock
) -> None:
    now = clock.wall_ms()
    await stored(history, batch(*chain(list(range(10, 20)), prev=4, at_ms=now), now_ms=now, reliable_max=3))
    assert await offsets(history) == [17, 18, 19]
    assert (await meta(history)).floor == 16
    await stored(history, batch(now_ms=now, head=19, last=19, applied=20, reliable_max=3))
    assert (await meta(history)).floor == 16


async def test_recent_entries_beyond_their_number_go_and_the_floor_stays(history: History, clock: SteppedClock) -> None:
    now = clock.wall_ms()
    recent = [entry(n, 5, kind=RECENT, at_ms=now) for n in range(10, 20)]
    await stored(history, batch(entry(5, 2, at_ms=now), *recent, now_ms=now, recent_max=2))
    assert await offsets(history) == [5, 18, 19]
    assert (await meta(history)).floor == 2


async def test_entries_go_with_the_age_of_the_newest_record(history: History, clock: SteppedClock) -> None:
    now = clock.wall_ms()
    old, new = now - 700_000, now
    await stored(history, batch(*chain([5, 6], prev=2, at_ms=old), entry(7, 6, kind=RECENT, at_ms=old), now_ms=old))
    await stored(history, batch(entry(8, 6, at_ms=new), now_ms=new))
    assert await offsets(history) == [8]
    assert (await meta(history)).floor == 6


async def test_entries_of_a_silent_room_expire_by_the_clock(history: History, clock: SteppedClock) -> None:
    now = clock.wall_ms()
    times = [now + step * 100_000 for step in range(6)]
    entries = [entry(10 + 2 * step, 8 + 2 * step, at_ms=at_ms) for step, at_ms in enumerate(times)]
    recent = [entry(11 + 2 * step, 10 + 2 * step, kind=RECENT, at_ms=at_ms) for step, at_ms in enumerate(times)]
    both = sorted(entries + recent, key=lambda one: one.offset)
    await stored(history, batch(*both, now_ms=times[-1], recent_ttl_ms=300_000))
    clock.advance(600_000)
    assert await offsets(history) == [10, 12, 14, 16, 17, 18, 19, 20, 21]
    assert (await meta(history)).floor == 8
    clock.advance(250_001)
    assert await offsets(history) == [16, 18, 20]
    assert await offsets(history, reverse=True) == [20, 18, 16]
    assert await offsets(history, after=18, reverse=True) == [16]
    assert await offsets(history, after=16, reverse=True) == []
    found = await page(history, limit=0)
    assert found.meta is not None
    assert found.meta.floor == (await meta(history)).floor == 14
    clock.advance(HOUR_MS)
    found = await page(history)
    assert found.meta is not None
    assert (found.entries or [], found.meta.head, found.meta.last, found.meta.floor) == ([], 21, 20, 20)


async def test_meta_outlives_the_last_entry_by_days(history: History, clock: SteppedClock) -> None:
    now = clock.wall_ms()
    await stored(history, batch(entry(5, 2, at_ms=now), now_ms=now, n=1))
    clock.advance(6 * 24 * HOUR_MS)
    found = await meta(history)
    assert (found.head, found.last, found.floor, found.n) == (5, 5, 5, 1)


async def test_another_epoch_is_another_room(history: History, clock: SteppedClock) -> None:
    now = clock.wall_ms()
    await stored(history, batch(*chain([5, 9], prev=2, at_ms=now), now_ms=now))
    await stored(history, batch(entry(3, 1, at_ms=now), now_ms=now, epoch="e2"))
    assert await offsets(history) == [5, 9]
    other = await history.read(ROOM, "e2", after=0, limit=10, bytes_max=1_000)
    assert (other.entries, other.meta and other.meta.epoch) == ([b"3"], "e2")
    first, second, third = await history.load([(ROOM, EPOCH), (ROOM, "e2"), (ROOM, "e3")])
    assert first is not None and second is not None
    assert (first.head, second.head, third) == (9, 3, None)


async def test_keyed_ids_are_kept_for_ten_minutes_of_record_time(history: History, clock: SteppedClock) -> None:
    now = clock.wall_ms()
    big = (1 << 62) + 1  # beyond what a double holds
    old, new = KeyedId(big, 3, now - 601_000), KeyedId(big + 1, 5, now)
    await stored(history, batch(now_ms=now - 601_000, head=3, last=3, keyed=[old]))
    assert tuple((await meta(history)).keyed) == (old,)
    await stored(history, batch(now_ms=now, head=5, last=5, keyed=[new, new]))
    assert tuple((await meta(history)).keyed) == (new,)


async def test_a_room_remembers_a_bounded_number_of_keyed_ids(history: History, clock: SteppedClock) -> None:
    now = clock.wall_ms()
    step = 10_000
    for start in range(0, KEYED_IDS_MAX + 2 * step, step):
        ids = [KeyedId(1 + start + index, 1, now + start + index) for index in range(step)]
        await stored(history, batch(now_ms=now + start, head=1, last=1, keyed=ids))
    kept = (await meta(history)).keyed
    assert (len(kept), kept[0].id, kept[-1].id) == (KEYED_IDS_MAX, 1 + 2 * step, KEYED_IDS_MAX + 2 * step)


async def test_large_states_and_many_rooms_go_through_one_call(history: History, clock: SteppedClock) -> None:
    now = clock.wall_ms()
    rooms = [f"dev/group:{number}" for number in range(1_500)]
    results = await history.store(
        [batch(entry(5, 2, at_ms=now), now_ms=now, key=room, state=room.encode() * 100) for room in rooms]
    )
    assert not any(results)
    found = await history.load([(room, EPOCH) for room in rooms])
    assert [one.state if one else None for one in found] == [room.encode() * 100 for room in rooms]


async def test_several_batches_of_one_room_in_one_call_keep_their_order(history: History, clock: SteppedClock) -> None:
    now = clock.wall_ms()
    entries = chain(list(range(2, 202)), prev=1, at_ms=now)
    await stored(history, *(batch(one, now_ms=now) for one in entries))
    found = await meta(history)
    assert (await offsets(history), found.floor) == (list(range(2, 202)), 1)


async def test_positions_up_to_two_to_the_53rd_are_exact(history: History, clock: SteppedClock) -> None:
    now, high = clock.wall_ms(), (1 << 53) - 3
    await stored(history, batch(*chain([high, high + 1], prev=high - 1, at_ms=now), now_ms=now, owner=high))
    assert await offsets(history, after=high) == [high + 1]
    found = await meta(history)
    assert (found.head, found.floor, found.owner) == (high + 1, high - 1, high)


def test_unavailable_is_no_fenced() -> None:
    """Callers tell the two apart: one waits for the store, the other gives the partition up."""
    assert not issubclass(Unavailable, Fenced) and not issubclass(Fenced, Unavailable)
