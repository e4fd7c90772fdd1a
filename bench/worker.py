"""What a message costs the room worker: CPU µs with and without history, over many rooms and several gateways.

    python -m bench worker --log memory --store memory --rooms 10000 --messages 200000

CPU is that of this process: fetches, polls, decisions, chunk appends, commits and the event loop, with the client
libraries of the log and the store; the servers' own is not in it. All rooms are in memory when it begins, and all
messages are on the log when the worker may poll (Kafka: put there by another process). Half the rooms are ``live:``
(thinned, mixed classes), half ``group:``. Exit 1 when a message is missing in the ledger or has no fate there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

import msgspec
import uvloop

from bench.engines import add_server_options, servers
from fanout.adapters import apply_topics, open_log, open_store
from fanout.adapters.memory import MemoryLog, Retention
from fanout.core import ledger
from fanout.core.messages import Priority
from fanout.core.profiles import LIVE, Policy, Profiles
from fanout.core.records import ATTACH, CHUNKS, MESSAGE, MESSAGES, PARTITIONS, Attach, Message, encode
from fanout.ports import Assignment, GroupReader, HistoryBatch, HistoryPage, Log, LogRecord, RoomMeta, Store, Topics
from fanout.runtime.clock import SystemClock
from fanout.runtime.process import calm_gc
from sharding.placement import partition_of
from workers.room_worker import RoomWorker

APPEND_AT_ONCE: Final = 500
TIMEOUT_S: Final = 300.0
DATA: Final = b'{"text":"' + b"x" * 100 + b'"}'
PATIENT: Final = msgspec.structs.replace(LIVE, policy=Policy(late_low_ms=0, late_normal_ms=0))  # all lies ready
MIXED: Final = (Priority.NORMAL,) * 16 + (Priority.LOW,) * 3 + (Priority.HIGH,)


@dataclass(frozen=True, slots=True)
class Figures:
    """One run: CPU µs a message, messages a second, and what the ledger says."""

    cpu_us: float
    messages_per_s: float
    accepted: int
    errors: int


class NoHistory:
    """``ports.History`` that stores nothing; it keeps the last state of each room, for the ledger."""

    def __init__(self) -> None:
        self.states: dict[str, bytes] = {}

    async def load(self, rooms: Sequence[tuple[str, str]]) -> Sequence[RoomMeta | None]:
        """Return the states of earlier runs with positions of 0, so that routes are known."""
        return [
            RoomMeta(epoch, 0, 0, 0, 0, 0, 0, self.states[key]) if key in self.states else None for key, epoch in rooms
        ]

    async def store(self, batches: Sequence[HistoryBatch]) -> Sequence[BaseException | None]:
        """Keep the states."""
        for batch in batches:
            self.states[batch.key] = batch.state
        return [None] * len(batches)

    async def read(
        self, key: str, epoch: str, *, after: int, limit: int, bytes_max: int, reverse: bool = False
    ) -> HistoryPage:
        """Return nothing."""
        return HistoryPage(None, (), truncated=False)


class GatedLog:
    """A log whose group readers return nothing while ``gate`` is closed; everything else is ``inner``'s."""

    def __init__(self, inner: Log) -> None:
        self.inner = inner
        self.gate = asyncio.Event()
        self.gate.set()

    async def group_reader(self, topic: str, group: str, assignment: Assignment) -> GroupReader:
        """Join a group behind the gate."""
        return cast(GroupReader, _GatedReader(await self.inner.group_reader(topic, group, assignment), self.gate))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class _GatedReader:
    def __init__(self, inner: GroupReader, gate: asyncio.Event) -> None:
        self.inner = inner
        self.gate = gate

    async def poll(self, records_max: int, timeout_s: float) -> Mapping[int, Sequence[LogRecord]]:
        await self.gate.wait()
        return await self.inner.poll(records_max, timeout_s)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def main(argv: Sequence[str]) -> int:
    """Run the bench; print its figures as one JSON object in the last line."""
    parser = argparse.ArgumentParser(prog="bench worker", description=__doc__)
    add_server_options(parser)
    parser.add_argument("--rooms", type=int, default=10_000)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--gateways", type=int, default=8)
    parser.add_argument("--gateways-per-room", type=int, default=2, help="how many of them a room has sessions on")
    parser.add_argument("--json", action="store_true", help="print the figures alone")
    parser.add_argument("--publish-to", default="", help="only append the messages, to topics with this prefix")
    asked = parser.parse_args(argv)
    if asked.publish_to:
        return uvloop.run(_publish_there(asked))
    with servers(asked) as (asked.log, asked.store):
        without = _run(asked, history=False)
        with_ = _run(asked, history=True)
    lost = 2 * asked.messages - without.accepted - with_.accepted
    errors = without.errors + with_.errors
    figures: dict[str, Any] = {
        "bench": "worker",
        "log": asked.log.partition(":")[0],
        "store": asked.store.partition(":")[0],
        "rooms": asked.rooms,
        "messages": asked.messages,
        "gateways": asked.gateways,
        "gateways_per_room": asked.gateways_per_room,
        "cpu_us_without_history": round(without.cpu_us, 2),
        "cpu_us_with_history": round(with_.cpu_us, 2),
        "messages_per_s_without_history": round(without.messages_per_s),
        "messages_per_s_with_history": round(with_.messages_per_s),
        "lost": lost,
        "ledger_error": errors,
    }
    print(json.dumps(figures))
    return 1 if lost or errors else 0


def _run(asked: argparse.Namespace, *, history: bool) -> Figures:
    return uvloop.run(_measure(asked, history=history))  # as the engine runs


