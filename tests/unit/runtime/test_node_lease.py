"""Leases and ids on them: kept alive, given up in time, fenced, and never the same id twice."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import msgspec
import pytest

from fanout.adapters.memory import MemoryState, memory_store
from fanout.core.errors import OutOfIds
from fanout.core.ids import IdGenerator, time_of
from fanout.core.limits import LEASE_RENEW_S, LEASE_TTL_S
from fanout.ports import Store
from fanout.runtime.node_lease import IdNode, LeaseKeeper
from tests.support.virtual_time import LoopClock, run


class World:
    """A store in memory and clocks by virtual time."""

    def __init__(self) -> None:
        self.clock = LoopClock()
        self.state = MemoryState()
        self.store: Store = memory_store(self.clock, self.state)

    def keeper(self, size: int = 4) -> LeaseKeeper:
        return LeaseKeeper(leases=self.store.leases, clock=self.clock, pool="slots", size=size, holder="h", address="a")

    def node(self, *, is_new: bool = False) -> IdNode:
        """Return a holder; ``is_new``: the log has no message yet, so that no earlier holder can be about."""

        async def answer() -> bool:
            return is_new

        return IdNode(leases=self.store.leases, clock=self.clock, holder="h", is_new=answer)


def fresh(keeper: LeaseKeeper) -> bool:
    """Ask anew: a type checker believes that a property stays what it was."""
    return keeper.fresh


def test_a_lease_is_kept_for_as_long_as_the_store_answers() -> None:
    async def play() -> None:
        world = World()
        keeper = world.keeper()
        assert not fresh(keeper)
        assert await keeper.start()
        first = keeper.lease
        await asyncio.sleep(10 * LEASE_TTL_S)
        assert fresh(keeper)
        assert keeper.lease == first
        assert list(await world.store.leases.table("slots")) == [0]
        await keeper.close()
        assert keeper.lease is None
        assert not await world.store.leases.table("slots")

    run(play())


def test_a_lease_is_not_fresh_after_half_its_time_without_an_answer_and_comes_back() -> None:
    async def play() -> None:
        world = World()
        keeper = world.keeper()
        await keeper.start()
        world.state.available = False
        await asyncio.sleep(LEASE_TTL_S / 2)
        assert not fresh(keeper)
        assert keeper.lease is not None
        world.state.available = True
        await asyncio.sleep(LEASE_RENEW_S + 1)
        assert fresh(keeper)
        await keeper.close()

    run(play())


def test_without_a_store_the_keeper_starts_and_goes_on_trying() -> None:
    async def play() -> None:
        world = World()
        world.state.available = False
        keeper = world.keeper()
        assert not await keeper.start(timeout_s=1.0)
        world.state.available = True
        await asyncio.sleep(LEASE_RENEW_S)
        assert fresh(keeper)
        world.state.available = False
        await keeper.close()

    run(play())


def test_a_store_that_answers_nonsense_is_asked_again() -> None:
    async def play() -> None:
        world = World()
        keeper = world.keeper()
        await keeper.start()
        leases, world.state.leases = world.state.leases, cast(Any, None)
        await asyncio.sleep(LEASE_TTL_S)
        assert not fresh(keeper)
        world.state.leases = leases
        await asyncio.sleep(LEASE_RENEW_S + 1)
        assert fresh(keeper)
        await keeper.close()

    run(play())


def test_a_full_pool_is_waited_for() -> None:
    async def play() -> None:
        world = World()
        first, second = world.keeper(size=1), world.keeper(size=1)
        assert await first.start()
        assert not await second.start(timeout_s=1.0)
        await first.close()
        await asyncio.sleep(LEASE_RENEW_S)
        assert fresh(second)
        assert second.lease is not None
        await second.close()

    run(play())


def test_a_keeper_that_is_fenced_by_the_store_gets_a_new_lease() -> None:
    async def play() -> None:
        world = World()
        keeper = world.keeper(size=2)
        await keeper.start()
        old = keeper.lease
        assert old is not None
        world.state.flush()
        taken = await world.store.leases.acquire("slots", 1, "other", "", world.clock.wall_ms() + 60_000, 10_000)
        assert taken is not None
        await asyncio.sleep(LEASE_RENEW_S + 1)
        new = keeper.lease
        assert new is not None
        assert new.number != old.number
        await keeper.close()

    run(play())


def test_a_keeper_that_is_told_of_a_higher_generation_gets_a_new_lease_at_once() -> None:
    async def play() -> None:
        world = World()
        keeper = world.keeper()
        await keeper.start()
        old = keeper.lease
        assert old is not None
        keeper.fence(old.generation)
        kept = keeper.lease
        keeper.fence(old.generation + 1)
        lost = keeper.lease
        assert kept is old
        assert lost is None
        assert not fresh(keeper)
        await asyncio.sleep(0.01)
        assert fresh(keeper)
        assert keeper.lease != old
        await keeper.close()

    run(play())


def test_a_keeper_that_never_started_can_be_closed() -> None:
    async def play() -> None:
        await World().keeper().close()

    run(play())


def test_there_are_no_ids_before_a_lease_nor_without_a_fresh_one() -> None:
    async def play() -> None:
        world = World()
        node = world.node()
        with pytest.raises(OutOfIds, match="no lease"):
            node.next(world.clock.wall_ms())
        assert await node.start()
        assert node.fresh
        assert node.next(world.clock.wall_ms())
        world.state.available = False
        await asyncio.sleep(LEASE_TTL_S / 2)
        with pytest.raises(OutOfIds, match="no lease"):
            node.next(world.clock.wall_ms())
        await node.close()

    run(play())


def is_fresh(node: IdNode) -> bool:
    """Ask anew: a type checker believes that a property stays what it was."""
    return node.fresh


@pytest.mark.parametrize("lead_ms", [0, 50_000])
@pytest.mark.parametrize("alone_s", [0.5, 10, 90])
def test_a_holder_that_does_not_know_it_is_fenced_and_its_successor_give_no_id_twice(
    alone_s: float, lead_ms: int
) -> None:
    """The store loses everything, a second process gets the same number while the first still believes in its own."""

    async def play() -> None:
        world = World()
        first, second = world.node(is_new=True), world.node()
        await first.start()
        await asyncio.sleep(alone_s)
        given: list[int] = []
        if lead_ms:
            parent = IdGenerator(1_000).next(world.clock.wall_ms() + lead_ms)
            with pytest.raises(OutOfIds, match="reserved"):
                first.next(world.clock.wall_ms(), parent)
            await asyncio.sleep(0.1)
            given.append(first.next(world.clock.wall_ms(), parent))
        world.state.flush()
        started = asyncio.create_task(second.start())
        for _ in range(2_000):
            for node in (first, second):
                if node.fresh:
                    given += [node.next(world.clock.wall_ms()) for _ in range(200)]
            await asyncio.sleep(0.01)
        assert len(given) == len(set(given))
        await started
        assert is_fresh(first)
        assert is_fresh(second)
        await first.close()
        await second.close()

    run(play())


def test_a_new_engine_gives_ids_at_once_and_so_does_one_whose_store_has_long_known_its_holders() -> None:
    async def play() -> None:
        world = World()
        first, later = world.node(is_new=True), world.node()
        begun_s = world.clock.monotonic_s()
        assert await first.start()
        first.next(world.clock.wall_ms())
        assert world.clock.monotonic_s() - begun_s < 0.1
        await asyncio.sleep(LEASE_TTL_S)
        begun_s = world.clock.monotonic_s()
        assert await later.start()
        later.next(world.clock.wall_ms())
        assert world.clock.monotonic_s() - begun_s < 0.1
        await first.close()
        await later.close()

    run(play())


def test_a_holder_on_a_store_that_may_have_been_emptied_waits_until_no_earlier_one_can_give_ids() -> None:
    async def play() -> None:
        world = World()
        node = world.node()
        begun_s = world.clock.monotonic_s()
        await node.start(timeout_s=LEASE_TTL_S)
        assert world.clock.monotonic_s() - begun_s == pytest.approx(LEASE_TTL_S / 2, abs=0.1)
        node.next(world.clock.wall_ms())
        await node.close()

    run(play())


def test_a_successor_begins_above_what_was_reserved_even_when_its_predecessor_ran_ahead_and_died() -> None:
    async def play() -> None:
        world = World()
        dying = world.node()
        await dying.start()
        parent = IdGenerator(1_000).next(world.clock.wall_ms() + 50_000)
        with pytest.raises(OutOfIds, match="reserved"):
            dying.next(world.clock.wall_ms(), parent)
        await asyncio.sleep(0.1)
        last = dying.next(world.clock.wall_ms(), parent)
        assert last > parent
        left = world.state.leases["nodes"][0]
        assert left.used_ms > time_of(last)
        all_others_taken = {n: msgspec.structs.replace(left, number=n) for n in range(1, 1_024)}
        ended = msgspec.structs.replace(left, expires_ms=0)
        world.state.leases["nodes"] = {0: ended, **all_others_taken}
        successor = world.node()
        await successor.start()
        assert time_of(successor.next(world.clock.wall_ms())) > left.used_ms
        await successor.close()
        await dying.close()

    run(play())


def test_a_number_that_was_given_back_goes_on_right_above_its_last_id() -> None:
    async def play() -> None:
        world = World()
        node = world.node()
        await node.start()
        last = node.next(world.clock.wall_ms())
        await node.close()
        assert world.state.leases["nodes"][0].used_ms == time_of(last)

    run(play())
