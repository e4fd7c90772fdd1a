"""What only the store's twin does: its bounds, and its switches for tests."""

from __future__ import annotations

import pytest

from fanout.adapters.memory import MemoryState, memory_store
from fanout.core.errors import Unavailable
from fanout.ports import Lease
from tests.support.batches import EPOCH, ROOM, batch, entry
from tests.support.clocks import SteppedClock

DAY_MS = 86_400_000


async def test_a_store_that_was_taken_away_answers_unavailable_and_comes_back(clock: SteppedClock) -> None:
    state = MemoryState()
    store = memory_store(clock, state)
    state.available = False
    lease = Lease("slots", 0, 1, "h", "a", 0)
    work = batch(entry(5, 2), now_ms=0)
    (refused,) = await store.history.store([work])
    assert isinstance(refused, Unavailable)
    for call in (
        store.history.load([(ROOM, EPOCH)]),
        store.history.read(ROOM, EPOCH, after=0, limit=1, bytes_max=1),
        store.epochs.claim(0, 0, 1, "e"),
        store.epochs.saw(0, 1, 1),
        store.epochs.current(0),
        store.keys.claim("r", "k", 1, b"", 1),
        store.keys.settle("r", "k", 1, 1, 1),
        store.leases.acquire("slots", 1, "h", "a", 1, 1),
        store.leases.renew(lease, 1),
        store.leases.release(lease),
        store.leases.table("slots"),
        store.members.shards("r", 1),
        store.members.apply("r", 0, [], 1),
        store.members.mark(0, 1),
        store.members.marked(0),
        store.members.contains("r", 0, "u"),
        store.members.page("r", 0, "", 1),
        store.members.count("r", 1),
        store.backend.ping(),
    ):
        with pytest.raises(Unavailable):
            await call
    state.available = True
    await store.backend.ping()
    await store.backend.close()


async def test_flush_forgets_everything(clock: SteppedClock) -> None:
    state = MemoryState()
    store = memory_store(clock, state)
    await store.history.store([batch(entry(5, 2, at_ms=clock.wall_ms()), now_ms=clock.wall_ms())])
    await store.epochs.claim(0, 0, 1, "e")
    state.flush()
    assert list(await store.history.load([(ROOM, EPOCH)])) == [None]
    assert await store.epochs.current(0) is None


async def test_rooms_end_a_week_after_their_last_entry(clock: SteppedClock) -> None:
    state = MemoryState()
    store = memory_store(clock, state)
    await store.history.store([batch(entry(5, 2, at_ms=clock.wall_ms()), now_ms=clock.wall_ms())])
    clock.advance(8 * DAY_MS)
    assert list(await store.history.load([(ROOM, EPOCH)])) == [None]
    await store.history.store([batch(now_ms=clock.wall_ms(), key="dev/other")])
    assert len(state.rooms) == 1


async def test_the_room_that_was_silent_longest_goes_when_there_are_too_many(clock: SteppedClock) -> None:
    state = MemoryState(rooms_max=3)
    store = memory_store(clock, state)
    for key in ("a", "b", "c", "a", "d"):
        await store.history.store([batch(now_ms=clock.wall_ms(), key=key)])
    assert [key for key, _ in state.rooms] == ["c", "a", "d"]


async def test_keys_are_bounded_in_number(clock: SteppedClock) -> None:
    store = memory_store(clock, MemoryState(keys_max=2))
    for key in ("a", "b", "c"):
        assert await store.keys.claim("r", key, 1, b"", 600) is None
    assert await store.keys.claim("r", "c", 2, b"", 600) is not None
    assert await store.keys.claim("r", "a", 2, b"", 600) is None, "the oldest has gone"
