"""The room worker on twins, in virtual time: take-overs, zombies, poison, a log cut short, a store that is away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from prometheus_client import REGISTRY

from fanout.adapters.memory import MemoryLog, MemoryState, Retention, memory_store
from fanout.core.errors import Unavailable
from fanout.core.limits import HISTORY_WAITING_S_MAX, TURN_RECORDS
from fanout.core.messages import Priority
from fanout.core.records import CHUNKS, DEAD, MEMBERS, MESSAGES, TASKS
from fanout.ports import Appended, HistoryBatch, Lease, LogWriter, Topics
from tests.support import virtual_time
from tests.support.rooms import detach, message, report
from tests.support.virtual_time import LoopClock
from tests.support.worker_world import World, until

TOPICS = Topics(partitions={MESSAGES: 4, MEMBERS: 2, TASKS: 2, CHUNKS: 8, DEAD: 1})
ROOM = "app/group:a"
ROOMS = [f"app/group:{name}" for name in "abcdefgh"]


class TwinWorld(World):
    """A world on twins whose log and store can be taken away."""

    def __init__(self, retention: dict[str, Retention] | None = None) -> None:
        self.state = MemoryState()
        clock = LoopClock()
        self.twin = MemoryLog(TOPICS, clock, retention)
        super().__init__(self.twin, memory_store(clock, self.state), clock)


def play(scenario: Callable[[TwinWorld], Coroutine[Any, Any, None]], **settings: Any) -> None:
    """Play a scenario in virtual time."""

    async def main() -> None:
        world = TwinWorld(**settings)
        try:
            await scenario(world)
        finally:
            await world.close()

    virtual_time.run(main())


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_messages_reach_the_gateways_in_order_and_stand_in_history_and_ledger() -> None:
    async def scenario(world: TwinWorld) -> None:
        await world.worker()
        near, far = await world.gateway(1), await world.gateway(5)
        for room in ROOMS:
            answer = await world.attach(room, near)
            assert answer.attached is not None and answer.entries == []
        await world.attach(ROOM, far)
        ids = {room: await world.publish(room, 30) for room in ROOMS}
        for room in ROOMS:
            await world.received(near, room, ids[room])
        await world.received(far, ROOM, ids[ROOM])
        await world.settled()
        for room in ROOMS:
            assert [entry.id for entry in await world.history(room)] == ids[room]
            assert await world.history(room) == near.entries(room)
            found = await world.ledger(room)
            assert found["accepted"]["high"] == found["kept"]["high"] == 30
        assert near.refused == far.refused == []

    play(scenario)


def test_an_attach_is_answered_at_once_with_where_the_room_stands() -> None:
    async def scenario(world: TwinWorld) -> None:
        await world.worker()
        await world.publish(ROOM, 3)
        gateway = await world.gateway(2)
        began_s = world.clock.monotonic_s()
        answer = await world.attach(ROOM, gateway)
        assert world.clock.monotonic_s() - began_s <= 0.02
        assert answer.attached is not None
        assert answer.attached.head == answer.attached.last == answer.prev == 3
        assert (answer.attached.floor, answer.attached.n) == (0, 3)

    play(scenario)


def test_rooms_that_were_never_heard_of_cost_one_load_for_all() -> None:
    async def scenario(world: TwinWorld) -> None:
        for room in ROOMS:
            await world.publish(room)
        loads: list[int] = []
        history = world.store.history
        load = history.load

        async def counted(rooms: Sequence[tuple[str, str]]) -> Any:
            loads.append(len(rooms))
            return await load(rooms)

        object.__setattr__(history, "load", counted)
        await world.worker()
        await world.settled()
        assert sum(loads) == len(ROOMS)
        assert len(loads) <= 2  # one for each poll that brought new rooms

    play(scenario)


def test_a_long_poll_goes_out_in_slices_and_makes_one_step_of_the_history_a_room() -> None:
    async def scenario(world: TwinWorld) -> None:
        other = next(room for room in ROOMS[1:] if world.partition(room) == world.partition(ROOM))
        await world.worker()
        gateway = await world.gateway(1)
        await world.attach(ROOM, gateway)
        await world.settled()
        steps: list[list[str]] = []
        history = world.store.history
        store = history.store

        async def noted(batches: Sequence[HistoryBatch]) -> Any:
            steps.append([batch.key for batch in batches])
            return await store(batches)

        object.__setattr__(history, "store", noted)
        values = [(ROOM.encode(), message(Priority.HIGH, number)) for number in range(2 * TURN_RECORDS + 500)]
        # Its state is loaded between two slices, and what was held for it joins the open turn.
        values.insert(10, (other.encode(), message(Priority.HIGH, 9)))
        writer = await world.log.writer(durable=True)
        await writer.append_many(MESSAGES, world.partition(ROOM), values)
        await world.received(gateway, ROOM, list(range(2 * TURN_RECORDS + 500)))
        await world.settled()
        assert len([batch for batch in gateway.batches if batch.entries]) == 3
        assert steps == [[ROOM, other]]
        assert [entry.id for entry in await world.history(other)] == [9]
        assert [entry.id for entry in await world.history(ROOM)] == list(
            range(TURN_RECORDS + 500, 2 * TURN_RECORDS + 500)
        )
        assert (await world.ledger(ROOM))["kept"]["high"] == 2 * TURN_RECORDS + 500

    play(scenario)


def test_a_second_worker_takes_over_half_and_nothing_is_lost_or_doubled() -> None:
    async def scenario(world: TwinWorld) -> None:
        await world.worker()
        gateway = await world.gateway(1)
        for room in ROOMS:
            await world.attach(room, gateway)
        ids: dict[str, list[int]] = {room: [] for room in ROOMS}

        async def publish_for_a_while() -> None:
            for _ in range(60):
                for room in ROOMS:
                    ids[room] += await world.publish(room)
                await asyncio.sleep(0.05)

        publishing = asyncio.create_task(publish_for_a_while())
        await asyncio.sleep(0.7)
        second = await world.worker()
        await asyncio.sleep(0.7)
        await second.drain()
        world.workers.remove(second)
        await asyncio.sleep(0.3)
        third = await world.worker()
        await asyncio.sleep(0.3)
        await third.close()  # killed: nothing more is committed
        world.workers.remove(third)
        await publishing
        for room in ROOMS:
            await world.received(gateway, room, ids[room])
        await world.settled()
        for room in ROOMS:
            assert [entry.id for entry in await world.history(room)] == ids[room]
            assert (await world.ledger(room))["accepted"]["high"] == 60
            meta = await world.meta(room)
            assert meta is not None and meta.n == 60

    play(scenario)


def test_after_a_stall_of_a_minute_a_live_room_is_live_again_and_has_lost_no_gift() -> None:
    """60 s × 2,000 messages/s: 10 % gifts, 70 % chat, 20 % likes."""
    room, stall_s, per_s = "app/live:stage", 60, 2_000
    mix = (Priority.HIGH, *[Priority.NORMAL] * 7, *[Priority.LOW] * 2)

    async def scenario(world: TwinWorld) -> None:
        first = await world.worker()
        gateway = await world.gateway(1)
        await world.attach(room, gateway)
        await world.settled()
        await first.close()
        world.workers.remove(first)
        writer = await world.log.writer(durable=True)
        per_step = per_s // 5
        for step in range(stall_s * 5):
            numbers = range(step * per_step, (step + 1) * per_step)
            values = [(room.encode(), message(mix[number % 10], number + 2)) for number in numbers]
            await writer.append_many(MESSAGES, world.partition(room), values)
            await asyncio.sleep(0.2)
        begun_ms = world.clock.wall_ms()
        await world.worker()
        (live,) = await world.publish(room, priority=Priority.HIGH)
        await until(lambda: live in gateway.ids(room)[-1:], "the newest message")
        assert world.clock.wall_ms() - begun_ms <= 2_000
        await world.settled()

        messages = stall_s * per_s
        gifts = [number + 2 for number in range(messages) if mix[number % 10] is Priority.HIGH]
        entries = gateway.entries(room)
        assert [entry.id for entry in entries if entry.priority == Priority.HIGH.value] == [*gifts, live]
        oldest = {priority: [e.at_ms for e in entries if e.priority == priority.value] for priority in Priority}
        assert min(oldest[Priority.NORMAL]) >= begun_ms - 10_000
        assert all(at_ms >= begun_ms - 2_000 for at_ms in oldest[Priority.LOW])
        found = await world.ledger(room)
        assert sum(found["accepted"].values()) == messages + 1
        assert found["kept"]["high"] == found["accepted"]["high"] == messages // 10 + 1
        late = found["dropped"]["late"]["too_old"]
        assert late["high"] == 0
        assert late["normal"] == messages * 7 // 10 * 50 // 60
        assert late["low"] == messages * 2 // 10 * 58 // 60

    play(
        scenario,
        retention={MESSAGES: Retention(200_000, 64 << 20, 1 << 40), CHUNKS: Retention(1_000, 64 << 20, 1 << 40)},
    )


def test_what_was_drained_is_committed_and_not_done_again() -> None:
    async def scenario(world: TwinWorld) -> None:
        first = await world.worker()
        gateway = await world.gateway(1)
        await world.attach(ROOM, gateway)
        ids = await world.publish(ROOM, 20)
        await first.drain()
        await first.close()
        world.workers.remove(first)
        await world.worker()
        ids += await world.publish(ROOM, 5)
        await world.received(gateway, ROOM, ids)
        assert gateway.refused == []
        assert gateway.entries(ROOM)[-1].n == 25

    play(scenario)


def test_a_zombie_that_goes_on_changes_nothing_and_its_batches_are_refused() -> None:
    async def scenario(world: TwinWorld) -> None:
        old = await world.worker()
        gateway = await world.gateway(1)
        await world.attach(ROOM, gateway)
        ids = await world.publish(ROOM, 3)
        await world.received(gateway, ROOM, ids)
        await world.settled()
        partition = old._partitions.active[world.partition(ROOM)]
        zombie = partition.ownership
        before = metric("fanout_fenced_total", what="owner")
        # The store hands the partition to another owner, which the old one is not told.
        number = world.partition(ROOM)
        claim = await world.store.epochs.claim(number, 1 << 40, world.clock.wall_ms(), "unused")
        assert claim.owner > zombie.owner and not claim.renewed
        ids += await world.publish(ROOM, 3)
        await until(lambda: zombie.is_over, "the zombie has noticed")
        assert metric("fanout_fenced_total", what="owner") == before + 1
        # Nobody else is in the group, so the partition is taken over again, above the other owner.
        await world.settled()
        assert old._partitions.active[number].ownership.owner > claim.owner
        ids += await world.publish(ROOM, 3)
        await world.received(gateway, ROOM, ids)
        await world.settled()
        assert [entry.id for entry in await world.history(ROOM)] == ids

    play(scenario)


def test_batches_of_a_stopped_owner_are_refused_once_the_new_one_has_spoken() -> None:
    async def scenario(world: TwinWorld) -> None:
        old = await world.worker()
        gateway = await world.gateway(1)
        await world.attach(ROOM, gateway)
        ids = await world.publish(ROOM, 3)
        await world.received(gateway, ROOM, ids)
        await world.settled()
        reader = old._partitions.reader
        assert reader is not None
        stopped = old._partitions.active[world.partition(ROOM)]
        old._poll_task.cancel()  # type: ignore[union-attr]
        reader.lapse()  # type: ignore[attr-defined]
        await world.worker()
        ids += await world.publish(ROOM, 3)
        await world.received(gateway, ROOM, ids)
        # The zombie wakes up and does what it has in hand, under its old generation.
        records = world.twin.partition(MESSAGES, stopped.number).read(stopped.next_offset, 10)
        turn = old._turn(world.clock.monotonic_s())
        stopped.take(turn, records)
        old._send(turn)
        await until(lambda: "owner" in gateway.refused, "the zombie's batch is refused")
        await world.settled()
        assert gateway.ids(ROOM) == ids
        assert [entry.id for entry in await world.history(ROOM)] == ids
        assert (await world.ledger(ROOM))["accepted"]["high"] == 6

    play(scenario)


def test_poison_is_parked_with_its_position_while_the_partition_goes_on() -> None:
    async def scenario(world: TwinWorld) -> None:
        await world.worker()
        gateway = await world.gateway(1)
        await world.attach(ROOM, gateway)
        ids = await world.publish(ROOM, 2)
        poison = await world.append(ROOM, b"\x01\x01\x02\x00")
        foreign = await world.append(ROOM, b'{"room":"group:a","data":')
        other = (world.partition(ROOM) + 1) % 4
        stray = await world.append_to(other, ROOM.encode(), message(Priority.HIGH, 7))
        keyless = await world.append_to(other, None, message(Priority.HIGH, 8))
        nameless = await world.append_to(other, None, b"\xff")
        ids += await world.publish(ROOM, 2)
        await world.received(gateway, ROOM, ids)
        await world.settled()
        parked = {(one.partition, one.offset): one.reason for one in await world.dead()}
        assert parked == {
            (poison.partition, poison.offset): "short_header",
            (foreign.partition, foreign.offset): "bad_request",
            (stray.partition, stray.offset): "wrong_partition",
            (keyless.partition, keyless.offset): "no_key",
            (nameless.partition, nameless.offset): "short_header",
        }
        assert (await world.ledger(ROOM))["accepted"]["high"] == 4

    play(scenario)


def test_with_the_store_away_rooms_in_memory_are_served_and_history_catches_up() -> None:
    async def scenario(world: TwinWorld) -> None:
        worker = await world.worker()
        gateway = await world.gateway(1)
        await world.attach(ROOM, gateway)
        await world.settled()
        await asyncio.sleep(1.5)
        committed = dict(world.twin._groups[MESSAGES, "fanout-workers"].committed)
        world.state.available = False
        ids = []
        for _ in range(20):
            ids += await world.publish(ROOM)
            await asyncio.sleep(0.5)
        await world.received(gateway, ROOM, ids)
        stranger = ROOMS[1]
        waiting = await world.publish(stranger, 3)
        await asyncio.sleep(2)
        assert not worker.readiness()["worker_store"]
        assert world.twin._groups[MESSAGES, "fanout-workers"].committed == committed
        world.state.available = True
        await world.settled()
        assert [entry.id for entry in await world.history(ROOM)] == ids
        assert [entry.id for entry in await world.history(stranger)] == waiting
        await asyncio.sleep(1.5)
        assert worker.readiness() == {"worker_log": True, "worker_store": True, "worker_partitions": True}
        assert world.twin._groups[MESSAGES, "fanout-workers"].committed[world.partition(ROOM)] > 20

    play(scenario)


def test_polling_pauses_while_too_much_waits_and_goes_on_by_itself() -> None:
    async def scenario(world: TwinWorld) -> None:
        await world.worker()
        gateway = await world.gateway(1)
        await world.attach(ROOM, gateway)
        await world.settled()
        world.state.available = False
        ids = await world.publish(ROOM, 3)
        await world.received(gateway, ROOM, ids)
        await asyncio.sleep(HISTORY_WAITING_S_MAX + 1)
        ids += await world.publish(ROOM, 1)
        await asyncio.sleep(1)  # what was polled before the pause
        late = await world.publish(ROOM, 3)
        await asyncio.sleep(20)
        assert gateway.ids(ROOM)[-1] not in late
        world.state.available = True
        await world.received(gateway, ROOM, ids + late)
        await world.settled()
        assert [entry.id for entry in await world.history(ROOM)] == ids + late

    play(scenario)


def test_a_log_that_is_away_for_a_while_loses_nothing() -> None:
    async def scenario(world: TwinWorld) -> None:
        worker = await world.worker()
        gateway = await world.gateway(1)
        await world.attach(ROOM, gateway)
        ids = await world.publish(ROOM, 3)
        await world.received(gateway, ROOM, ids)
        reading = world._tasks.pop()
        reading.cancel()
        world.twin.available = False
        await asyncio.sleep(30)
        assert not worker.readiness()["worker_log"]
        world.twin.available = True
        world._tasks.append(asyncio.create_task(gateway.read_for_ever()))
        ids += await world.publish(ROOM, 3)
        await world.received(gateway, ROOM, ids)
        await asyncio.sleep(2)
        assert worker.readiness()["worker_log"]

    play(scenario)


class _FailingWriter:
    """A chunk writer that fails while it is told to, sometimes after the record was taken."""

    def __init__(self, inner: LogWriter, faults: list[str]) -> None:
        self._inner = inner
        self._faults = faults

    async def append(self, topic: str, partition: int, key: bytes | None, value: bytes | None) -> Appended:
        return await self.append_many(topic, partition, [(key, value)])

    async def append_many(
        self, topic: str, partition: int, records: Sequence[tuple[bytes | None, bytes | None]]
    ) -> Appended:
        fault = self._faults.pop(0) if topic == CHUNKS and self._faults else ""
        if fault == "before":
            raise Unavailable("refused")
        appended = await self._inner.append_many(topic, partition, records)
        if fault == "after":
            raise Unavailable("taken, but the answer was lost")
        return appended

    async def close(self) -> None:
        await self._inner.close()


class _FaultyLog:
    """A log whose writers fail as told; everything else is the twin's."""

    def __init__(self, inner: MemoryLog, faults: list[str]) -> None:
        self._inner = inner
        self._faults = faults

    async def writer(self, *, durable: bool) -> _FailingWriter:
        return _FailingWriter(await self._inner.writer(durable=durable), self._faults)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def test_chunks_that_were_not_taken_are_tried_again_without_reordering() -> None:
    async def scenario(world: TwinWorld) -> None:
        faults: list[str] = []
        await world.worker(log=_FaultyLog(world.twin, faults))
        gateway = await world.gateway(1)
        await world.attach(ROOM, gateway)
        faults += ["before", "after", "before", "before", "before", "before", "after", "", "after"]
        ids = []
        for _ in range(30):
            ids += await world.publish(ROOM)
            await asyncio.sleep(0.1)
        await world.received(gateway, ROOM, ids)
        assert faults == []
        await world.settled()
        assert [entry.id for entry in await world.history(ROOM)] == ids

    play(scenario)


