"""What the hub knows of a degraded room: the last word of its owner, in the order of the batches."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from fanout.core.records import Attached, RoomBatch
from tests.support.edge import EdgeWorld, Listener
from tests.support.virtual_time import LoopClock, run


def play(scene: Callable[[EdgeWorld], Awaitable[None]]) -> None:
    async def main() -> None:
        world = EdgeWorld(LoopClock())
        world.start()
        Listener(world).join()
        await scene(world)
        await world.settle()
        world.check_ledger()
        await world.close()

    run(main())


def saying(batch: RoomBatch, degraded: int | None) -> RoomBatch:
    return msgspec.structs.replace(batch, degraded=degraded)


def test_every_batch_says_how_the_room_stands() -> None:
    async def scene(world: EdgeWorld) -> None:
        found = [world.room.degraded]
        attached = Attached(world.room.instance, world.head, world.last, world.floor, world.n)
        for batch, degraded in (
            (world.batch([world.entry()]), 20),
            (world.batch([world.entry()]), 0),
            (world.batch([]), None),
            (world.batch([]), 7),
            (world.batch([], attached=attached), None),
        ):
            world.give(saying(batch, degraded))
            found.append(world.room.degraded)
        assert found == [None, 20, 0, None, 7, None]

    play(scene)


def test_the_word_of_an_older_owner_is_not_heard() -> None:
    async def scene(world: EdgeWorld) -> None:
        world.give(saying(world.batch([world.entry()], owner=2), 20))
        world.give(world.batch([], owner=1))
        assert world.room.degraded == 20

    play(scene)


def test_what_waits_for_a_hole_is_said_in_its_turn() -> None:
    async def scene(world: EdgeWorld) -> None:
        lost = world.entry()
        world.give(saying(world.batch([world.entry()]), 20), saying(world.batch([world.entry()]), None))
        assert world.room.hole is not None
        await world.remember([lost])
        await world.settle()
        assert world.room.degraded is None

    play(scene)


def test_the_rest_of_a_batch_behind_a_hole_says_the_same() -> None:
    async def scene(world: EdgeWorld) -> None:
        first, lost, second = world.entry(), world.entry(), world.entry()
        world.give(saying(world.batch([first, second]), 20))
        await world.remember([lost])
        await world.settle()
        assert world.room.degraded == 20
        assert world.room.known_log.last == second.offset

    play(scene)