async def _measure(asked: argparse.Namespace, *, history: bool) -> Figures:
    clock = SystemClock()
    prefix = f"bench{time.time_ns() % 10**9}"
    topics = Topics(prefix=prefix)
    log = GatedLog(await _open_log(asked, topics, clock))
    store = await open_store(asked.store, prefix=prefix, clock=clock)
    no_history = NoHistory()
    if not history:
        store = replace(store, history=no_history)
    keys = [_key(room) for room in range(asked.rooms)]
    worker = RoomWorker(log=cast(Log, log), store=store, profiles=Profiles(namespaces={"live": PATIENT}), clock=clock)
    try:
        await worker.start()
        await _attach(log.inner, keys, asked)
        await _finished(worker, log.inner)
        log.gate.clear()
        calm_gc()  # as the engine does
        if asked.log == "memory":
            await publish(log.inner, asked.rooms, asked.messages)
        else:
            await _publish_elsewhere(asked, prefix)
        begun = (time.process_time(), time.monotonic())
        log.gate.set()
        await _finished(worker, log.inner)
        cpu_s, wall_s = time.process_time() - begun[0], time.monotonic() - begun[1]
        await worker.drain()
        states = list(no_history.states.values()) if not history else await _states(store, keys)
        return _figures(states, asked.messages, cpu_s, wall_s)
    finally:
        await worker.close()
        await log.inner.close()
        await store.backend.close()


async def _open_log(asked: argparse.Namespace, topics: Topics, clock: SystemClock) -> Log:
    if asked.log == "memory":
        keep = Retention(2_000_000, 2 << 30, 1 << 40)
        return MemoryLog(topics, clock, {MESSAGES: keep, CHUNKS: Retention(64, 8 << 20, 60_000)})
    await apply_topics(asked.log, topics, replication=1)
    return await open_log(asked.log, topics=topics, clock=clock)


def _key(room: int) -> bytes:
    return f"bench/{'live' if room % 2 else 'group'}:room-{room}".encode()


async def _attach(log: Log, keys: Sequence[bytes], asked: argparse.Namespace) -> None:
    by_partition: dict[int, list[tuple[bytes, bytes]]] = {}
    for room, key in enumerate(keys):
        slots = [(room + i) % asked.gateways for i in range(asked.gateways_per_room)]
        records = by_partition.setdefault(partition_of(key, PARTITIONS[MESSAGES]), [])
        records += [(key, encode(ATTACH, Attach(slot, 1, 1))) for slot in slots]
    for partition, records in by_partition.items():
        await _append(log, partition, records)


async def publish(log: Log, rooms: int, messages: int) -> None:
    """Append messages over all rooms by chance, partition by partition in turn."""
    dice = random.Random(3)
    partitions = list(_by_partition([_key(room) for room in range(rooms)]).items())
    values = [_message(dice, number) for number in range(messages)]
    for index, (partition, keys) in enumerate(partitions):
        share = values[index :: len(partitions)]
        await _append(log, partition, [(dice.choice(keys), value) for value in share])


async def _publish_elsewhere(asked: argparse.Namespace, prefix: str) -> None:
    command = [sys.executable, "-m", "bench", "worker", "--log", asked.log, "--publish-to", prefix]
    command += ["--rooms", str(asked.rooms), "--messages", str(asked.messages)]
    publisher = await asyncio.create_subprocess_exec(*command)
    if await publisher.wait():
        raise RuntimeError("the publishing process failed")


async def _publish_there(asked: argparse.Namespace) -> int:
    log = await open_log(asked.log, topics=Topics(prefix=asked.publish_to), clock=SystemClock())
    await publish(log, asked.rooms, asked.messages)
    await log.close()
    return 0


def _by_partition(keys: Sequence[bytes]) -> dict[int, list[bytes]]:
    by_partition: dict[int, list[bytes]] = {}
    for key in keys:
        by_partition.setdefault(partition_of(key, PARTITIONS[MESSAGES]), []).append(key)
    return by_partition


def _message(dice: random.Random, number: int) -> bytes:
    message = Message(DATA, sender=f"user-{number % 5_000}", type="chat", sent_ms=1)
    return encode(MESSAGE, message, priority=dice.choice(MIXED).value, id=number + 1)


async def _append(log: Log, partition: int, records: Sequence[tuple[bytes, bytes]]) -> None:
    writer = await log.writer(durable=True)
    for start in range(0, len(records), APPEND_AT_ONCE):
        await writer.append_many(MESSAGES, partition, records[start : start + APPEND_AT_ONCE])
    await writer.close()


async def _finished(worker: RoomWorker, log: Log) -> None:
    """Return when everything on the log is decided, chunked and stored."""
    partitions = range(PARTITIONS[MESSAGES])
    ends = {number: end for number, (_, end) in (await log.ends(MESSAGES, partitions)).items()}
    async with asyncio.timeout(TIMEOUT_S):
        while any(worker.position(number) < end for number, end in ends.items()):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.005)


async def _states(store: Store, keys: Sequence[bytes]) -> list[bytes]:
    epochs = [await store.epochs.current(number) for number in range(PARTITIONS[MESSAGES])]
    rooms = [(key.decode(), epochs[partition_of(key, PARTITIONS[MESSAGES])] or "") for key in keys]
    states: list[bytes] = []
    for start in range(0, len(rooms), 1_000):
        states.extend(meta.state for meta in await store.history.load(rooms[start : start + 1_000]) if meta)
    return states


def _figures(states: Sequence[bytes], messages: int, cpu_s: float, wall_s: float) -> Figures:
    reports = [ledger.report(state) for state in states]
    accepted = sum(sum(report["accepted"].values()) for report in reports)
    errors = sum(len(ledger.differences(report)) for report in reports)
    return Figures(cpu_s / messages * 1e6, messages / wall_s, accepted, errors)