def test_nothing_is_committed_past_chunks_that_were_not_taken() -> None:
    async def scenario(world: TwinWorld) -> None:
        faults: list[str] = []
        await world.worker(log=_FaultyLog(world.twin, faults))
        gateway = await world.gateway(1)
        await world.attach(ROOM, gateway)
        await world.settled()
        await asyncio.sleep(1)
        committed = dict(world.twin._groups[MESSAGES, "fanout-workers"].committed)
        faults += ["before"] * 1_000
        await world.publish(ROOM, 5)
        await asyncio.sleep(5)
        assert world.twin._groups[MESSAGES, "fanout-workers"].committed == committed
        assert await world.history(ROOM) == []
        faults.clear()
        await world.settled()
        assert len(await world.history(ROOM)) == 5

    play(scenario)


def test_a_log_cut_short_begins_a_new_epoch() -> None:
    async def scenario(world: TwinWorld) -> None:
        await world.worker()
        gateway = await world.gateway(1)
        first = await world.attach(ROOM, gateway)
        ids = await world.publish(ROOM, 10)
        await world.received(gateway, ROOM, ids)
        await world.settled()
        await asyncio.sleep(1)
        cut(world, world.partition(ROOM), 4)
        gaps = metric("fanout_log_gaps_total", topic=MESSAGES)
        await until(lambda: metric("fanout_log_gaps_total", topic=MESSAGES) > gaps, "the gap is counted")
        again = await world.attach(ROOM, gateway)
        assert again.epoch != first.epoch
        fresh = await world.publish(ROOM, 2)
        await until(lambda: gateway.ids(ROOM)[-2:] == fresh, "publications of the new epoch")
        await world.settled()
        # What the log still holds is published again, under the new epoch: clients resync.
        assert [entry.id for entry in await world.history(ROOM)] == [*ids[:3], *fresh]

    play(scenario)


