"""The history's twin and Redis give the same answers to any sequence of commands."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fanout.adapters import open_store
from fanout.ports import History, HistoryBatch, HistoryEntry, KeyedId
from tests.support.batches import RECENT, RELIABLE, entry
from tests.support.clocks import SteppedClock

BASE_MS = 1_800_000_000_000
STEP_MS = 7
KEYS = st.sampled_from(["dev/group:a", "dev/live:b"])
EPOCHS = st.sampled_from(["e1", "e1", "e2"])
OFFSETS = st.integers(1, 60)
TTLS_MS = st.sampled_from([0, 10 * STEP_MS, 50 * STEP_MS, 600_000])


def at_ms(offset: int) -> int:
    """Record times rise with the offsets of a partition; some records share one."""
    return BASE_MS + offset // 2 * STEP_MS


@st.composite
def entries(draw: st.DrawFn) -> list[HistoryEntry]:
    """Return entries of one batch: rising offsets, mostly an unbroken chain."""
    made = []
    last = draw(st.integers(0, 20))
    for offset in sorted(draw(st.sets(OFFSETS, max_size=6))):
        kind = draw(st.sampled_from([RELIABLE, RELIABLE, RECENT]))
        prev = min(last, offset - 1) if draw(st.integers(0, 4)) else draw(st.integers(0, offset - 1))
        made.append(entry(offset, prev, kind=kind, at_ms=at_ms(offset), size=draw(st.integers(0, 40))))
        last = offset if kind == RELIABLE else last
    return made


@st.composite
def batches(draw: st.DrawFn) -> HistoryBatch:
    """Return a batch as an owner, a zombie or a replay may store it."""
    work = draw(entries())
    newest = max((one.offset for one in work), default=draw(OFFSETS))
    reliable = max((one.offset for one in work if one.kind == RELIABLE), default=draw(st.integers(0, newest)))
    return HistoryBatch(
        key=draw(KEYS),
        epoch=draw(EPOCHS),
        owner=draw(st.integers(1, 3)),
        head=newest,
        last=reliable,
        n=draw(st.integers(0, 100)),
        applied=draw(st.integers(newest, newest + 5)),
        state=draw(st.binary(max_size=8)),
        entries=work,
        now_ms=at_ms(newest),
        reliable_max=draw(st.integers(0, 8)),
        reliable_ttl_ms=draw(TTLS_MS),
        recent_max=draw(st.integers(0, 4)),
        recent_ttl_ms=draw(TTLS_MS),
        keyed=[KeyedId((1 << 61) + id, newest, at_ms(newest)) for id in draw(st.sets(st.integers(0, 9), max_size=3))],
    )


Command = tuple[str, Any]
COMMANDS: st.SearchStrategy[list[Command]] = st.lists(
    st.one_of(
        st.tuples(st.just("store"), st.lists(batches(), min_size=1, max_size=3)),
        st.tuples(st.just("advance"), st.integers(0, 30 * STEP_MS)),
        st.tuples(
            st.just("read"),
            st.tuples(KEYS, EPOCHS, st.integers(0, 65), st.integers(0, 8), st.integers(1, 200), st.booleans()),
        ),
    ),
    min_size=1,
    max_size=20,
)


async def answer(history: History, command: Command) -> object:
    """Carry a command out; return what a caller can see."""
    name, what = command
    if name == "store":
        return [type(result) for result in await history.store(what)]
    if name == "read":
        key, epoch, after, limit, bytes_max, reverse = what
        page = await history.read(key, epoch, after=after, limit=limit, bytes_max=bytes_max, reverse=reverse)
        return page.meta, list(page.entries), page.truncated
    return None


async def everything(history: History) -> object:
    """Return all that can be seen of all rooms."""
    rooms = list(itertools.product(["dev/group:a", "dev/live:b"], ["e1", "e2"]))
    pages = [await history.read(*room, after=0, limit=100, bytes_max=1 << 20) for room in rooms]
    return list(await history.load(rooms)), [(page.meta, list(page.entries)) for page in pages]


@pytest.mark.real
def test_twin_and_redis_give_the_same_answers(redis_url: str) -> None:
    with asyncio.Runner() as runner:

        async def compare(commands: list[Command]) -> None:
            clock, prefix = SteppedClock(BASE_MS), uuid.uuid4().hex
            twin, real = [await open_store(url, prefix=prefix, clock=clock) for url in ("memory", redis_url)]
            try:
                for command in commands:
                    if command[0] == "advance":
                        clock.advance(command[1])
                    assert await answer(twin.history, command) == await answer(real.history, command), command
                assert await everything(twin.history) == await everything(real.history)
            finally:
                await real.backend.close()

        @settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(COMMANDS)
        def play(commands: list[Command]) -> None:
            runner.run(compare(commands))

        play()
