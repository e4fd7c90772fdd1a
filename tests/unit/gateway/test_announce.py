"""What a gateway says on the log, in virtual time, with a real worker or none to answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from fanout.adapters.memory_log import MemoryLog
from fanout.core.errors import Refused
from fanout.core.ledger import differences, report
from fanout.core.limits import ANNOUNCE_S, ATTACH_TIMEOUT_S, DETACH_AFTER_S
from fanout.core.messages import room_key
from fanout.core.records import (
    ANNOUNCE,
    ATTACH,
    DETACH,
    MESSAGES,
    Announce,
    Attach,
    Attached,
    Chunk,
    Detach,
    RoomBatch,
    RoomReport,
    body,
    header,
)
from fanout.gateway.server import Gateway
from fanout.ports import Appended, Clock, HistoryBatch, LogRecord, LogWriter, Topics
from sharding.placement import partition_of
from tests.support.fake_line import FakeLine
from tests.support.live_edge import LiveEdge
from tests.support.virtual_time import LoopClock, run

ROOM = "open:a"
KEY = room_key("dev", ROOM)
PARTITION = partition_of(KEY.encode(), 64)
SUBSCRIBE = b'{"id":5,"subscribe":{"channel":"open:a"}}'


class Scene:
    """An engine in virtual time, and everything that stands in one room's partition."""

    def __init__(self, edge: LiveEdge, gateway: Gateway) -> None:
        self.edge = edge
        self.gateway = gateway

    async def connected(self) -> FakeLine:
        line = FakeLine(self.gateway)
        await line.connect()
        return line

    async def said(self, kind: int, of: type[Any]) -> list[Any]:
        """Return the bodies of all records of a kind in the room's partition."""
        values = [record.value for record in await read_all(self.edge.log, PARTITION) if record.value is not None]
        return [body(value, of) for value in values if header(value).kind == kind]

    async def reports(self) -> list[RoomReport]:
        said: list[Announce] = await self.said(ANNOUNCE, Announce)
        return [one for announce in said for one in announce.rooms if one.key == KEY]

    async def ledger(self) -> dict[str, Any]:
        """Return the room's ledger as the history has it."""
        epoch = await self.edge.store.epochs.current(PARTITION)
        assert epoch is not None
        meta = (await self.edge.store.history.read(KEY, epoch, after=0, limit=0, bytes_max=0)).meta
        assert meta is not None
        return report(meta.state)


async def read_all(log: MemoryLog, partition: int) -> Sequence[LogRecord]:
    """Return what stands in a partition of messages."""
    reader = await log.reader(MESSAGES, [partition])
    reader.seek(partition, 0)
    records = (await reader.poll(10_000, 0)).get(partition, ())
    await reader.close()
    return records


class SlowWriter:
    """A writer whose appends take ``log.pause_s``."""

    def __init__(self, log: SlowLog, writer: LogWriter) -> None:
        self._log, self._writer = log, writer

    async def append(self, topic: str, partition: int, key: bytes | None, value: bytes | None) -> Appended:
        await asyncio.sleep(self._log.pause_s)
        return await self._writer.append(topic, partition, key, value)

    async def append_many(
        self, topic: str, partition: int, records: Sequence[tuple[bytes | None, bytes | None]]
    ) -> Appended:
        await asyncio.sleep(self._log.pause_s)
        return await self._writer.append_many(topic, partition, records)

    async def close(self) -> None:
        await self._writer.close()


class SlowLog(MemoryLog):
    """A log that answers, but late."""

    pause_s = 0.0

    async def writer(self, *, durable: bool) -> LogWriter:  # type: ignore[override]
        return SlowWriter(self, await super().writer(durable=durable))


def play(
    scene: Callable[[Scene], Awaitable[None]], *, worker: bool = True, log: Callable[[Clock], MemoryLog] | None = None
) -> None:
    async def main() -> None:
        clock = LoopClock()
        edge = LiveEdge(clock, log and log(clock))
        if worker:
            await edge.worker.start()
        await edge.sender.start()
        gateway = await edge.gateway()
        try:
            await scene(Scene(edge, gateway))
        finally:
            await edge.close()

    run(main())


