"""Sweeps, cursors and the edge ledger against what each session must have seen, through joins, leaves and stalls."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from fanout.core.messages import Kind
from fanout.core.records import Entry
from fanout.gateway.wires import WIRES
from tests.support.edge import EdgeWorld, Listener
from tests.support.virtual_time import LoopClock, run

SESSIONS = 4

who = st.integers(0, SESSIONS - 1)
kinds = st.lists(st.sampled_from(list(Kind)), min_size=1, max_size=40)
publish = st.tuples(st.just("publish"), kinds, st.integers(1, 4_000))
stall = st.tuples(st.just("stall"), who, st.sampled_from([0, 100, 3_000, 20_000]))
flow = st.tuples(st.just("flow"), who)
burst = st.tuples(st.just("burst"), st.integers(300, 1_500))
steps = st.lists(
    st.one_of(
        publish,
        publish,
        stall,
        stall,
        flow,
        burst,
        st.tuples(st.just("publish_unswept"), kinds, st.integers(1, 200)),
        st.tuples(st.just("lose"), kinds),
        st.tuples(st.just("join"), who),
        st.tuples(st.just("come_back"), who),
        st.tuples(st.just("leave"), who),
        st.tuples(st.just("sleep"), st.integers(0, 70)),
    ),
    min_size=6,
    max_size=30,
)


class Scene:
    """A room, four people, and a list of everything that was published."""

    def __init__(self) -> None:
        self.world = EdgeWorld(LoopClock())
        self.people: list[Listener | None] = [None] * SESSIONS
        self.since: list[int] = [0] * SESSIONS  # position of each when it joined
        self.gone: list[Listener] = []
        self.all: list[Entry] = []

    def entries(self, kinds: list[Kind], bytes_: int) -> list[Entry]:
        made = [self.world.entry(kind, b'"' + b"x" * bytes_ + b'"') for kind in kinds]
        self.all += made
        return made

    async def publish(self, kinds: list[Kind], bytes_: int) -> None:
        await self.world.publish(*self.entries(kinds, bytes_))
        await self.world.settle()

    async def publish_unswept(self, kinds: list[Kind], bytes_: int) -> None:
        await self.world.publish(*self.entries(kinds, bytes_))

    async def burst(self, count: int) -> None:
        await self.publish([Kind.RELIABLE] * count, 10)

    async def lose(self, kinds: list[Kind]) -> None:
        """A chunk never arrives; the next one tells."""
        await self.world.remember(self.entries(kinds, 10))

    async def join(self, index: int) -> None:
        if self.people[index] is None:
            listener = self.people[index] = Listener(self.world, wire=index % len(WIRES))
            self.since[index] = listener.join().offset

    async def come_back(self, index: int) -> None:
        """Leave, and return as an SDK does: with the newest offset seen."""
        listener = self.people[index]
        if listener is None:
            return
        position = max([self.since[index], *listener.offsets])
        await self.leave(index)
        successor = Listener(self.world, wire=index % len(WIRES))
        resumed = await successor.resume(position)
        assert resumed is not None and resumed.recovered, "the history reaches back to everybody here"
        self.people[index] = successor
        self.since[index] = position

    async def leave(self, index: int) -> None:
        listener = self.people[index]
        if listener is not None:
            listener.leave()
            self.gone.append(listener)
            self.people[index] = None

    async def stall(self, index: int, budget: int) -> None:
        listener = self.people[index]
        if listener is not None:
            listener.stall(budget)

    async def flow(self, index: int) -> None:
        listener = self.people[index]
        if listener is not None:
            listener.flow()
            await self.world.settle()

    async def sleep(self, seconds: int) -> None:
        await asyncio.sleep(seconds)
        self.world.hub.age()

    def check(self) -> None:
        self.world.check_ledger()
        written = sum(self.world.room.ledger.written)
        seen = [*self.gone, *(one for one in self.people if one is not None)]
        assert written == sum(len(one.received) + len(one.replayed) for one in seen)
        for listener in seen:
            offsets = listener.offsets
            assert offsets == sorted(set(offsets)), "positions rise, nothing twice"

    async def finish(self) -> None:
        """Let everything flow; then everybody has everything reliable since they came."""
        await self.publish([Kind.RELIABLE], 5)
        for index in range(SESSIONS):
            await self.flow(index)
        await self.world.settle()
        self.check()
        assert self.world.room.ledger.pending == (0, 0, 0, 0)
        for listener, since in zip(self.people, self.since, strict=True):
            if listener is not None:
                due = [one.offset for one in self.all if one.kind == Kind.RELIABLE.value and one.offset > since]
                got = set(listener.offsets)
                assert [offset for offset in due if offset not in got] == []
        assert self.world.hub.unswept == 0


async def play(steps: list[tuple[str, ...]]) -> None:
    scene = Scene()
    scene.world.start()
    for index in range(SESSIONS):
        await scene.join(index)
    for name, *arguments in steps:
        await getattr(scene, name)(*arguments)
        scene.check()
    await scene.finish()
    await scene.world.close()


@settings(deadline=None, max_examples=30)
@given(steps)
def test_every_session_sees_everything_reliable_once_and_in_order(steps: list[tuple[str, ...]]) -> None:
    run(play(steps))
