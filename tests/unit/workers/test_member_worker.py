"""The member worker on twins, in virtual time: who is written where, marks, commits, and records that are none."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

from fanout.adapters.memory import MemoryLog, MemoryState, memory_store
from fanout.core.errors import RecordError
from fanout.core.limits import MEMBER_SHARDS
from fanout.core.records import (
    CHUNKS,
    DEAD,
    JOINED,
    MEMBERS,
    MESSAGES,
    TASKS,
    Joined,
    Message,
    Parked,
    encode,
    encode_body,
)
from fanout.ports import LogWriter, Topics
from sharding.placement import partition_of, shard_key, shard_of
from tests.support import virtual_time
from tests.support.rooms import Rec
from tests.support.virtual_time import LoopClock
from tests.support.worker_world import until
from workers.member_worker import GROUP, Membership, MemberWorker, read

TOPICS = Topics(partitions={MESSAGES: 1, MEMBERS: 4, TASKS: 1, CHUNKS: 1, DEAD: 1})
ROOM = "app/group:a"
JOIN = encode(JOINED, Joined(5, ["host"]))


class Members:
    """A member worker, and who speaks to it."""

    def __init__(self) -> None:
        self.clock = LoopClock()
        self.log = MemoryLog(TOPICS, self.clock)
        self.state = MemoryState()
        self.store = memory_store(self.clock, self.state)
        self.workers: list[MemberWorker] = []
        self._writer: LogWriter | None = None

    async def worker(self) -> MemberWorker:
        worker = MemberWorker(log=self.log, store=self.store, clock=self.clock)
        self.workers.append(worker)
        await worker.start()
        return worker

    async def append(self, user: str, value: bytes | None, *, partition: int | None = None, room: str = ROOM) -> int:
        if self._writer is None:
            self._writer = await self.log.writer(durable=True)
        where = self.partition(user, room) if partition is None else partition
        return (await self._writer.append(MEMBERS, where, f"{room}/{user}".encode(), value)).offset

    def partition(self, user: str, room: str = ROOM) -> int:
        return partition_of(shard_key(room, shard_of(user, MEMBER_SHARDS)), 4)

    async def contains(self, user: str, room: str = ROOM) -> bool:
        return await self.store.members.contains(room, shard_of(user, MEMBER_SHARDS), user)

    async def settled(self) -> None:
        async def done() -> bool:
            ends = await self.log.ends(MEMBERS, range(4))
            marks = [await self.store.members.marked(number) for number in range(4)]
            return all(mark is not None and mark >= ends[number][1] for number, mark in enumerate(marks))

        await until(done, "everything written")

    def committed(self) -> dict[int, int]:
        return dict(self.log._groups[MEMBERS, GROUP].committed)

    def dead(self) -> list[Parked]:
        records = self.log.partition(DEAD, 0).read(0, 100)
        return [msgspec.json.decode(record.value or b"", type=Parked) for record in records]


def play(scenario: Callable[[Members], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        members = Members()
        try:
            await scenario(members)
        finally:
            for worker in members.workers:
                await worker.close()

    virtual_time.run(main())


def test_members_that_join_and_leave_are_written_and_committed() -> None:
    async def scenario(members: Members) -> None:
        await members.worker()
        users = [f"user-{number}" for number in range(200)]
        for user in users:
            await members.append(user, JOIN)
        for user in users[::2]:
            await members.append(user, None)
        await members.settled()
        assert [await members.contains(user) for user in users] == [False, True] * 100
        page = await members.store.members.page(ROOM, shard_of(users[1], MEMBER_SHARDS), users[1], 1)
        assert page.items[0] == (users[1], encode_body(Joined(5, ["host"])))
        await until(lambda: sum(members.committed().values()) == 300, "commits")

    play(scenario)


def test_a_partition_without_records_is_marked_so_that_absence_means_something() -> None:
    async def scenario(members: Members) -> None:
        worker = await members.worker()
        await members.settled()
        assert [await members.store.members.marked(number) for number in range(4)] == [0, 0, 0, 0]
        assert worker.readiness() == {"members_written": True, "members_partitions": True}

    play(scenario)


def test_a_store_that_lost_everything_is_written_again_and_marked_only_then() -> None:
    async def scenario(members: Members) -> None:
        first = await members.worker()
        for number in range(50):
            await members.append(f"user-{number}", JOIN)
        await members.settled()
        await first.drain()
        await first.close()
        members.state.flush()
        await members.worker()
        await members.settled()
        assert all([await members.contains(f"user-{number}") for number in range(50)])

    play(scenario)


def test_a_worker_that_lives_on_writes_everything_again_when_the_store_was_emptied() -> None:
    async def scenario(members: Members) -> None:
        await members.worker()
        for number in range(50):
            await members.append(f"user-{number}", JOIN)
        await members.settled()
        members.state.flush()
        await members.settled()
        assert all([await members.contains(f"user-{number}") for number in range(50)])
        assert await members.store.members.shards(ROOM, 0) == MEMBER_SHARDS

    play(scenario)


def test_an_emptied_store_is_not_marked_by_the_next_record_alone() -> None:
    """A mark says that an absent user is no member: it must not stand before all have been written again."""

    async def scenario(members: Members) -> None:
        await members.worker()
        await members.append("ann", JOIN)
        await members.settled()
        members.state.flush()
        beside = next(name for name in map(str, range(99)) if members.partition(name) == members.partition("ann"))
        await members.append(beside, JOIN)
        where = members.partition("ann")

        async def marked() -> bool:
            return await members.store.members.marked(where) is not None

        await until(marked, "the mark")
        assert await members.contains("ann")
        assert await members.contains(beside)

    play(scenario)


def test_what_a_store_lost_in_a_failover_is_written_again_although_it_was_committed() -> None:
    async def scenario(members: Members) -> None:
        first = await members.worker()
        await members.append("ann", JOIN)
        await members.settled()
        replica = copy.deepcopy(members.state)
        where = members.partition("ann")
        beside = next(name for name in map(str, range(99)) if members.partition(name) == where)
        await members.append(beside, JOIN)
        await until(lambda: members.committed().get(where) == 2, "the commit")
        await first.close()
        members.state.marks, members.state.shards = replica.marks, replica.shards
        await members.worker()
        await members.settled()
        assert await members.contains(beside)

    play(scenario)


def test_nothing_is_lost_while_the_store_is_away() -> None:
    async def scenario(members: Members) -> None:
        worker = await members.worker()
        await members.settled()
        members.state.available = False
        for number in range(20):
            await members.append(f"user-{number}", JOIN)
        await asyncio.sleep(5)
        assert not worker.readiness()["members_written"]
        assert members.committed() == {}
        members.state.available = True
        await members.settled()
        assert all([await members.contains(f"user-{number}") for number in range(20)])
        assert worker.readiness()["members_written"]

    play(scenario)


def test_a_second_worker_takes_half_and_everybody_is_written_once() -> None:
    async def scenario(members: Members) -> None:
        await members.worker()
        for number in range(20):
            await members.append(f"user-{number}", JOIN)
        second = await members.worker()
        for number in range(20, 40):
            await members.append(f"user-{number}", JOIN)
        await members.settled()
        await second.drain()
        for number in range(40):
            await members.append(f"user-{number}", None if number < 10 else JOIN)
        await members.settled()
        assert [await members.contains(f"user-{number}") for number in range(40)] == [False] * 10 + [True] * 30

    play(scenario)


def test_records_that_are_no_membership_are_parked_and_their_neighbours_written() -> None:
    async def scenario(members: Members) -> None:
        await members.worker()
        other = (members.partition("ann") + 1) % 4
        await members.append("ann", JOIN, partition=other)
        await members.append("bob", b"\x01", partition=members.partition("cyd"))
        await members.append("cyd", JOIN)
        await members.settled()
        assert sorted(one.reason for one in members.dead()) == ["short_header", "wrong_partition"]
        assert await members.contains("cyd")
        assert not await members.contains("ann")

    play(scenario)


def test_members_beyond_retention_are_a_gap_that_is_passed() -> None:
    async def scenario(members: Members) -> None:
        await members.worker()
        await members.settled()
        number = members.partition("ann")
        partition = members.log.partition(MEMBERS, number)
        for worker in members.workers:
            assert worker._reader is not None
            worker._reader.pause([number])
        for _ in range(5):
            await members.append("ann", JOIN)
        partition.earliest = 3
        del partition._records[:3]
        for worker in members.workers:
            assert worker._reader is not None
            worker._reader.resume([number])
        await members.settled()
        assert await members.contains("ann")

    play(scenario)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (b"app/group:a/ann", JOIN, Membership(ROOM, "ann", JOIN[12:])),
        (b"app/group:a/ann", None, Membership(ROOM, "ann", None)),
    ],
)
def test_a_membership_is_read(key: bytes, value: bytes | None, said: Membership) -> None:
    assert read(Rec(0, value, key)) == said


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (None, JOIN, "no_key"),
        (b"app/group:a", JOIN, "bad_key"),
        (b"\xff/group:a/ann", JOIN, "bad_key"),
        (b"App/group:a/ann", JOIN, "bad_key"),
        (b"app/#ann/ann", JOIN, "bad_key"),
        (b"app/group:a/a b", JOIN, "bad_key"),
        (b"app/group:a/ann/3", JOIN, "not_available"),
        (b"app/group:a/ann", b"", "short_header"),
        (b"app/group:a/ann", encode(1, Message(b"{}")), "unknown_kind"),
        (b"app/group:a/ann", JOIN[:-1], "undecodable"),
    ],
)
def test_what_is_no_membership_is_refused(key: bytes | None, value: bytes | None, reason: str) -> None:
    with pytest.raises(RecordError) as refused:
        read(Rec(0, value, key))
    assert refused.value.reason == reason
