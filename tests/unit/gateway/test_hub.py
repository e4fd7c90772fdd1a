"""What the hub takes from chunks, what it refuses, and how it closes holes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from fanout.core.errors import RESYNC
from fanout.core.limits import DETACH_AFTER_S
from fanout.core.messages import Kind
from fanout.core.profiles import Profiles
from fanout.core.records import Attached, Chunk, RoomBatch
from fanout.core.room_log import Position
from fanout.gateway.holes import WAITING_ENTRIES_MAX
from fanout.gateway.hub import Hub
from fanout.gateway.room import Room
from fanout.ports import HistoryPage
from fanout.runtime.metrics import CHUNKS_REFUSED
from tests.support.edge import EPOCH, KEY, PARTITION, EdgeWorld, Listener
from tests.support.virtual_time import LoopClock, run


def play(scene: Callable[[EdgeWorld], Awaitable[None]], *, attached: bool = True) -> None:
    async def main() -> None:
        world = EdgeWorld(LoopClock())
        if attached:
            world.start()
        else:
            world.sweeper.start()
        await scene(world)
        await world.settle()
        world.check_ledger()
        await world.close()

    run(main())


def refused(reason: str) -> float:
    return float(CHUNKS_REFUSED.labels(reason)._value.get())


def test_publications_reach_everybody_in_step() -> None:
    async def scene(world: EdgeWorld) -> None:
        json, protobuf = Listener(world), Listener(world, wire=1)
        assert json.join().offset == 10
        protobuf.join()
        await world.publish(world.entry(), world.entry(Kind.EPHEMERAL), world.entry(Kind.RECENT))
        await world.settle()
        assert json.offsets == protobuf.offsets == [11, 13]
        assert [one.offset for one in json.received] == [11, 0, 13]
        assert json.received[0].info is not None
        assert json.received[0].info.user == "ann"

    play(scene)


def test_a_repeated_chunk_changes_nothing() -> None:
    async def scene(world: EdgeWorld) -> None:
        listener = Listener(world)
        listener.join()
        batch = world.batch([world.entry(), world.entry(Kind.EPHEMERAL)])
        before = refused("repeat")
        world.give(batch)
        world.give(batch)
        await world.settle()
        assert len(listener.received) == 2
        assert refused("repeat") - before == 2

    play(scene)


def test_a_batch_of_an_older_owner_is_refused() -> None:
    async def scene(world: EdgeWorld) -> None:
        listener = Listener(world)
        listener.join()
        world.give(world.batch([world.entry()], owner=7))
        before = refused("old_owner")
        world.give(world.batch([world.entry()], owner=6))
        await world.settle()
        assert listener.offsets == [11]
        assert refused("old_owner") - before == 1

    play(scene)


def test_a_room_that_is_not_here_is_told_to_the_announcer() -> None:
    async def scene(world: EdgeWorld) -> None:
        batch = world.batch([world.entry()])
        other = RoomBatch("dev/live:x", 0, PARTITION, 1, batch.epoch, batch.prev, batch.n, batch.entries)
        world.hub.apply(Chunk(0, [other]))
        assert world.strays == ["dev/live:x"]

    play(scene)


def test_a_batch_for_named_sessions_is_refused_in_this_version() -> None:
    async def scene(world: EdgeWorld) -> None:
        listener = Listener(world)
        listener.join()
        batch = world.batch([world.entry(Kind.EPHEMERAL)])
        batch.sessions = [1]
        world.give(batch)
        await world.settle()
        assert listener.received == []

    play(scene)


def test_a_hole_is_filled_from_history_before_anything_later_is_passed_on() -> None:
    async def scene(world: EdgeWorld) -> None:
        listener = Listener(world)
        listener.join()
        await world.publish(world.entry())
        lost = [world.entry(), world.entry(Kind.RECENT), world.entry()]
        await world.remember(lost)
        world.give(world.batch([world.entry(Kind.EPHEMERAL)]))
        await world.publish(world.entry())  # waits behind the hole
        await world.settle()
        assert listener.offsets == [11, 12, 13, 14, 16]
        assert [one.offset for one in listener.received] == [11, 12, 13, 14, 0, 16]

    play(scene)


def test_a_hole_waits_for_a_history_that_lags_behind_the_chunks() -> None:
    async def scene(world: EdgeWorld) -> None:
        listener = Listener(world)
        listener.join()
        await world.publish(world.entry())
        lost = world.entry()
        later = world.entry()
        world.give(world.batch([later]))
        await asyncio.sleep(0.3)
        assert listener.offsets == [11]
        await world.remember([lost, later])
        await asyncio.sleep(0.1)
        await world.settle()
        assert listener.offsets == [11, 12, 13]

    play(scene)


def test_a_hole_that_nobody_can_fill_resyncs_the_room_and_goes_on() -> None:
    async def scene(world: EdgeWorld) -> None:
        listener = Listener(world)
        listener.join()
        await world.publish(world.entry())
        world.entry()
        after = world.entry()
        world.give(world.batch([after]))
        await asyncio.sleep(1.1)
        assert listener.ended is RESYNC
        assert listener.offsets == [11]
        fresh = Listener(world)
        assert fresh.join().offset == 13
        world.give(world.batch([world.entry()]))
        await world.settle()
        assert fresh.offsets == [14]

    play(scene)


def test_a_hole_with_the_store_away_resyncs_at_once() -> None:
    async def scene(world: EdgeWorld) -> None:
        listener = Listener(world)
        listener.join()
        world.state.available = False
        world.entry()
        world.give(world.batch([world.entry()]))
        await world.settle()
        assert listener.ended is RESYNC

    play(scene)


def test_too_much_behind_a_hole_ends_the_wait() -> None:
    async def scene(world: EdgeWorld) -> None:
        listener = Listener(world)
        listener.join()
        world.entry()
        for _ in range(3):
            world.give(world.batch([world.entry() for _ in range(WAITING_ENTRIES_MAX // 2)]))
        assert listener.ended is RESYNC
        assert world.room.hole is None
        await world.settle()

    play(scene)


def test_a_hole_in_the_middle_of_a_batch_is_filled_too() -> None:
    async def scene(world: EdgeWorld) -> None:
        listener = Listener(world)
        listener.join()
        first, lost, third = world.entry(), world.entry(), world.entry()
        await world.remember([first, lost, third])
        world.give(world.batch([first, third]))
        await world.settle()
        assert listener.offsets == [11, 12, 13]

    play(scene)


def test_two_holes_in_a_row_are_filled_one_after_the_other() -> None:
    async def scene(world: EdgeWorld) -> None:
        listener = Listener(world)
        listener.join()
        entries = [world.entry() for _ in range(6)]
        await world.remember(entries)
        world.give(world.batch([entries[1]]))
        world.give(world.batch([entries[3]]))
        world.give(world.batch([entries[5]]))
        await world.settle()
        assert listener.offsets == [11, 12, 13, 14, 15, 16]

    play(scene)


def test_an_attached_answer_shows_what_was_missed_since() -> None:
    async def scene(world: EdgeWorld) -> None:
        listener = Listener(world)
        listener.join()
        missed = [world.entry(), world.entry(Kind.RECENT)]
        await world.remember(missed)
        world.attach()
        await world.settle()
        assert listener.offsets == [11, 12]

    play(scene)


def test_recent_publications_that_history_no_longer_has_are_let_go() -> None:
    async def scene(world: EdgeWorld) -> None:
        listener = Listener(world)
        listener.join()
        await world.remember([])
        world.head = world.offset = 20
        world.attach()
        await world.settle()
        assert world.room.known_log.head == 20
        assert listener.ended is None

    play(scene)


def test_an_attached_answer_to_an_earlier_stay_is_no_answer() -> None:
    async def scene(world: EdgeWorld) -> None:
        stale = Attached(world.room.instance - 1, 10, 10, 10, 0)
        world.give(world.batch([], attached=stale))
        assert not world.room.attached

    play(scene, attached=False)


def test_a_route_of_an_earlier_stay_makes_the_room_known_by_its_first_batch() -> None:
    async def scene(world: EdgeWorld) -> None:
        world.give(world.batch([world.entry()]))
        assert world.room.known_log.position == ("e1", 11, 11, 10, 1)
        assert await world.hub.wait_until_known(world.room, 0)

    play(scene, attached=False)


def test_another_epoch_resyncs_everybody_and_begins_anew() -> None:
    async def scene(world: EdgeWorld) -> None:
        listener = Listener(world)
        listener.join()
        await world.publish(world.entry())
        await world.settle()
        world.epoch, world.offset, world.last, world.head = "e2", 3, 3, 3
        world.give(world.batch([world.entry()], owner=2))
        await world.settle()
        assert listener.ended is RESYNC
        assert world.room.known_log.epoch == "e2"
        back = Listener(world)
        assert await back.resume(11, "e1") is None
        assert back.join().offset == 4

    play(scene)


def test_who_waits_for_a_room_is_told_whether_it_became_known() -> None:
    async def scene(world: EdgeWorld) -> None:
        assert not await world.hub.wait_until_known(world.room, 0.5)
        waiting = asyncio.ensure_future(world.hub.wait_until_known(world.room, 0.5))
        await asyncio.sleep(0)
        world.attach()
        assert await waiting

    play(scene, attached=False)


def test_a_room_without_a_listener_is_given_up_after_a_while() -> None:
    async def scene(world: EdgeWorld) -> None:
        listener = Listener(world)
        listener.join()
        await asyncio.sleep(DETACH_AFTER_S * 2)
        assert world.hub.idle() == []
        listener.leave()
        await asyncio.sleep(DETACH_AFTER_S - 1)
        assert world.hub.idle() == []
        await asyncio.sleep(2)
        assert world.hub.idle() == [world.room]
        world.hub.forget(world.room)
        assert KEY not in world.hub.rooms
        world.room = world.hub.open(KEY, Profiles().of("live:r"))

    play(scene)


def test_forgetting_a_room_ends_the_filling_of_its_hole() -> None:
    async def scene(world: EdgeWorld) -> None:
        world.entry()
        world.give(world.batch([world.entry()]))
        hole = world.room.hole
        assert hole is not None and hole.task is not None
        world.hub.forget(world.room)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert hole.task.cancelled()
        world.room.hole = None

    play(scene)


def test_at_the_cap_of_the_process_rings_give_memory_back() -> None:
    async def main() -> None:
        world = EdgeWorld(LoopClock(), rings_bytes_max=60_000)
        world.start()
        Listener(world).join()
        for _ in range(20):
            await world.publish(*(world.entry(data=b'"' + b"x" * 1_000 + b'"') for _ in range(20)))
            await world.settle()
        assert world.room.known_log.bytes <= 60_000
        world.check_ledger()
        await world.close()

    run(main())


def test_rings_of_silent_rooms_are_emptied_with_time() -> None:
    async def scene(world: EdgeWorld) -> None:
        Listener(world).join()
        await world.publish(*(world.entry() for _ in range(20)))
        await world.settle()
        await asyncio.sleep(61)
        world.hub.age()
        assert world.room.known_log.entries == 0
        assert world.room.counted_bytes == 0

    play(scene)


def test_a_new_slot_begins_new_stays() -> None:
    async def scene(world: EdgeWorld) -> None:
        listener = Listener(world)
        listener.join()
        await world.publish(world.entry())
        await world.settle()
        before = world.room.instance
        world.hub.restart_instances()
        assert world.room.instance > before
        assert not world.room.attached
        assert world.room.ledger.offered == (0, 0, 0, 0)

    play(scene)


def test_what_was_sent_to_a_stay_and_came_is_told_from_what_the_history_gave() -> None:
    async def scene(world: EdgeWorld) -> None:
        Listener(world).join()
        await world.publish(world.entry(), world.entry(Kind.EPHEMERAL, priority=3))
        await world.settle()
        assert world.room.taken == (0, 0, 1, 1)
        world.hub.restart_instances()
        assert world.room.taken == (0, 0, 0, 0)
        await world.remember([world.entry(), world.entry()])  # sent to nobody: there was no route
        world.attach()
        await world.settle()
        assert world.room.known_log.head == world.head
        assert world.room.taken == (0, 0, 0, 0)
        await world.publish(world.entry())
        assert world.room.taken == (0, 0, 1, 0)
        world.attach()  # the answer to an Announce goes on with the same stay
        assert world.room.taken == (0, 0, 1, 0)

    play(scene)


def test_a_hole_whose_filling_fails_in_an_unforeseen_way_does_not_stop_the_room_for_ever() -> None:
    async def scene(world: EdgeWorld) -> None:
        listener = Listener(world)
        listener.join()

        async def broken(*args: Any, **kwargs: Any) -> HistoryPage:
            raise RuntimeError("no such thing")

        world.store.history.read = broken  # type: ignore[method-assign]
        world.entry()
        world.give(world.batch([world.entry()]))
        await world.settle()
        assert listener.ended is RESYNC
        other = Listener(world)
        other.join()
        world.give(world.batch([world.entry()]))
        await world.settle()
        assert other.offsets == [13]

    play(scene)


def test_a_room_batch_that_fails_costs_no_other_room_of_the_chunk_anything() -> None:
    async def scene(world: EdgeWorld) -> None:
        def on_work(room: Room) -> None:
            if room.key == KEY:
                raise RuntimeError("no such thing")
            world.sweeper.room_has_work(room)

        hub = Hub(
            history=world.history,
            clock=world.clock,
            partitions=64,
            on_work=on_work,
            on_behind=world.sweeper.is_behind,
            on_stray=world.strays.append,
        )
        rooms = [hub.open(key, Profiles().of("live:r")) for key in (KEY, "dev/live:other")]
        listener = Listener(world)
        world.room = rooms[0]
        for room in rooms:
            hub.begin(room, Position(EPOCH, 10, 10, 10, 0))
        listener.join()
        entry = world.entry()
        hub.apply(Chunk(0, [RoomBatch(room.key, 0, PARTITION, 1, EPOCH, entry.prev, 1, [entry]) for room in rooms]))
        assert rooms[1].known_log.head == entry.offset
        assert listener.ended is RESYNC

    play(scene)


def test_a_room_that_is_given_up_while_it_waits_for_a_sweep_is_counted_once() -> None:
    async def scene(world: EdgeWorld) -> None:
        listener = Listener(world)
        listener.join()
        world.give(world.batch([world.entry()]))
        listener.leave()
        world.hub.forget(world.room)
        await world.settle()
        assert world.hub.unswept == 0
        world.room = world.hub.open(KEY, Profiles().of("live:r"))

    play(scene)