def test_a_room_is_attached_once_however_many_subscribe_to_it_at_once() -> None:
    async def scene(scene: Scene) -> None:
        lines = [await scene.connected() for _ in range(50)]
        replies = await asyncio.gather(*(line.ask(SUBSCRIBE) for line in lines))
        assert all(reply.subscribe is not None for reply in replies)
        attaches = await scene.said(ATTACH, Attach)
        assert len(attaches) == 1
        lease = scene.gateway.slot
        assert lease is not None
        assert (attaches[0].slot, attaches[0].generation) == (lease.number, lease.generation)
        await asyncio.sleep(300)
        assert len(await scene.said(ATTACH, Attach)) == 1

    play(scene)


def test_a_room_that_nobody_knows_is_asked_for_again_and_refused_meanwhile() -> None:
    async def scene(scene: Scene) -> None:
        line = await scene.connected()
        reply = await line.ask(SUBSCRIBE)
        assert reply.error is not None and (reply.error.code, reply.error.temporary) == (100, True)
        assert len(await scene.said(ATTACH, Attach)) >= 2
        await scene.edge.worker.start()
        assert (await line.ask(SUBSCRIBE)).subscribe is not None

    play(scene, worker=False)


def test_a_gateway_whose_subscriptions_are_behind_announces_its_pressure() -> None:
    async def scene(scene: Scene) -> None:
        line = await scene.connected()
        await line.ask(SUBSCRIBE)
        await asyncio.sleep(12)
        line.fill()
        await scene.edge.publish("open:a", 1)
        await asyncio.sleep(12)
        pressures = [said.pressure for said in await scene.said(ANNOUNCE, Announce)]
        assert pressures[0] == 0
        assert pressures[-1] > 50

    play(scene)


async def _remember(scene: Scene) -> None:
    store = scene.edge.store
    claim = await store.epochs.claim(PARTITION, 0, scene.edge.clock.wall_ms(), "e1")
    batch = HistoryBatch(
        key=KEY,
        epoch=claim.epoch,
        owner=claim.owner,
        head=7,
        last=7,
        n=3,
        applied=7,
        state=b"",
        entries=[],
        now_ms=scene.edge.clock.wall_ms(),
        reliable_max=10,
        reliable_ttl_ms=600_000,
        recent_max=0,
        recent_ttl_ms=0,
    )
    assert await store.history.store([batch]) == [None]


def test_after_a_second_without_an_answer_the_history_says_where_the_room_stands() -> None:
    async def scene(scene: Scene) -> None:
        await _remember(scene)
        line = await scene.connected()
        begun_s = asyncio.get_running_loop().time()
        reply = await line.ask(SUBSCRIBE)
        assert reply.subscribe is not None and reply.subscribe.offset == 7
        assert ATTACH_TIMEOUT_S <= asyncio.get_running_loop().time() - begun_s < ATTACH_TIMEOUT_S + 0.5
        room = scene.gateway.hub.rooms[KEY]
        assert not room.attached
        late = Attached(room.instance, 7, 7, 7, 3)
        scene.gateway.hub.apply(Chunk(0, [RoomBatch(KEY, 0, PARTITION, 1, "e1", 7, 3, [], late)]))
        assert room.attached

    play(scene, worker=False)


def test_a_room_that_changed_is_reported_within_ten_seconds_and_every_room_within_a_minute() -> None:
    async def scene(scene: Scene) -> None:
        line = await scene.connected()
        await line.ask(SUBSCRIBE)
        await scene.edge.publish(ROOM, 1)
        await asyncio.sleep(ANNOUNCE_S + 0.5)
        reports = await scene.reports()
        assert reports[-1].subscriptions == 1
        assert reports[-1].offered == reports[-1].written == reports[-1].unconfirmed == [0, 0, 1, 0]
        await asyncio.sleep(ANNOUNCE_S)
        quiet = len(await scene.reports())
        await asyncio.sleep(60 + 2 * ANNOUNCE_S)
        assert 1 <= len(await scene.reports()) - quiet <= 2

    play(scene)


