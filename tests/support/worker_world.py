"""Room workers, a log and a store in one process: what senders append, what gateways receive, what is stored.

The gateways here apply the rules of DESIGN §3 to what they read (generations, owners, repeats by high mark), so that a
test sees what a client would; sessions and frames are another test's subject.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from fanout.core import ledger
from fanout.core.messages import Priority
from fanout.core.profiles import Profiles
from fanout.core.records import (
    ANNOUNCE,
    CHUNKS,
    DEAD,
    MESSAGES,
    Announce,
    Chunk,
    Entry,
    Parked,
    RoomBatch,
    RoomReport,
    body,
    decode_body,
    encode,
    header,
)
from fanout.ports import Appended, Clock, Lease, Log, LogReader, LogWriter, RoomMeta, Store
from sharding.placement import partition_of
from tests.support.rooms import attach, message
from workers.room_worker import RoomWorker

WAIT_S = 30.0


async def until(done: Callable[[], bool] | Callable[[], Awaitable[bool]], what: str, wait_s: float = WAIT_S) -> None:
    """Return when ``done``; fails with ``what`` after a bounded time of the running loop."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + wait_s
    while True:
        found = done()
        if found if isinstance(found, bool) else await found:
            return
        assert loop.time() < deadline_s, f"not in {wait_s} s: {what}"
        await asyncio.sleep(0.01)


class ChunkReader:
    """A gateway's chunk partition, read as a gateway reads it. ``batches`` is what was applied, in order."""

    def __init__(self, slot: int, generation: int, reader: LogReader) -> None:
        self.slot = slot
        self.generation = generation
        self.batches: list[RoomBatch] = []
        self.refused: list[str] = []
        self._reader = reader
        self._owners: dict[int, int] = {}
        self._high: dict[tuple[str, str], tuple[int, int]] = {}

    async def read_for_ever(self) -> None:
        """Apply chunks until cancelled."""
        while True:
            for record in (await self._reader.poll(1_000, 0.2)).get(self.slot, ()):
                assert record.value is not None
                self.apply(record.value)

    def apply(self, value: bytes) -> None:
        """Apply a chunk, or refuse it or parts of it."""
        if header(value).id != self.generation:
            self.refused.append("generation")
            return
        for batch in body(value, Chunk).rooms:
            if batch.owner < self._owners.get(batch.partition, 0):
                self.refused.append("owner")
                continue
            self._owners[batch.partition] = batch.owner
            mark = self._high.get((batch.key, batch.epoch), (-1, 0))
            fresh = [entry for entry in batch.entries if (entry.offset, entry.part) > mark]
            self.refused.extend(["repeat"] * (len(batch.entries) - len(fresh)))
            if fresh:
                self._high[batch.key, batch.epoch] = (fresh[-1].offset, fresh[-1].part)
            if fresh or batch.attached is not None:
                self.batches.append(msgspec.structs.replace(batch, entries=fresh))

    def entries(self, room: str, epoch: str | None = None) -> list[Entry]:
        """Return the publications of a room (of one epoch), in the order in which they came."""
        return [
            entry
            for batch in self.batches
            if batch.key == room and epoch in (None, batch.epoch)
            for entry in batch.entries
        ]

    def ids(self, room: str) -> list[int]:
        """Return the message ids of a room, in the order in which they came."""
        return [entry.id for entry in self.entries(room)]

    def answers(self, room: str) -> list[RoomBatch]:
        """Return the answers to attaches and announces."""
        return [batch for batch in self.batches if batch.key == room and batch.attached is not None]


