"""Replays are read once for all who missed the same, and are never kept for long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from fanout.core.messages import Kind
from fanout.gateway.replay import REPLAYS_MAX, Replay, Replays
from tests.support.edge import EdgeWorld, Listener
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


def test_those_who_missed_the_same_share_one_replay_until_something_new_comes() -> None:
    async def scene(world: EdgeWorld) -> None:
        await world.publish(*(world.entry() for _ in range(5)))
        first, second, other = [await Listener(world).resume(offset) for offset in (11, 11, 12)]
        assert first and second and other
        assert first.replay is second.replay
        assert [one.offset for one in other.entries] == [13, 14, 15]
        await world.publish(world.entry())
        later = await Listener(world).resume(11)
        assert later and [one.offset for one in later.entries] == [12, 13, 14, 15, 16]

    play(scene)


def test_a_wire_format_that_cannot_show_an_entry_has_a_replay_of_its_own() -> None:
    async def scene(world: EdgeWorld) -> None:
        await world.publish(world.entry(data=b"\xff\x00"), world.entry(Kind.RECENT, data=b"not\njson"), world.entry())
        json, protobuf = [await Listener(world, wire).resume(10) for wire in (0, 1)]
        assert json and protobuf
        assert json.replay is not protobuf.replay

    play(scene)


def test_publications_of_a_replay_are_made_once() -> None:
    async def scene(world: EdgeWorld) -> None:
        replay = Replay([world.entry(), world.entry()])
        made = replay.publications(id_tag=True)
        assert [one.offset for one in made] == [11, 12]
        assert replay.publications(id_tag=True) is made

    play(scene)


def test_replays_are_few_and_can_be_forgotten() -> None:
    replays = Replays()
    keys = [("dev/live:r", "e1", 1, 1, offset, 0) for offset in range(REPLAYS_MAX + 5)]
    for key in keys:
        replays.keep(key, Replay(()))
    assert len(replays) == REPLAYS_MAX
    assert replays.get(keys[0]) is None
    assert replays.get(keys[-1]) is not None
    replays.forget()
    assert len(replays) == 0


def test_ten_thousand_equal_resumes_read_the_ring_a_few_times() -> None:
    async def scene(world: EdgeWorld) -> None:
        await world.publish(*(world.entry() for _ in range(50)))
        world.state.available = False  # the store is not asked at all
        resumed = await asyncio.gather(*(Listener(world).resume(20) for _ in range(2_000)))
        assert len({id(one.replay) for one in resumed if one is not None}) == 1

    play(scene)