def cut(world: TwinWorld, number: int, end: int) -> None:
    """Let a partition end at ``end``, as an unclean leader election does; its readers notice at their next poll."""
    partition = world.twin.partition(MESSAGES, number)
    partition._records = [record for record in partition._records if record.offset < end]
    partition.end = end
    for reader in partition.readers:
        reader.notice(number)


def test_records_beyond_retention_are_a_counted_gap() -> None:
    async def scenario(world: TwinWorld) -> None:
        first = await world.worker()
        await world.publish(ROOM, 2)
        await world.settled()
        await first.drain()
        await first.close()
        world.workers.remove(first)
        gaps = metric("fanout_log_gaps_total", topic=MESSAGES)
        ids = await world.publish(ROOM, 30)  # only ten are kept
        await world.worker()
        await world.settled()
        assert metric("fanout_log_gaps_total", topic=MESSAGES) == gaps + 20
        assert [entry.id for entry in await world.history(ROOM)][2:] == ids[20:]
        assert (await world.ledger(ROOM))["accepted"]["high"] == 12

    play(scenario, retention={MESSAGES: Retention(10, 1 << 20, 1 << 40)})


def test_a_store_that_lost_everything_begins_a_new_epoch_and_routes_heal() -> None:
    async def scenario(world: TwinWorld) -> None:
        await world.worker()
        gateway = await world.gateway(1)
        first = await world.attach(ROOM, gateway)
        ids = await world.publish(ROOM, 3)
        await world.received(gateway, ROOM, ids)
        await world.settled()
        world.state.flush()
        await world.publish(ROOM)
        await asyncio.sleep(5)
        await world.announce(gateway, report(head=3, subscriptions=1, key=ROOM))
        await until(lambda: gateway.answers(ROOM)[-1].epoch != first.epoch, "the route has healed")
        fresh = await world.publish(ROOM, 2)
        await until(lambda: gateway.ids(ROOM)[-2:] == fresh, "publications of the new epoch")

    play(scenario)


