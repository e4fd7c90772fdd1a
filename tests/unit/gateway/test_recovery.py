"""Subscribing from a position: everything that was missed, or nothing and a word about it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from fanout.core.errors import Refused
from fanout.core.limits import REPLAY_ENTRIES_MAX
from fanout.core.messages import Kind
from tests.support.edge import EPOCH, KEY, EdgeWorld, Listener
from tests.support.virtual_time import LoopClock, run


def play(scene: Callable[[EdgeWorld], Awaitable[None]]) -> None:
    async def main() -> None:
        world = EdgeWorld(LoopClock())
        world.start()
        await scene(world)
        await world.settle()
        world.check_ledger()
        await world.close()

    run(main())


def test_the_ring_replays_everything_stored_after_the_position() -> None:
    async def scene(world: EdgeWorld) -> None:
        await world.publish(world.entry(), world.entry(Kind.EPHEMERAL), world.entry(Kind.RECENT), world.entry())
        world.state.available = False
        listener = Listener(world)
        resumed = await listener.resume(11)
        assert resumed is not None
        assert (resumed.recovered, resumed.offset, resumed.epoch) == (True, 11, EPOCH)
        assert [one.offset for one in resumed.entries] == [13, 14]
        assert world.room.ledger.written == (0, 0, 2, 0)

    play(scene)


def test_a_client_that_missed_nothing_is_recovered_with_nothing() -> None:
    async def scene(world: EdgeWorld) -> None:
        resumed = await Listener(world).resume(10)
        assert resumed is not None and resumed.recovered and list(resumed.entries) == []

    play(scene)


def test_another_epoch_cannot_be_recovered() -> None:
    async def scene(world: EdgeWorld) -> None:
        assert await Listener(world).resume(10, "other") is None

    play(scene)


def test_what_is_older_than_the_ring_comes_from_history_and_warms_the_ring() -> None:
    async def scene(world: EdgeWorld) -> None:
        await world.remember([world.entry() for _ in range(50)])
        world.room.known_log.reset(world.room.known_log.position._replace(head=world.head, last=world.last))
        first = Listener(world)
        resumed = await first.resume(20)
        assert resumed is not None
        assert [one.offset for one in resumed.entries] == list(range(21, 61))
        world.state.available = False
        second = await Listener(world).resume(30)
        assert second is not None
        assert [one.offset for one in second.entries] == list(range(31, 61))

    play(scene)


def test_ten_thousand_resumes_on_a_cold_room_ask_the_history_few_times() -> None:
    async def scene(world: EdgeWorld) -> None:
        await world.remember([world.entry() for _ in range(500)])
        world.room.known_log.reset(world.room.known_log.position._replace(head=world.head, last=world.last))
        reads = 0
        read = world.store.history.read

        async def counted(*args: object, **kwargs: object) -> object:
            nonlocal reads
            reads += 1
            await asyncio.sleep(0.01)
            return await read(*args, **kwargs)  # type: ignore[arg-type]

        world.store.history.read = counted  # type: ignore[method-assign,assignment]
        listeners = [Listener(world) for _ in range(2_000)]
        resumed = await asyncio.gather(*(one.resume(100 + i % 40) for i, one in enumerate(listeners)))
        assert all(one is not None and one.recovered for one in resumed)
        assert all(one.offsets[-1] == 510 for one in listeners)
        assert reads <= 40

    play(scene)


def test_more_than_a_reply_holds_follows_by_the_cursor_in_order() -> None:
    async def scene(world: EdgeWorld) -> None:
        await world.remember([world.entry() for _ in range(3_000)])
        world.room.known_log.reset(world.room.known_log.position._replace(head=world.head, last=world.last))
        listener = Listener(world)
        resumed = await listener.resume(10)
        assert resumed is not None and resumed.recovered
        assert len(resumed.entries) == REPLAY_ENTRIES_MAX
        await world.publish(world.entry())
        await world.settle()
        assert listener.offsets == list(range(11, 3_012))

    play(scene)


def test_a_position_below_the_floor_is_never_replayed_in_part() -> None:
    async def scene(world: EdgeWorld) -> None:
        entries = [world.entry() for _ in range(50)]
        await world.remember(entries, reliable_max=10)
        world.room.known_log.reset(world.room.known_log.position._replace(head=world.head, last=world.last))
        assert await Listener(world).resume(20) is None
        resumed = await Listener(world).resume(50)
        assert resumed is not None and [one.offset for one in resumed.entries] == list(range(51, 61))

    play(scene)


def test_a_room_that_the_history_has_forgotten_cannot_be_recovered() -> None:
    async def scene(world: EdgeWorld) -> None:
        world.room.known_log.reset(world.room.known_log.position._replace(head=50, last=50))
        assert await Listener(world).resume(20) is None

    play(scene)


def test_without_the_store_a_position_beyond_the_ring_is_for_later() -> None:
    async def scene(world: EdgeWorld) -> None:
        await world.remember([world.entry() for _ in range(5)])
        world.room.known_log.reset(world.room.known_log.position._replace(head=world.head, last=world.last))
        world.state.available = False
        with pytest.raises(Refused) as refused:
            await Listener(world).resume(12)
        assert refused.value.problem.temporary
        assert world.room.subscriptions == 0

    play(scene)


def test_without_the_store_the_ring_s_reliable_publications_are_enough() -> None:
    async def scene(world: EdgeWorld) -> None:
        await world.publish(world.entry())
        await world.remember([world.entry(Kind.RECENT)])
        world.room.known_log.reset(world.room.known_log.position._replace(head=12))
        await world.publish(world.entry())
        world.state.available = False
        resumed = await Listener(world).resume(11)
        assert resumed is not None and resumed.recovered
        assert [one.offset for one in resumed.entries] == [13]

    play(scene)


def test_a_history_that_lags_behind_the_ring_is_for_later() -> None:
    async def scene(world: EdgeWorld) -> None:
        known = [world.entry() for _ in range(5)]
        await world.remember(known)
        for _ in range(3):
            world.entry()
        world.room.known_log.reset(world.room.known_log.position._replace(head=world.head, last=world.last))
        with pytest.raises(Refused) as refused:
            await Listener(world).resume(12)
        assert refused.value.problem.temporary

    play(scene)


def test_a_subscriber_behind_the_ring_is_not_confused_when_the_ring_is_warmed() -> None:
    async def scene(world: EdgeWorld) -> None:
        slow, other = Listener(world), Listener(world)
        slow.join()
        other.join()
        slow.stall()
        for _ in range(15):
            await world.publish(*(world.entry(Kind.RELIABLE if i % 3 else Kind.EPHEMERAL) for i in range(100)))
            await world.settle()
        await asyncio.sleep(61)
        world.hub.age()
        await Listener(world).resume(other.offsets[-300])
        slow.flow()
        await world.settle()
        assert slow.offsets == other.offsets

    play(scene)


def test_a_history_that_is_ahead_of_the_gateway_is_replayed_only_as_far_as_the_gateway_has_come() -> None:
    async def scene(world: EdgeWorld) -> None:
        await world.remember([world.entry() for _ in range(5)])
        world.room.known_log.reset(world.room.known_log.position._replace(head=world.head, last=world.last))
        early = [world.entry(), world.entry()]
        await world.remember(early)
        listener = Listener(world)
        resumed = await listener.resume(11)
        assert resumed is not None
        assert [one.offset for one in resumed.entries] == [12, 13, 14, 15]
        world.give(world.batch(early))
        await world.settle()
        assert listener.offsets == [12, 13, 14, 15, 16, 17]

    play(scene)


def test_the_room_is_known_by_its_key() -> None:
    async def scene(world: EdgeWorld) -> None:
        assert world.hub.rooms[KEY] is world.room

    play(scene)


def test_two_resumes_that_read_side_by_side_do_not_put_anything_into_the_ring_twice() -> None:
    async def scene(world: EdgeWorld) -> None:
        await world.remember([world.entry() for _ in range(50)])
        world.room.known_log.reset(world.room.known_log.position._replace(head=world.head, last=world.last))
        await asyncio.gather(*(Listener(world).resume(offset) for offset in (20, 30, 25)))
        assert world.room.known_log.oldest_offset == 20
        last = Listener(world)
        resumed = await last.resume(15)
        assert resumed is not None
        assert [one.offset for one in resumed.entries] == list(range(16, 61))

    play(scene)
