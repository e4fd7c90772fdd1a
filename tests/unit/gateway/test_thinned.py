"""How much was thinned, as the hub remembers it: across holes, repeats and other epochs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from fanout.core.messages import Kind
from fanout.core.records import Entry, RoomBatch
from fanout.core.thinned_marks import Thinned
from tests.support.edge import EdgeWorld, Listener
from tests.support.virtual_time import LoopClock, run


def play(scene: Callable[[EdgeWorld], Awaitable[None]]) -> None:
    async def main() -> None:
        world = EdgeWorld(LoopClock())
        world.start()
        Listener(world).join()
        await scene(world)
        await world.settle()
        await world.close()

    run(main())


def saying(world: EdgeWorld, low: int, *entries: Entry) -> RoomBatch:
    """Return a batch that ends a turn: so many LOW were thinned up to its last entry."""
    return msgspec.structs.replace(world.batch(entries), thinned=[entries[-1].offset, 0, 0, 0, low])


def told(world: EdgeWorld, after: int, upto: int) -> Thinned | None:
    return world.room.thinned.between(after, upto)


def test_marks_come_with_batches_and_batches_without_one_say_nothing() -> None:
    async def scene(world: EdgeWorld) -> None:
        world.give(world.batch([world.entry()]))
        assert told(world, 0, 100) is None
        world.give(saying(world, 3, world.entry()), saying(world, 7, world.entry()))
        assert told(world, 12, 13) == Thinned(12, 13, (0, 0, 0, 4))

    play(scene)


def test_a_repeated_batch_and_an_older_owners_word_change_nothing() -> None:
    async def scene(world: EdgeWorld) -> None:
        batches = saying(world, 3, world.entry()), saying(world, 7, world.entry())
        world.give(*batches)
        before = told(world, 0, 100)
        world.give(*batches)
        assert told(world, 0, 100) == before

    play(scene)


def test_a_batch_that_waits_for_a_hole_brings_its_mark_when_it_is_taken() -> None:
    async def scene(world: EdgeWorld) -> None:
        world.give(saying(world, 1, world.entry()))
        lost = world.entry()
        await world.remember([lost])
        world.give(saying(world, 5, world.entry()))
        assert told(world, 11, 13) == Thinned(11, 11, (0, 0, 0, 0)), "it waits"
        await world.settle()
        assert told(world, 11, 13) == Thinned(11, 13, (0, 0, 0, 4))

    play(scene)


def test_a_hole_inside_of_a_batch_does_not_lose_its_mark() -> None:
    async def scene(world: EdgeWorld) -> None:
        world.give(saying(world, 1, world.entry()))
        first, lost, third = world.entry(), world.entry(), world.entry(Kind.RECENT)
        await world.remember([first, lost])
        world.give(saying(world, 5, first, third))
        await world.settle()
        assert told(world, 11, 14) == Thinned(11, 14, (0, 0, 0, 4))

    play(scene)


def test_another_epoch_has_counts_of_its_own() -> None:
    async def scene(world: EdgeWorld) -> None:
        world.give(saying(world, 9, world.entry()))
        world.epoch, world.last = "e2", 11
        world.give(saying(world, 2, world.entry()))
        assert told(world, 0, 100) == Thinned(12, 12, (0, 0, 0, 0))

    play(scene)


def test_a_mark_of_another_shape_is_left_alone() -> None:
    async def scene(world: EdgeWorld) -> None:
        world.give(msgspec.structs.replace(world.batch([world.entry()]), thinned=[11, 0]))
        assert told(world, 0, 100) is None
        newer = msgspec.structs.replace(world.batch([world.entry()]), thinned=[12, 0, 0, 0, 0, 99])
        world.give(newer)
        assert told(world, 0, 100) == Thinned(12, 12, (0, 0, 0, 0))

    play(scene)