def test_a_gateway_whose_lease_ended_gets_nothing_more_and_is_unreported() -> None:
    async def scenario(world: TwinWorld) -> None:
        await world.worker()
        gateway = await world.gateway(1, lease_ms=10_000)
        await world.attach(ROOM, gateway)
        await world.announce(gateway, report(head=1, subscriptions=5, key=ROOM))
        ids = await world.publish(ROOM, 2)
        await world.received(gateway, ROOM, ids)
        await asyncio.sleep(30)  # ten seconds of lease, fifteen of absence
        await world.publish(ROOM, 2)
        await world.settled()
        assert gateway.ids(ROOM) == ids
        edge = (await world.ledger(ROOM))["edge"]
        assert edge["unreported"]["high"] == edge["offered"]["high"] == 10

    play(scenario)


def test_a_gateway_whose_lease_holds_is_kept_however_long_the_store_is_away() -> None:
    async def scenario(world: TwinWorld) -> None:
        await world.worker()
        gateway = await world.gateway(1, lease_ms=10_000)
        await world.attach(ROOM, gateway)
        world.state.available = False
        await asyncio.sleep(45)
        world.state.available = True
        await asyncio.sleep(8)
        await world.store.leases.renew(Lease("slots", 1, 1, "test", "", 0), 60_000)
        await asyncio.sleep(20)
        ids = await world.publish(ROOM, 2)
        await world.received(gateway, ROOM, ids)

    play(scenario)


