"""Which partitions a worker works on: take-overs, losses, fencing, gaps. On twins, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from prometheus_client import REGISTRY

from fanout.adapters.memory import MemoryGroupReader, MemoryLog, MemoryState, memory_store
from fanout.core.errors import OutOfRange
from fanout.core.profiles import Profiles
from fanout.core.records import CHUNKS, DEAD, MEMBERS, MESSAGES, TASKS
from fanout.ports import Topics
from tests.support import virtual_time
from tests.support.virtual_time import LoopClock
from workers.partitions import Partitions

TOPICS = Topics(partitions={MESSAGES: 3, MEMBERS: 1, TASKS: 1, CHUNKS: 1, DEAD: 1})


class Group:
    """A log with some records, a store, and the partitions of one member of the group."""

    def __init__(self) -> None:
        self.clock = LoopClock()
        self.log = MemoryLog(TOPICS, self.clock)
        self.state = MemoryState()
        self.store = memory_store(self.clock, self.state)
        self.partitions = Partitions(self.log, self.store.epochs, Profiles(), self.clock)

    async def join(self) -> MemoryGroupReader:
        reader = await self.log.group_reader(MESSAGES, "g", self.partitions)
        self.partitions.use(reader)
        return reader

    async def append(self, count: int) -> None:
        writer = await self.log.writer(durable=True)
        for number in range(3):
            await writer.append_many(MESSAGES, number, [(b"key", b"value")] * count)

    def is_claimed(self) -> bool:
        return self.partitions.are_claimed

    def owners(self) -> dict[int, int]:
        return {number: owned.ownership.owner for number, owned in self.partitions.active.items()}


def play(scenario: Callable[[Group], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        group = Group()
        try:
            await scenario(group)
        finally:
            await group.partitions.close()

    virtual_time.run(main())


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def gaps() -> float:
    return metric("fanout_log_gaps_total", topic=MESSAGES)


def test_nothing_is_claimed_before_the_group_has_spoken() -> None:
    async def scenario(group: Group) -> None:
        assert not group.is_claimed()
        await group.join()
        await asyncio.sleep(0.1)
        assert group.is_claimed()
        assert sorted(group.partitions.active) == [0, 1, 2]
        assert metric("fanout_partitions_owned", topic=MESSAGES) == 3

    play(scenario)


def test_partitions_that_come_before_the_reader_is_known_are_claimed_with_it() -> None:
    async def scenario(group: Group) -> None:
        reader = await group.log.group_reader(MESSAGES, "g", group.partitions)
        await asyncio.sleep(0.1)
        assert group.partitions.active == {}
        group.partitions.use(reader)
        await asyncio.sleep(0.1)
        assert sorted(group.partitions.active) == [0, 1, 2]

    play(scenario)


def test_a_take_over_goes_on_where_the_last_owner_committed_under_the_same_epoch() -> None:
    async def scenario(group: Group) -> None:
        await group.append(5)
        reader = await group.join()
        await asyncio.sleep(0.1)
        epochs = {number: owned.ownership.epoch for number, owned in group.partitions.active.items()}
        owners = group.owners()
        await group.store.epochs.saw(0, owners[0], 3)
        await reader.commit({0: 3})
        other = Group()
        other.log, other.state, other.store = group.log, group.state, group.store
        other.partitions = Partitions(other.log, other.store.epochs, Profiles(), other.clock)
        await reader.close()
        await other.join()
        await asyncio.sleep(0.1)
        active = other.partitions.active
        assert {number: owned.next_offset for number, owned in active.items()} == {0: 3, 1: 0, 2: 0}
        assert {number: owned.ownership.epoch for number, owned in active.items()} == epochs
        assert all(owner > owners[number] for number, owner in other.owners().items())
        await other.partitions.close()

    play(scenario)


def test_a_partition_that_is_taken_away_is_over_at_once() -> None:
    async def scenario(group: Group) -> None:
        reader = await group.join()
        await asyncio.sleep(0.1)
        ownership = group.partitions.active[1].ownership
        reader.revoke()
        assert ownership.is_over
        assert group.partitions.active == {}
        assert group.is_claimed()

    play(scenario)


def test_a_take_over_waits_for_the_store_and_ends_when_the_partition_goes() -> None:
    async def scenario(group: Group) -> None:
        group.state.available = False
        reader = await group.join()
        await asyncio.sleep(30)
        assert not group.is_claimed()
        reader.revoke()
        group.state.available = True
        await asyncio.sleep(5)
        assert group.partitions.active == {}
        reader.give([0, 1, 2])
        await asyncio.sleep(5)
        assert sorted(group.partitions.active) == [0, 1, 2]

    play(scenario)


def test_a_fenced_partition_is_claimed_again_while_the_group_says_it_is_ours() -> None:
    async def scenario(group: Group) -> None:
        await group.join()
        await asyncio.sleep(0.1)
        before = group.partitions.active[1].ownership
        group.partitions.fence(before)
        group.partitions.fence(before)  # told by several rooms
        assert before.is_over and not group.is_claimed()
        await asyncio.sleep(2)
        assert group.is_claimed()
        assert group.partitions.active[1].ownership.owner > before.owner

    play(scenario)


def test_a_fenced_partition_is_left_alone_while_the_group_says_it_is_anothers() -> None:
    async def scenario(group: Group) -> None:
        reader = await group.join()
        await asyncio.sleep(0.1)
        before = group.partitions.active[1].ownership
        reader.lapse()
        group.partitions.fence(before)
        await asyncio.sleep(10)
        assert 1 not in group.partitions.active
        await reader.poll(1, 0.1)  # notices, and joins anew
        await asyncio.sleep(1)
        assert group.is_claimed() and 1 in group.partitions.active

    play(scenario)


def test_records_that_are_gone_are_passed_and_counted() -> None:
    async def scenario(group: Group) -> None:
        await group.append(9)
        reader = await group.join()
        await asyncio.sleep(0.1)
        before = gaps()
        group.partitions.out_of_range(OutOfRange(MESSAGES, 1, 0, 4, 9))
        assert gaps() == before + 4
        assert group.partitions.active[1].next_offset == reader.position(1) == 4

    play(scenario)


def test_a_log_that_ends_too_early_is_claimed_anew_under_another_epoch() -> None:
    async def scenario(group: Group) -> None:
        await group.append(3)
        await group.join()
        await asyncio.sleep(0.1)
        before = group.partitions.active[1].ownership
        await group.store.epochs.saw(1, before.owner, 7)
        group.partitions.out_of_range(OutOfRange(MESSAGES, 1, 7, 0, 3))
        assert before.is_over
        group.partitions.out_of_range(OutOfRange(MESSAGES, 1, 7, 0, 3))  # again, while it is being claimed
        await asyncio.sleep(1)
        assert group.partitions.active[1].ownership.epoch != before.epoch

    play(scenario)


def test_a_commit_beyond_the_end_of_the_log_is_a_counted_gap() -> None:
    async def scenario(group: Group) -> None:
        await group.append(3)
        group.log._groups.clear()
        reader = await group.join()
        await asyncio.sleep(0.1)
        await reader.commit({2: 8})
        before = gaps()
        reader.revoke()
        reader._group.committed[2] = 8
        reader.take(2, 3)
        group.partitions.assigned([2])
        await asyncio.sleep(1)
        assert gaps() == before + 5
        assert group.partitions.active[2].next_offset == 0

    play(scenario)


def test_close_ends_claims_that_are_under_way() -> None:
    async def scenario(group: Group) -> None:
        group.state.available = False
        await group.join()
        await asyncio.sleep(0.1)
        await group.partitions.close()
        group.state.available = True
        await asyncio.sleep(5)
        assert group.partitions.active == {}

    play(scenario)
