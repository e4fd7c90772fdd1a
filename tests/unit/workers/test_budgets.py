"""Budget records: which rooms are in them, when they are written, and what follows while the log is away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from fanout.adapters.memory import MemoryLog
from fanout.core.policies import encode_policies
from fanout.core.profiles import Policy, Profiles
from fanout.core.records import (
    ANNOUNCE,
    BUDGET,
    MESSAGES,
    POLICY,
    Announce,
    Budget,
    PolicyChange,
    RoomReport,
    body,
    encode,
)
from fanout.ports import LogRecord, Topics
from tests.support import virtual_time
from tests.support.rooms import Rec, attach, report
from workers.budgets import Budgets, changes, no_quota
from workers.partition import Partition
from workers.steady_writer import SteadyWriter
from workers.turn import Ownership, Turn

BIG, SMALL, GROUP = "app/live:big", "app/live:small", "app/group:g"


@pytest.fixture
def partition() -> Partition:
    """Three rooms that one gateway announced: a million subscriptions, ten, and a million members of a group."""
    made = Partition(Ownership(0, 1, "e1"), 0, 1, Profiles())
    take(made, [Rec(0, attach(3), BIG.encode()), Rec(1, attach(3), SMALL.encode()), Rec(2, attach(3), GROUP.encode())])
    load(made)
    sizes = [report(key=room, subscriptions=count) for room, count in ((BIG, 10**6), (SMALL, 10), (GROUP, 10**6))]
    take(made, [Rec(3, announce(*sizes), None)])
    return made


def announce(*reports: RoomReport, slot: int = 3, pressure: int = 0) -> bytes:
    return encode(ANNOUNCE, Announce(slot, 1, pressure, list(reports)))


def take(partition: Partition, records: Sequence[LogRecord]) -> None:
    partition.take(Turn(1, 0.0), records)


def load(partition: Partition) -> None:
    partition.loaded(Turn(2, 0.0), dict.fromkeys(partition.ask(100)), lambda _: False)


def test_a_room_that_has_grown_gets_fewer_slots_and_others_are_not_named(partition: Partition) -> None:
    assert changes(partition, no_quota).rooms == {BIG: (2, 10**6)}
    assert changes(partition, no_quota).rooms == {}


def test_a_budget_makes_nobody_look_again(partition: Partition) -> None:
    changed = changes(partition, no_quota)
    take(partition, [Rec(4, encode(BUDGET, changed), None)])
    assert partition.rooms[BIG.encode()].shared_slots == 2
    assert not partition.resized
    take(partition, [Rec(5, announce(report(key=BIG, subscriptions=10**6, head=1)), None)])
    assert changes(partition, no_quota).rooms == {}


def test_an_app_with_a_quota_gets_no_more_than_that(partition: Partition) -> None:
    assert changes(partition, lambda _: 500).rooms == {BIG: (2, 10**6), SMALL: (10, 10)}


def test_a_gateway_under_pressure_takes_slots_from_its_audience(partition: Partition) -> None:
    changes(partition, no_quota)
    said = announce(report(key=SMALL, subscriptions=60_000), pressure=60)
    take(partition, [Rec(4, said, None)])
    assert changes(partition, no_quota).rooms == {SMALL: (6, 60_000)}
    other = announce(report(key=SMALL, subscriptions=140_000), slot=4, pressure=0)
    take(partition, [Rec(5, other, None)])
    assert changes(partition, no_quota).rooms == {SMALL: (4, 200_000)}  # 5 x (100 - 18) %


def test_a_room_that_everybody_has_left_gets_its_most_again(partition: Partition) -> None:
    take(partition, [Rec(4, encode(BUDGET, changes(partition, no_quota)), None)])
    take(partition, [Rec(5, announce(report(key=BIG, subscriptions=0)), None)])
    assert changes(partition, no_quota).rooms == {BIG: (20, 0)}


def test_a_lost_gateway_takes_its_subscriptions_with_it(partition: Partition) -> None:
    take(partition, [Rec(4, encode(BUDGET, changes(partition, no_quota)), None)])
    partition.expire(Turn(3, 0.0), [BIG.encode()], 3, 1)
    assert changes(partition, no_quota).rooms == {BIG: (20, 0)}


def test_a_new_policy_moves_the_values_of_its_rooms(partition: Partition) -> None:
    changes(partition, no_quota)
    policy = Policy(room_deliveries_per_s=50_000_000, shared_slots_max=40)
    said = PolicyChange("app", 1, encode_policies({"live": policy}))
    take(partition, [Rec(4, encode(POLICY, said), None)])
    assert partition.rooms[BIG.encode()].shared_slots == 40
    assert changes(partition, no_quota).rooms == {BIG: (10, 10**6)}


def test_rooms_that_are_being_loaded_wait_and_forgotten_ones_do_not(partition: Partition) -> None:
    other = "app/live:other"
    take(partition, [Rec(4, announce(report(key=other, subscriptions=10**6)), None)])
    assert changes(partition, no_quota).rooms == {BIG: (2, 10**6)}
    assert list(partition.resized) == [other.encode()]
    load(partition)
    assert changes(partition, no_quota).rooms == {other: (2, 10**6)}
    partition.resized[b"app/live:nobody"] = None
    assert changes(partition, no_quota).rooms == {} and not partition.resized


def test_a_look_takes_a_bounded_number_of_rooms(partition: Partition) -> None:
    assert changes(partition, no_quota, 1).rooms == {BIG: (2, 10**6)}
    assert len(partition.resized) == 2


def test_while_the_log_is_away_nothing_piles_up_and_nothing_is_forgotten(partition: Partition) -> None:
    async def scenario() -> None:
        log = MemoryLog(Topics(partitions={MESSAGES: 1}), virtual_time.LoopClock())
        writer = SteadyWriter(log, durable=True)
        await writer.open()
        budgets = Budgets(writer, no_quota)
        log.available = False
        for _ in range(3):
            await budgets.look({0: partition})
        assert list(partition.resized) == [BIG.encode()]
        log.available = True
        partition.next_offset = 0
        await budgets.look({0: partition})
        assert partition.budget_at == 0
        partition.resized[BIG.encode()] = None
        await budgets.look({0: partition})  # its own Budget has not come back
        reader = await log.reader(MESSAGES, [0])
        reader.seek(0, 0)
        (record,) = (await reader.poll(10, 0.0))[0]
        assert record.key is None and record.value is not None
        assert body(record.value, Budget).rooms == {BIG: (2, 10**6)}

    virtual_time.run(asyncio.wait_for(scenario(), 5))