def test_reports_and_the_worker_s_ledger_add_up() -> None:
    async def scene(scene: Scene) -> None:
        lines = [await scene.connected() for _ in range(5)]
        for line in lines:
            await line.ask(SUBSCRIBE)
        for number in range(20):
            await scene.edge.publish(ROOM, number)
        await asyncio.sleep(0.5)
        lines[0].fill()
        for number in range(20):
            await scene.edge.publish(ROOM, number)
        await asyncio.sleep(2)
        lines[0].transport.close()
        await asyncio.sleep(2 * ANNOUNCE_S)
        ledger = await scene.ledger()
        assert differences(ledger) == []
        assert ledger["edge"]["offered"]["normal"] == 200
        assert ledger["edge"]["written"]["normal"] == 180
        assert ledger["edge"]["dropped"]["closed"]["normal"] == 20

    play(scene)


def test_a_room_without_a_listener_is_detached_with_its_last_report() -> None:
    async def scene(scene: Scene) -> None:
        line = await scene.connected()
        await line.ask(SUBSCRIBE)
        await scene.edge.publish(ROOM, 1)
        await asyncio.sleep(0.5)
        line.transport.close()
        await asyncio.sleep(DETACH_AFTER_S + 2)
        (detach,) = await scene.said(DETACH, Detach)
        assert detach.report.written == [0, 0, 1, 0]
        assert detach.report.subscriptions == 0
        assert scene.gateway.hub.rooms == {}
        ledger = await scene.ledger()
        assert differences(ledger) == []
        assert ledger["edge"]["unreported"]["normal"] == 0

    play(scene)


def test_a_room_that_is_sent_on_after_the_farewell_is_given_up_again() -> None:
    async def scene(scene: Scene) -> None:
        line = await scene.connected()
        await line.ask(SUBSCRIBE)
        line.transport.close()
        await asyncio.sleep(DETACH_AFTER_S + 2)
        batch = RoomBatch(KEY, 0, PARTITION, 1 << 50, "e", 1, 1, [])
        for _ in range(3):
            scene.gateway.hub.apply(Chunk(0, [batch]))
            await asyncio.sleep(1)
        assert len(await scene.said(DETACH, Detach)) == 2

    play(scene)


def test_farewells_wait_until_the_log_is_back() -> None:
    async def scene(scene: Scene) -> None:
        line = await scene.connected()
        await line.ask(SUBSCRIBE)
        line.transport.close()
        scene.edge.log.available = False
        await asyncio.sleep(DETACH_AFTER_S + 20)
        scene.edge.log.available = True
        await asyncio.sleep(2)
        assert len(await scene.said(DETACH, Detach)) == 1

    play(scene)


def test_reports_that_could_not_be_appended_are_made_up_for() -> None:
    async def scene(scene: Scene) -> None:
        line = await scene.connected()
        await line.ask(SUBSCRIBE)
        await scene.edge.publish(ROOM, 1)
        await asyncio.sleep(0.5)
        scene.edge.log.available = False
        await asyncio.sleep(30)
        scene.edge.log.available = True
        await asyncio.sleep(ANNOUNCE_S + 1)
        assert (await scene.reports())[-1].written == [0, 0, 1, 0]

    play(scene)


def test_a_fenced_gateway_closes_its_old_stays_and_nothing_is_counted_twice() -> None:
    async def scene(scene: Scene) -> None:
        edge, gateway = scene.edge, scene.gateway
        lines = [await scene.connected() for _ in range(4)]
        for line in lines:
            await line.ask(SUBSCRIBE)
        lines[0].fill()
        for number in range(10):
            await edge.publish(ROOM, number)
        await asyncio.sleep(1)
        before = gateway.slot
        assert before is not None
        await edge.put_chunk(gateway, [], generation=before.generation + 1)
        await asyncio.sleep(5)
        assert gateway.slot is not None and gateway.slot.generation > before.generation
        for number in range(10):
            await edge.publish(ROOM, number)
        await asyncio.sleep(1)
        lines[0].drain()
        await asyncio.sleep(3 * ANNOUNCE_S)
        assert [len(line.pushes) for line in lines] == [20, 20, 20, 20]
        ledger = await scene.ledger()
        assert differences(ledger) == []
        edge_ledger = ledger["edge"]
        assert edge_ledger["written"]["normal"] == edge_ledger["offered"]["normal"] == 80
        assert edge_ledger["unreported"]["normal"] == 0

    play(scene)


