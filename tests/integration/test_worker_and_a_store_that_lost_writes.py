"""The room worker on a store that fails over to a replica with older data: nothing may be missing without a word."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from prometheus_client import REGISTRY

from fanout.adapters.memory import MemoryLog, MemoryState, memory_store
from fanout.core.records import CHUNKS, DEAD, MEMBERS, MESSAGES, TASKS
from fanout.ports import Assignment, GroupReader, LogReader, LogWriter, Topics
from tests.support import virtual_time
from tests.support.virtual_time import LoopClock
from tests.support.worker_world import World, until

TOPICS = Topics(partitions={MESSAGES: 1, MEMBERS: 1, TASKS: 1, CHUNKS: 8, DEAD: 1})
ROOM, OTHER = "app/group:a", "app/group:b"


class FailoverWorld(World):
    """A world on twins whose store can go back to what a replica had."""

    def __init__(self) -> None:
        self.state = MemoryState()
        clock = LoopClock()
        self.twin = MemoryLog(TOPICS, clock)
        super().__init__(self.twin, memory_store(clock, self.state), clock)

    def replica(self) -> MemoryState:
        """Return what a replica has now."""
        return copy.deepcopy(self.state)

    def fail_over(self, replica: MemoryState) -> None:
        """Lose every write since the replica was made."""
        for name in ("rooms", "epochs", "keys", "marks"):
            setattr(self.state, name, getattr(replica, name))

    def committed(self) -> int:
        """Return the workers' commit."""
        return self.twin._groups[MESSAGES, "fanout-workers"].committed.get(0, 0)

    async def all_committed(self) -> None:
        """Wait until everything on the log is committed."""
        await until(lambda: self.committed() == self.twin.partition(MESSAGES, 0).end, "everything committed")


def play(scenario: Callable[[FailoverWorld], Coroutine[Any, Any, None]]) -> None:
    """Play a scenario in virtual time."""

    async def main() -> None:
        world = FailoverWorld()
        try:
            await scenario(world)
        finally:
            await world.close()

    virtual_time.run(main())


def takeovers() -> float:
    return sum(
        REGISTRY.get_sample_value("fanout_takeovers_total", {"epoch": kind}) or 0 for kind in ("kept", "renewed")
    )


def test_a_new_owner_reads_again_what_the_store_has_forgotten_although_it_was_committed() -> None:
    async def scenario(world: FailoverWorld) -> None:
        first = await world.worker()
        gateway = await world.gateway(1)
        await world.attach(ROOM, gateway)
        ids = await world.publish(ROOM, 5)
        await world.all_committed()
        replica = world.replica()
        ids += await world.publish(ROOM, 5)
        await world.all_committed()
        await first.close()
        world.fail_over(replica)
        world.workers.clear()
        await world.worker()
        ids += await world.publish(ROOM, 1)
        await world.received(gateway, ROOM, ids)
        await world.settled()
        assert [entry.id for entry in await world.history(ROOM)] == ids
        ledger = await world.ledger(ROOM)
        assert ledger["accepted"]["high"] == ledger["kept"]["high"] == 11

    play(scenario)


def test_an_owner_that_lives_on_notices_that_the_store_has_forgotten_and_writes_it_again() -> None:
    """Also for rooms in which nobody says anything any more: their tail would be missing without a word."""

    async def scenario(world: FailoverWorld) -> None:
        await world.worker()
        gateway = await world.gateway(1)
        await world.attach(ROOM, gateway)
        ids = await world.publish(ROOM, 5)
        await world.all_committed()
        replica = world.replica()
        ids += await world.publish(ROOM, 5)
        await world.all_committed()
        epoch = await world.store.epochs.current(0)
        world.fail_over(replica)
        await world.publish(OTHER, 1)

        async def healed() -> bool:
            return [entry.id for entry in await world.history(ROOM)] == ids

        await until(healed, "the forgotten tail stands in the history again")
        await world.settled()
        assert await world.store.epochs.current(0) == epoch
        assert (await world.ledger(ROOM))["accepted"]["high"] == 10
        assert gateway.ids(ROOM) == ids

    play(scenario)


class LateEnds:
    """A log whose answer about the ends takes a second; what is appended meanwhile is not in it."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self.late_s = 0.0

    async def ends(self, topic: str, partitions: Sequence[int]) -> Mapping[int, tuple[int, int]]:
        found = await self._log.ends(topic, partitions)
        await asyncio.sleep(self.late_s)
        return found

    async def offset_at(self, topic: str, partition: int, at_ms: int) -> int:
        return await self._log.offset_at(topic, partition, at_ms)

    async def writer(self, *, durable: bool) -> LogWriter:
        return await self._log.writer(durable=durable)

    async def reader(self, topic: str, partitions: Sequence[int]) -> LogReader:
        return await self._log.reader(topic, partitions)

    async def group_reader(self, topic: str, group: str, assignment: Assignment) -> GroupReader:
        return await self._log.group_reader(topic, group, assignment)

    def partitions(self, topic: str) -> int:
        return self._log.partitions(topic)

    async def ping(self) -> None:
        await self._log.ping()

    async def close(self) -> None:
        await self._log.close()


def test_records_that_come_while_the_ends_are_asked_for_are_no_log_that_was_cut_short() -> None:
    async def scenario(world: FailoverWorld) -> None:
        log = LateEnds(world.twin)
        await world.worker(log=log)
        gateway = await world.gateway(1)
        await world.attach(ROOM, gateway)
        before = takeovers()
        log.late_s = 1.0
        ids = []
        for _ in range(150):
            ids += await world.publish(ROOM)
            await asyncio.sleep(0.1)
        await world.received(gateway, ROOM, ids)
        assert takeovers() == before

    play(scenario)