def test_a_detached_gateway_gets_nothing_more_and_its_last_report_counts() -> None:
    async def scenario(world: TwinWorld) -> None:
        await world.worker()
        gateway = await world.gateway(1)
        await world.attach(ROOM, gateway)
        ids = await world.publish(ROOM, 2)
        await world.received(gateway, ROOM, ids)
        last = report(offered=[0, 6, 0, 0], written=[0, 5, 0, 0], dropped={"closed": [0, 1, 0, 0]}, key=ROOM)
        await world.append(ROOM, detach(1, 1, 1, last))
        await world.publish(ROOM, 2)
        await world.settled()
        assert gateway.ids(ROOM) == ids
        edge = (await world.ledger(ROOM))["edge"]
        assert (edge["offered"]["high"], edge["written"]["high"]) == (6, 5)
        assert edge["unreported"]["high"] == 0

    play(scenario)


def test_an_announce_names_rooms_that_are_not_in_memory() -> None:
    async def scenario(world: TwinWorld) -> None:
        first = await world.worker()
        gateway = await world.gateway(1)
        rooms = [room for room in ROOMS if world.partition(room) == world.partition(ROOM)]
        assert len(rooms) > 1
        for room in rooms:
            await world.attach(room, gateway)
            await world.publish(room)
        await world.settled()
        await first.drain()
        await first.close()
        world.workers.remove(first)
        await world.worker()
        answers = {room: len(gateway.answers(room)) for room in rooms}
        await world.announce(gateway, *(report(head=0, subscriptions=1, key=room) for room in rooms))
        await until(lambda: all(len(gateway.answers(room)) > answers[room] for room in rooms), "answers")
        stranger = next(room for room in ROOMS if world.partition(room) != world.partition(ROOM))
        await world.append_to(
            world.partition(ROOM), None, announced_wrongly(gateway.slot, gateway.generation, stranger)
        )
        await world.settled()
        assert [one.reason for one in await world.dead()] == ["wrong_partition"]

    play(scenario)


def announced_wrongly(slot: int, generation: int, room: str) -> bytes:
    from fanout.core.records import ANNOUNCE, Announce, encode

    return encode(ANNOUNCE, Announce(slot, generation, 0, [report(key=room)]))


def test_a_worker_that_cannot_finish_leaves_in_time_and_its_work_to_the_next() -> None:
    async def scenario(world: TwinWorld) -> None:
        first = await world.worker()
        gateway = await world.gateway(1)
        await world.attach(ROOM, gateway)
        await world.settled()
        world.state.available = False
        ids = await world.publish(ROOM, 3)
        await world.received(gateway, ROOM, ids)
        began_s = world.clock.monotonic_s()
        await first.drain()
        assert world.clock.monotonic_s() - began_s < 11
        await first.close()
        world.workers.remove(first)
        world.state.available = True
        await world.worker()
        await world.settled()
        assert [entry.id for entry in await world.history(ROOM)] == ids
        assert gateway.ids(ROOM) == ids

    play(scenario)
