"""What a gateway does when its memory runs short, step by step and back (FAULTS 32)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from fanout.core.errors import SLOW, Problem
from fanout.core.messages import Kind
from fanout.gateway.admission import Admission, ConnectRate
from fanout.gateway.memory_guard import MemoryGuard, MemoryStep, step_of
from tests.support.edge import EdgeWorld, Listener
from tests.support.virtual_time import LoopClock, run

ROOMY, FULL, TIGHT, SHORT = MemoryStep


class Memory:
    """As full as the test says."""

    def __init__(self) -> None:
        self.taken = 0.0
        self.given_back = 0

    def share(self) -> float:
        return self.taken

    def give_back(self) -> None:
        self.given_back += 1


class Caller:
    """A connection that wants to come in."""

    def __init__(self) -> None:
        self.retry_after_s = 0.0

    def admitted(self) -> None:
        raise AssertionError("there is no memory for it")

    def refused(self, problem: Problem, retry_after_s: float) -> None:
        assert problem.reason == "overloaded"
        self.retry_after_s = retry_after_s


class Scene:
    """A gateway's inside, its line and its memory."""

    def __init__(self, world: EdgeWorld) -> None:
        self.world = world
        self.memory = Memory()
        self.admission = Admission(ConnectRate(), world.clock)
        self.sessions = 1_000
        self.guard = MemoryGuard(self.memory, world.hub, self.admission, lambda: self.sessions)

    def take(self, share: float) -> None:
        self.memory.taken = share
        self.guard.look()


def play(scene: Callable[[Scene], Awaitable[None]]) -> None:
    async def main() -> None:
        world = EdgeWorld(LoopClock())
        world.start()
        await scene(Scene(world))
        await world.settle()
        world.check_ledger()
        await world.close()

    run(main())


@pytest.mark.parametrize(
    ("share", "before", "after"),
    [
        (0.0, ROOMY, ROOMY),
        (0.79, ROOMY, ROOMY),
        (0.80, ROOMY, FULL),
        (0.95, ROOMY, TIGHT),
        (1.2, ROOMY, SHORT),
        (0.78, FULL, FULL),
        (0.76, FULL, ROOMY),
        (0.88, TIGHT, TIGHT),
        (0.86, TIGHT, FULL),
        (0.95, SHORT, SHORT),
        (0.93, SHORT, TIGHT),
        (0.10, SHORT, ROOMY),
        (0.88, FULL, FULL),
    ],
)
def test_a_step_is_taken_at_its_share_and_taken_back_a_little_below(
    share: float, before: MemoryStep, after: MemoryStep
) -> None:
    assert step_of(share, before) is after


def test_a_full_process_takes_no_more_connections_and_says_when_to_return() -> None:
    async def scene(scene: Scene) -> None:
        assert scene.admission.take()
        scene.take(0.85)
        assert not scene.admission.take()
        caller = Caller()
        scene.admission.wait(caller)
        assert caller.retry_after_s > 0
        scene.take(0.5)
        assert scene.admission.take()

    play(scene)


def test_those_who_come_take_the_memory_of_those_who_left() -> None:
    """The C library and Python keep what was freed: resident memory alone would keep the door shut for ever."""

    async def scene(scene: Scene) -> None:
        scene.take(0.85)
        scene.sessions = 951
        scene.guard.look()
        assert not scene.admission.take()
        scene.sessions = 949
        scene.guard.look()
        assert scene.admission.take()
        scene.sessions = 960
        scene.guard.look()
        assert not scene.admission.take()
        scene.sessions = 10
        scene.take(0.92)
        assert not scene.admission.take(), "it is not the sessions that take it"

    play(scene)


def test_where_memory_is_tight_only_reliable_publications_are_shown_and_the_others_are_counted() -> None:
    async def scene(scene: Scene) -> None:
        world = scene.world
        listeners = [Listener(world, wire=wire) for wire in range(4)]
        for listener in listeners:
            listener.join()
        slow = Listener(world)
        slow.join()
        slow.stall()
        scene.take(0.92)
        kinds = [Kind.RELIABLE, Kind.RECENT, Kind.EPHEMERAL, Kind.EPHEMERAL, Kind.RELIABLE]
        entries = [world.entry(kind) for kind in kinds]
        await world.publish(*entries)
        await world.settle()
        slow.flow()
        await world.settle()
        reliable = [entries[0].offset, entries[-1].offset]
        assert [listener.offsets for listener in [*listeners, slow]] == [reliable] * 5
        dropped = world.room.ledger.dropped
        assert (sum(dropped["memory"]), sum(dropped["skipped"])) == (12, 3)
        await world.publish(world.entry(Kind.EPHEMERAL))
        await world.settle()
        scene.take(0.5)
        await world.publish(world.entry(Kind.RECENT))
        await world.settle()
        assert [len(listener.received) for listener in listeners] == [3] * 4

    play(scene)


def test_where_memory_is_tight_rings_are_small() -> None:
    async def scene(scene: Scene) -> None:
        world = scene.world
        Listener(world).join()
        large = b'"' + b"x" * 10_000 + b'"'
        await world.publish(*(world.entry(data=large) for _ in range(60)))
        await world.settle()
        assert world.room.known_log.bytes > 1_500_000
        scene.take(0.92)
        for _ in range(31):
            world.hub.age()
        assert 0 < world.room.known_log.bytes <= 512 << 10

    play(scene)


def test_when_memory_runs_out_those_who_lag_longest_are_sent_away_first() -> None:
    async def scene(scene: Scene) -> None:
        world = scene.world
        quick = Listener(world)
        quick.join()
        laggards = [Listener(world) for _ in range(150)]
        for number, laggard in enumerate(laggards):
            laggard.join()
            laggard.stall()
            if number == 99:
                await world.publish(world.entry())
                await world.settle()
        await world.publish(world.entry())
        await world.settle()
        scene.take(0.98)
        assert [laggard.ended for laggard in laggards] == [SLOW] * 100 + [None] * 50
        scene.take(0.98)
        assert all(laggard.ended is SLOW for laggard in laggards)
        assert quick.ended is None

    play(scene)


def test_memory_is_given_back_now_and_then_while_it_is_short() -> None:
    async def scene(scene: Scene) -> None:
        scene.take(0.5)
        assert scene.memory.given_back == 0
        for _ in range(25):
            scene.take(0.85)
        assert scene.memory.given_back == 3

    play(scene)