def test_a_lost_lease_is_noticed_by_the_renewal_too() -> None:
    async def scene(scene: Scene) -> None:
        edge, gateway = scene.edge, scene.gateway
        line = await scene.connected()
        await line.ask(SUBSCRIBE)
        before = gateway.slot
        assert before is not None
        edge.state.leases.clear()  # as FLUSHALL does
        other = await edge.store.leases.acquire("slots", 256, "other", "", edge.clock.wall_ms() + 10**6, 10_000)
        assert other is not None and other.number == before.number
        await asyncio.sleep(10)
        assert gateway.slot is not None and gateway.slot.number != before.number
        assert gateway.readiness()["chunk_slot"]
        await edge.publish(ROOM, 1)
        await asyncio.sleep(1)
        assert len(line.pushes) == 1

    play(scene)


def test_without_a_slot_rooms_are_refused_until_there_is_one() -> None:
    async def scene(scene: Scene) -> None:
        scene.edge.state.available = False
        gateway = await scene.edge.gateway()
        assert not gateway.readiness()["chunk_slot"]
        line = FakeLine(gateway)
        await line.connect()
        reply = await line.ask(SUBSCRIBE)
        assert reply.error is not None and reply.error.code == 100
        scene.edge.state.available = True
        await asyncio.sleep(5)
        assert gateway.readiness()["chunk_slot"]
        assert (await line.ask(SUBSCRIBE)).subscribe is not None

    play(scene)


def test_presence_stats_add_up_over_gateways() -> None:
    async def scene(scene: Scene) -> None:
        other = await scene.edge.gateway()
        token = scene.edge.token("ann")
        for gateway in (scene.gateway, other):
            for _ in range(2):
                line = FakeLine(gateway)
                await line.connect(token)
                await line.ask(SUBSCRIBE)
        await asyncio.sleep(ANNOUNCE_S + 2)
        reply = await line.ask(b'{"id":9,"presence_stats":{"channel":"open:a"}}')
        assert reply.presence_stats is not None
        assert (reply.presence_stats.num_clients, reply.presence_stats.num_users) == (4, 2)
        scene.edge.state.available = False
        reply = await line.ask(b'{"id":10,"presence_stats":{"channel":"open:a"}}')
        assert reply.presence_stats is not None
        assert (reply.presence_stats.num_clients, reply.presence_stats.num_users) == (2, 1)
        scene.edge.state.available = True

    play(scene)


def test_a_room_is_not_known_before_somebody_says_so() -> None:
    async def scene(scene: Scene) -> None:
        services = scene.gateway.services
        room = services.hub.open(KEY, services.profiles.of(ROOM))
        with pytest.raises(Refused):
            await services.announcer.make_known(room)
        assert room.log is None

    play(scene, worker=False)


def test_a_log_that_is_slow_to_take_an_attach_does_not_hold_up_the_answer_from_history() -> None:
    async def scene(scene: Scene) -> None:
        first = await scene.connected()
        await first.ask(SUBSCRIBE)
        await scene.edge.publish(ROOM, 1)
        await asyncio.sleep(1)
        other = FakeLine(await scene.edge.gateway())
        await other.connect()
        assert isinstance(scene.edge.log, SlowLog)
        scene.edge.log.pause_s = 8.0
        asked_s = scene.edge.clock.monotonic_s()
        assert (await other.ask(SUBSCRIBE)).subscribe is not None
        assert scene.edge.clock.monotonic_s() - asked_s < ATTACH_TIMEOUT_S + 0.5
        scene.edge.log.pause_s = 0.0

    play(scene, log=lambda clock: SlowLog(Topics(), clock))


def test_many_rooms_that_fall_silent_together_are_given_up_side_by_side() -> None:
    async def scene(scene: Scene) -> None:
        line = await scene.connected()
        for number in range(100):
            await line.ask(b'{"id":%d,"subscribe":{"channel":"open:r%d"}}' % (number + 2, number))
            await asyncio.sleep(0.1)
        line.transport.close()
        assert isinstance(scene.edge.log, SlowLog)
        scene.edge.log.pause_s = 0.5
        await asyncio.sleep(DETACH_AFTER_S + 3)
        scene.edge.log.pause_s = 0.0
        assert not scene.gateway.hub.rooms
        detaches = [
            body(record.value, Detach)
            for partition in range(scene.edge.log.partitions(MESSAGES))
            for record in await read_all(scene.edge.log, partition)
            if record.value is not None and header(record.value).kind == DETACH
        ]
        assert len(detaches) == 100

    play(scene, log=lambda clock: SlowLog(Topics(), clock))
