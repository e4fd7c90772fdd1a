"""Sweeps: shared frames, sessions left behind and brought up again, turns for everybody else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from fanout.core.errors import RESYNC
from fanout.core.limits import FRAME_BYTES_MAX, FRAME_MESSAGES_MAX, RING_ENTRIES_MAX, SWEEP_WRITES_MAX, UNSWEPT_MAX
from fanout.core.messages import Kind
from fanout.core.records import BINARY
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


def test_the_same_bytes_are_written_to_everybody_in_step() -> None:
    async def scene(world: EdgeWorld) -> None:
        listeners = [Listener(world) for _ in range(50)]
        for listener in listeners:
            listener.join()
        await world.publish(*(world.entry() for _ in range(5)))
        await world.settle()
        assert len({id(listener.frames[0]) for listener in listeners}) == 1
        assert [len(listener.frames) for listener in listeners] == [1] * 50
        assert world.sweeper.written.deliveries == 250

    play(scene)


def test_publications_of_a_burst_are_joined_up_to_256() -> None:
    async def scene(world: EdgeWorld) -> None:
        listener = Listener(world)
        listener.join()
        world.give(world.batch([world.entry() for _ in range(FRAME_MESSAGES_MAX + 10)]))
        await world.settle()
        assert len(listener.frames) == 2
        assert len(listener.received) == FRAME_MESSAGES_MAX + 10

    play(scene)


def test_a_frame_is_at_most_64_kb_unless_one_publication_is_larger() -> None:
    async def scene(world: EdgeWorld) -> None:
        listener = Listener(world)
        listener.join()
        big = b'"' + b"x" * 30_000 + b'"'
        world.give(world.batch([world.entry(data=big) for _ in range(6)]))
        await world.settle()
        assert len(listener.received) == 6
        assert max(map(len, listener.frames)) <= FRAME_BYTES_MAX

    play(scene)


def test_json_and_protobuf_stay_at_one_step_although_their_sizes_differ() -> None:
    async def scene(world: EdgeWorld) -> None:
        json, protobuf = Listener(world), Listener(world, wire=1)
        json.join()
        protobuf.join()
        world.give(world.batch([world.entry(data=b'"' + b"x" * 20 + b'"') for _ in range(2_000)]))
        await world.settle()
        assert json.offsets == protobuf.offsets
        assert len(json.offsets) == 2_000

    play(scene)


def test_who_joins_during_a_burst_gets_only_what_is_later() -> None:
    async def scene(world: EdgeWorld) -> None:
        early = Listener(world)
        early.join()
        world.give(world.batch([world.entry()]))
        late = Listener(world)
        assert late.join().offset == 11
        world.give(world.batch([world.entry()]))
        await world.settle()
        assert early.offsets == [11, 12]
        assert late.offsets == [12]

    play(scene)


def test_a_session_that_cannot_take_more_costs_the_others_nothing() -> None:
    async def scene(world: EdgeWorld) -> None:
        slow, fast = Listener(world), Listener(world)
        slow.join()
        fast.join()
        slow.stall()
        for _ in range(20):
            await world.publish(world.entry(), world.entry(Kind.EPHEMERAL))
            await world.settle()
        assert len(fast.offsets) == 20
        assert slow.frames == []
        assert world.room.behind == {slow.subscription}
        slow.flow()
        await world.settle()
        assert slow.offsets == fast.offsets
        assert world.room.behind == set()

    play(scene)


def test_old_droppable_publications_are_skipped_and_counted_for_who_was_behind() -> None:
    async def scene(world: EdgeWorld) -> None:
        slow = Listener(world)
        slow.join()
        slow.stall()
        await world.publish(world.entry(), world.entry(Kind.EPHEMERAL, priority=3), world.entry(Kind.RECENT))
        await world.settle()
        await asyncio.sleep(3)
        await world.publish(world.entry(Kind.RECENT))
        slow.flow()
        await world.settle()
        assert slow.offsets == [11, 14]
        assert world.room.ledger.dropped == {"skipped": (0, 0, 1, 1)}

    play(scene)


def test_behind_the_ring_the_history_goes_on_and_then_the_ring() -> None:
    async def scene(world: EdgeWorld) -> None:
        slow, fast = Listener(world), Listener(world)
        slow.join()
        fast.join()
        slow.stall()
        for _ in range(30):
            await world.publish(*(world.entry() for _ in range(100)))
            await world.settle()
        assert world.room.known_log.entries == RING_ENTRIES_MAX
        slow.flow()
        await world.settle()
        assert slow.offsets == fast.offsets
        assert len(slow.offsets) == 3_000
        assert world.room.behind == set()
        ledger = world.room.ledger
        assert (
            3_000 - RING_ENTRIES_MAX <= ledger.dropped["behind_ring"][2] < 3_000 - RING_ENTRIES_MAX + FRAME_MESSAGES_MAX
        )
        assert sum(ledger.written) == 6_000

    play(scene)


def test_publications_go_on_while_the_history_is_asked() -> None:
    async def scene(world: EdgeWorld) -> None:
        slow = Listener(world)
        slow.join()
        slow.stall()
        for _ in range(30):
            await world.publish(*(world.entry() for _ in range(100)))
        await world.settle()
        slow.flow()
        for _ in range(50):
            await asyncio.sleep(0)
            await world.publish(world.entry())
        await world.settle()
        assert slow.offsets == list(range(11, 11 + 3_050))

    play(scene)


def test_beyond_history_the_client_is_told_to_come_back() -> None:
    async def scene(world: EdgeWorld) -> None:
        slow = Listener(world)
        slow.join()
        slow.stall()
        for _ in range(30):
            entries = [world.entry() for _ in range(100)]
            world.give(world.batch(entries))
            await world.remember(entries, reliable_max=500)
            await world.settle()
        slow.flow()
        await world.settle()
        assert slow.ended is RESYNC
        assert await Listener(world).resume(11) is None

    play(scene)


async def _fall_behind_the_ring(world: EdgeWorld, listener: Listener, *, remembered: int) -> None:
    """Stall a listener through 3,000 publications, the first ``remembered`` of which are in the history."""
    listener.join()
    listener.stall()
    for start in range(0, 3_000, 100):
        entries = [world.entry() for _ in range(100)]
        world.give(world.batch(entries))
        if start < remembered:
            await world.remember(entries)
        await world.settle()


def test_a_history_that_lags_behind_the_chunks_is_asked_again() -> None:
    async def scene(world: EdgeWorld) -> None:
        slow = Listener(world)
        slow.join()
        slow.stall()
        unstored = []
        for start in range(0, 3_000, 100):
            entries = [world.entry() for _ in range(100)]
            world.give(world.batch(entries))
            if start < 1_000:
                await world.remember(entries)
            else:
                unstored += entries
            await world.settle()
        slow.flow()
        await asyncio.sleep(0.5)
        assert slow.offsets == list(range(11, 1_011))
        await world.remember(unstored)
        await asyncio.sleep(0.5)
        await world.settle()
        assert slow.offsets == list(range(11, 3_011))

    play(scene)


def test_a_history_that_never_comes_makes_the_client_come_back() -> None:
    async def scene(world: EdgeWorld) -> None:
        slow = Listener(world)
        await _fall_behind_the_ring(world, slow, remembered=1_000)
        slow.flow()
        await asyncio.sleep(10)
        assert slow.offsets == list(range(11, 1_011))
        assert slow.ended is RESYNC

    play(scene)


def test_behind_the_ring_without_a_store_the_client_is_told_to_come_back() -> None:
    async def scene(world: EdgeWorld) -> None:
        slow = Listener(world)
        await _fall_behind_the_ring(world, slow, remembered=3_000)
        world.state.available = False
        slow.flow()
        await world.settle()
        assert slow.ended is RESYNC
        assert slow.offsets == []

    play(scene)


def test_a_history_that_is_ahead_of_the_gateway_gives_nothing_twice() -> None:
    async def scene(world: EdgeWorld) -> None:
        slow = Listener(world)
        slow.join()
        slow.stall()
        await world.publish(*(world.entry() for _ in range(300)))
        await world.settle()
        await asyncio.sleep(61)
        world.hub.age()
        await world.remember([world.entry()])
        slow.flow()
        await world.settle()
        await world.publish(world.entry())
        await world.settle()
        assert slow.offsets == list(range(11, 313))

    play(scene)


def test_who_leaves_while_the_history_is_asked_is_given_nothing() -> None:
    async def scene(world: EdgeWorld) -> None:
        slow = Listener(world)
        await _fall_behind_the_ring(world, slow, remembered=3_000)
        slow.flow()
        await asyncio.sleep(0)
        slow.leave()
        await world.settle()
        assert slow.frames == []

    play(scene)


def test_a_session_that_fills_up_again_while_the_history_is_asked_keeps_its_place() -> None:
    async def scene(world: EdgeWorld) -> None:
        slow = Listener(world)
        await _fall_behind_the_ring(world, slow, remembered=3_000)
        for _ in range(200):
            slow.flow(1_000)
            await world.settle()
            world.check_ledger()
        slow.flow()
        await world.settle()
        assert slow.offsets == list(range(11, 3_011))

    play(scene)


def test_droppable_publications_alone_never_need_the_history() -> None:
    async def scene(world: EdgeWorld) -> None:
        slow = Listener(world)
        slow.join()
        slow.stall()
        for _ in range(20):
            world.give(world.batch([world.entry(Kind.EPHEMERAL, priority=3) for _ in range(100)]))
            await world.settle()
        world.state.available = False
        slow.flow()
        await world.settle()
        assert slow.ended is None
        assert sum(world.room.ledger.written) == RING_ENTRIES_MAX
        assert world.room.ledger.dropped["behind_ring"][3] == 2_000 - RING_ENTRIES_MAX

    play(scene)


def test_a_client_that_is_ahead_gets_nothing_twice() -> None:
    async def scene(world: EdgeWorld) -> None:
        ahead = Listener(world)
        resumed = await ahead.resume(13)
        assert resumed is not None and resumed.recovered and resumed.offset == 13
        assert world.room.subscriptions == 1 and world.room.listeners == 0
        await world.publish(world.entry(), world.entry(Kind.EPHEMERAL), world.entry())
        await world.settle()
        assert ahead.received == []
        assert world.room.ledger.offered == (0, 0, 0, 0)
        await world.publish(world.entry(), world.entry(Kind.EPHEMERAL))
        await world.settle()
        assert [one.offset for one in ahead.received] == [14, 0]
        assert world.room.ahead == {}

    play(scene)


def test_a_client_ahead_that_stalls_is_not_given_what_it_has_seen() -> None:
    async def scene(world: EdgeWorld) -> None:
        ahead, other = Listener(world), Listener(world)
        other.join()
        await ahead.resume(500)
        ahead.stall()
        for _ in range(40):
            await world.publish(*(world.entry() for _ in range(100)))
            await world.settle()
        ahead.flow()
        await world.settle()
        assert ahead.offsets == list(range(501, 4_011))

    play(scene)


def test_a_payload_that_is_no_json_reaches_protobuf_only_and_is_counted() -> None:
    async def scene(world: EdgeWorld) -> None:
        json, protobuf = Listener(world), Listener(world, wire=1)
        json.join()
        protobuf.join()
        binary = world.entry(data=b"\x00\xff")
        binary.flags = BINARY
        await world.publish(binary, world.entry())
        await world.settle()
        assert json.offsets == [12]
        assert protobuf.offsets == [11, 12]
        assert world.room.ledger.dropped == {"binary": (0, 0, 1, 0)}

    play(scene)


def test_everybody_else_gets_a_turn_after_two_thousand_writes() -> None:
    async def scene(world: EdgeWorld) -> None:
        listeners = [Listener(world) for _ in range(SWEEP_WRITES_MAX * 2 + 100)]
        for listener in listeners:
            listener.join()
        world.give(world.batch([world.entry()]))
        turns = 0
        while any(not listener.frames for listener in listeners):
            await asyncio.sleep(0)
            world.check_ledger()
            turns += 1
        assert turns >= 3

    play(scene)


def test_who_leaves_in_the_middle_of_a_sweep_is_counted_exactly() -> None:
    async def scene(world: EdgeWorld) -> None:
        listeners = [Listener(world) for _ in range(SWEEP_WRITES_MAX + 500)]
        for listener in listeners:
            listener.join()
        world.give(world.batch([world.entry()]))
        for _ in range(10):
            await asyncio.sleep(0)
            if listeners[0].frames:
                break
        assert listeners[0].frames and not listeners[-1].frames
        listeners[0].leave()
        listeners[-1].leave()
        Listener(world).join()
        world.check_ledger()
        await world.settle()
        assert world.room.ledger.written == (0, 0, len(listeners) - 1, 0)
        assert world.room.ledger.dropped == {"closed": (0, 0, 1, 0)}

    play(scene)


def test_a_room_that_fails_does_not_stop_the_others() -> None:
    async def scene(world: EdgeWorld) -> None:
        listener = Listener(world)
        listener.join()
        world.give(world.batch([world.entry()]))

        def broken(frame: bytes) -> None:
            raise RuntimeError("no socket")

        listener.write = broken  # type: ignore[method-assign]
        await world.settle()
        assert listener.ended is RESYNC
        assert world.hub.unswept == 0, "the brake on chunks would never be let go"
        other = Listener(world)
        other.join()
        world.give(world.batch([world.entry()]))
        await world.settle()
        assert other.offsets == [12]

    play(scene)


def test_reading_chunks_waits_until_sessions_have_been_served() -> None:
    async def scene(world: EdgeWorld) -> None:
        Listener(world).join()
        world.give(world.batch([world.entry() for _ in range(UNSWEPT_MAX + 1)]))
        assert world.hub.unswept == UNSWEPT_MAX + 1
        await world.sweeper.below(UNSWEPT_MAX)
        assert world.hub.unswept < UNSWEPT_MAX
        await world.settle()
        assert world.hub.unswept == 0

    play(scene)


def test_a_session_between_two_frames_keeps_its_place() -> None:
    async def scene(world: EdgeWorld) -> None:
        slow = Listener(world)
        slow.join()
        slow.stall(30_000)
        for _ in range(40):
            await world.publish(*(world.entry(data=b'"' + b"y" * 500 + b'"') for _ in range(20)))
            await world.settle()
            world.check_ledger()
        for _ in range(40):
            slow.flow(20_000)
            await world.settle()
            world.check_ledger()
        assert slow.offsets == list(range(11, 811))

    play(scene)


def test_a_session_that_fails_while_history_serves_it_is_told_and_not_forgotten() -> None:
    async def scene(world: EdgeWorld) -> None:
        listener = Listener(world)
        listener.join()
        listener.stall()
        for _ in range(5):
            await world.publish(*(world.entry() for _ in range(300)))
            await world.settle()

        def broken(frame: bytes) -> None:
            raise RuntimeError("no socket")

        listener.write = broken  # type: ignore[method-assign]
        listener.flow()
        await world.settle()
        assert listener.ended is RESYNC

    play(scene)


@pytest.mark.parametrize("is_behind", [False, True])
def test_a_session_that_cannot_even_be_told_does_not_stop_the_sweeps(is_behind: bool) -> None:
    async def scene(world: EdgeWorld) -> None:
        listener, other = Listener(world), Listener(world)
        listener.join()
        other.join()

        def broken(*args: object) -> Any:
            raise RuntimeError("no socket")

        if is_behind:
            listener.stall()
            await world.publish(world.entry())
            await world.settle()
        listener.write = broken  # type: ignore[method-assign,assignment]
        listener.end_subscription = broken  # type: ignore[method-assign,assignment]
        if is_behind:
            listener.flow()
        else:
            await world.publish(world.entry())
        await world.settle()
        listener.leave()
        late = Listener(world)
        late.join()
        await world.publish(world.entry())
        await world.settle()
        assert late.offsets == [world.head]

    play(scene)


def test_a_client_that_claims_a_position_nobody_reaches_keeps_no_other_from_joining() -> None:
    async def scene(world: EdgeWorld) -> None:
        liar, near, far = Listener(world), Listener(world), Listener(world)
        await liar.resume(1 << 60)
        await far.resume(14)
        await near.resume(12)
        for _ in range(6):
            await world.publish(world.entry())
        await world.settle()
        assert near.offsets == [13, 14, 15, 16]
        assert far.offsets == [15, 16]
        assert liar.offsets == []

    play(scene)