class World:
    """One log, one store, any number of workers and gateways. ``close`` ends all of them."""

    def __init__(self, log: Log, store: Store, clock: Clock) -> None:
        self.log = log
        self.store = store
        self.clock = clock
        self.profiles = Profiles(insecure=True)
        self.workers: list[RoomWorker] = []
        self.gateways: list[ChunkReader] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._writer: LogWriter | None = None
        self._ids = 0

    async def worker(self, log: Log | None = None, store: Store | None = None) -> RoomWorker:
        """Start a worker (with a log or a store of its own where a fault is to hit it alone)."""
        worker = RoomWorker(log=log or self.log, store=store or self.store, profiles=self.profiles, clock=self.clock)
        await worker.start()
        self.workers.append(worker)
        return worker

    async def gateway(self, slot: int, generation: int = 1, *, lease_ms: int = 3_600_000) -> ChunkReader:
        """Begin to read a slot's chunks, holding its lease for so long."""
        await self.store.leases.renew(Lease("slots", slot, generation, "test", "", 0), lease_ms)
        gateway = ChunkReader(slot, generation, await self.log.reader(CHUNKS, [slot]))
        self.gateways.append(gateway)
        self._tasks.append(asyncio.create_task(gateway.read_for_ever()))
        return gateway

    async def append(self, room: str, value: bytes | None) -> Appended:
        """Append a record with the room's key where it belongs."""
        if self._writer is None:
            self._writer = await self.log.writer(durable=True)
        key = room.encode()
        return await self._writer.append(MESSAGES, self.partition(room), key, value)

    async def append_to(self, partition: int, key: bytes | None, value: bytes | None) -> Appended:
        """Append a record to a partition."""
        if self._writer is None:
            self._writer = await self.log.writer(durable=True)
        return await self._writer.append(MESSAGES, partition, key, value)

    async def publish(self, room: str, count: int = 1, priority: Priority = Priority.HIGH) -> list[int]:
        """Append messages; return their ids."""
        ids = []
        for _ in range(count):
            self._ids += 1
            await self.append(room, message(priority, self._ids, data=b'{"n":%d}' % self._ids))
            ids.append(self._ids)
        return ids

    async def attach(self, room: str, gateway: ChunkReader) -> RoomBatch:
        """Attach a room to a gateway; return the answer."""
        answers = len(gateway.answers(room))
        await self.append(room, attach(gateway.slot, gateway.generation))
        await until(lambda: len(gateway.answers(room)) > answers, f"answer to the attach of {room}")
        return gateway.answers(room)[-1]

    async def announce(self, gateway: ChunkReader, *reports: RoomReport) -> None:
        """Append an Announce to the partition of the first room (and no key)."""
        value = encode(ANNOUNCE, Announce(gateway.slot, gateway.generation, 0, list(reports)))
        await self.append_to(self.partition(reports[0].key), None, value)

    def partition(self, room: str) -> int:
        """Return the partition of a room."""
        return partition_of(room.encode(), self.log.partitions(MESSAGES))

    async def received(self, gateway: ChunkReader, room: str, ids: list[int]) -> None:
        """Wait until a gateway has these messages; check that it has no others, in order, once."""
        await until(lambda: len(gateway.ids(room)) >= len(ids), f"{len(ids)} publications of {room}")
        assert gateway.ids(room) == ids

    async def settled(self) -> None:
        """Wait until everything on the log is decided, stored and ready to be committed by somebody."""

        async def done() -> bool:
            ends = await self.log.ends(MESSAGES, range(self.log.partitions(MESSAGES)))
            return all(
                max((worker.position(number) for worker in self.workers), default=0) >= end
                for number, (_, end) in ends.items()
            )

        await until(done, "everything decided and stored")

    async def meta(self, room: str) -> RoomMeta | None:
        """Return what the store has of a room."""
        epoch = await self.store.epochs.current(self.partition(room))
        assert epoch is not None
        page = await self.store.history.read(room, epoch, after=0, limit=0, bytes_max=1)
        return page.meta

    async def history(self, room: str) -> list[Entry]:
        """Return the stored publications of a room, in the epoch that is in force."""
        epoch = await self.store.epochs.current(self.partition(room))
        assert epoch is not None
        page = await self.store.history.read(room, epoch, after=0, limit=1_000, bytes_max=1 << 24)
        return [decode_body(entry, Entry) for entry in page.entries]

    async def ledger(self, room: str) -> dict[str, Any]:
        """Return the stored ledger of a room; it must add up."""
        meta = await self.meta(room)
        report = ledger.report(meta.state if meta is not None else b"")
        assert ledger.differences(report) == []
        return report

    async def dead(self) -> list[Parked]:
        """Return the dead letters."""
        ((earliest, end),) = (await self.log.ends(DEAD, [0])).values()
        reader = await self.log.reader(DEAD, [0])
        reader.seek(0, earliest)
        found: list[Parked] = []
        deadline_s = time.monotonic() + WAIT_S
        while len(found) < end - earliest and time.monotonic() < deadline_s:
            for record in (await reader.poll(1_000, 0.2)).get(0, ()):
                assert record.value is not None
                found.append(msgspec.json.decode(record.value, type=Parked))
        await reader.close()
        return found

    async def close(self) -> None:
        """End workers and gateways."""
        for worker in self.workers:
            await worker.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
