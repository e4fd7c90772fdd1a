"""A gateway's inside without sockets: hub, sweeper and history on a memory store, and sessions that only remember.

Unlike the real thing nothing is encrypted, framed by a kernel or slow by itself: a listener's socket is full when the
test says so.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

from fanout.adapters.memory import MemoryState, memory_store
from fanout.core.errors import CloseCode
from fanout.core.limits import RINGS_BYTES_MAX
from fanout.core.messages import Kind
from fanout.core.profiles import Profiles
from fanout.core.records import Attached, Chunk, Entry, RoomBatch, encode_body
from fanout.gateway.edge_ledger import DropReason
from fanout.gateway.history import EdgeHistory
from fanout.gateway.hub import Hub
from fanout.gateway.recovery import Recovery, Resumed
from fanout.gateway.room import Room, Subscription
from fanout.gateway.sweep import Sweeper
from fanout.gateway.wires import IS_DEFLATED, WIRE_CODECS
from fanout.ports import Clock, HistoryBatch, HistoryEntry
from fanout.protocol import websocket
from fanout.protocol.centrifuge import Publication
from sharding.placement import partition_of

ROOM = "live:r"
KEY = f"dev/{ROOM}"
PARTITIONS = 64
PARTITION = partition_of(KEY.encode(), PARTITIONS)
EPOCH = "e1"


class Listener:
    """A session that keeps what it is given. ``budget`` bytes fit its socket, None = any number."""

    def __init__(self, world: EdgeWorld, wire: int = 0, user: str = "", *, server_side: bool = False) -> None:
        self.world = world
        self.wire = wire
        self.user = user
        self.paused = False
        self.budget: int | None = None
        self.received: list[Publication] = []
        self.frames: list[bytes] = []
        self.ended: CloseCode | None = None
        self.replayed: list[Entry] = []
        self.subscription: Subscription | None = None
        parser = websocket.InflatingParser if IS_DEFLATED[wire] else websocket.FrameParser
        self._parser = parser(masked=False, message_bytes_max=1 << 24)
        self._server_side = server_side

    @property
    def sink(self) -> Listener:
        return self

    def write(self, frame: bytes) -> None:
        assert self.ended is None, "nothing is written to those who left"
        self.frames.append(frame)
        for event in self._parser.feed(frame):
            assert isinstance(event, websocket.Text | websocket.Binary)
            for reply in WIRE_CODECS[self.wire].decode_replies(event.data):
                assert reply.push is not None and reply.push.pub is not None
                assert reply.push.channel == ROOM
                self.received.append(reply.push.pub)
        if self.budget is not None:
            self.budget -= len(frame)
            self._pause(self.budget <= 0)

    def close(self, code: CloseCode) -> None:
        self.ended = code
        self.leave()

    def end_subscription(self, subscription: Subscription, code: CloseCode, reason: DropReason) -> None:
        self.ended = code
        self.leave(reason)

    def join(self) -> Resumed:
        """Subscribe without a position."""
        subscription = Subscription(self, self.world.room, server_side=self._server_side)
        resumed = self.world.recovery.fresh(subscription)
        self._joined(subscription, resumed)
        return resumed

    async def resume(self, offset: int, epoch: str = EPOCH) -> Resumed | None:
        """Subscribe from a position."""
        page = await self.world.recovery.prepare(self.world.room, epoch, offset)
        subscription = Subscription(self, self.world.room)
        resumed = self.world.recovery.resume(subscription, epoch, offset, page)
        if resumed is not None:
            self.replayed += resumed.entries
            self._joined(subscription, resumed)
        return resumed

    def _joined(self, subscription: Subscription, resumed: Resumed) -> None:
        self.subscription = subscription
        self.world.hub.subscribed(self.world.room)
        if resumed.behind:
            self.world.sweeper.is_behind(subscription)

    def leave(self, reason: DropReason = DropReason.CLOSED) -> None:
        """End the subscription."""
        if self.subscription is not None:
            self.subscription.room.leave(self.subscription, reason)
            self.world.hub.unsubscribed(self.subscription.room)
            self.subscription = None

    def stall(self, budget: int = 0) -> None:
        """Let ``budget`` bytes through, then no more."""
        self.budget = budget
        self._pause(budget <= 0)

    def _pause(self, paused: bool) -> None:
        self.paused = paused
        if paused and self.subscription is not None:
            self.world.sweeper.stalled([self.subscription])

    def flow(self, budget: int | None = None) -> None:
        """Let everything (or ``budget`` bytes) through again."""
        self.budget, self.paused = budget, False
        if self.subscription is not None:
            self.world.sweeper.is_behind(self.subscription)

    @property
    def offsets(self) -> list[int]:
        """Offsets that this session has seen: of its replay, and of what followed."""
        followed = [publication.offset for publication in self.received if publication.offset]
        return [entry.offset for entry in self.replayed] + followed


class EdgeWorld:
    """One room, the worker that feeds it (this class) and whoever listens. Use inside a running loop."""

    def __init__(self, clock: Clock, *, rings_bytes_max: int = RINGS_BYTES_MAX) -> None:
        self.clock = clock
        self.state = MemoryState()
        self.store = memory_store(clock, self.state)
        self.history = EdgeHistory(self.store)
        self.recovery = Recovery(self.history, clock)
        self.sweeper = Sweeper(history=self.history, clock=clock)
        self.strays: list[str] = []
        self.hub = Hub(
            history=self.history,
            clock=clock,
            partitions=PARTITIONS,
            on_work=self.sweeper.room_has_work,
            on_behind=self.sweeper.is_behind,
            on_stray=self.strays.append,
            rings_bytes_max=rings_bytes_max,
        )
        self.sweeper.use(self.hub)
        self.room: Room = self.hub.open(KEY, Profiles().of(ROOM))
        self.epoch = EPOCH
        self.offset = 10  # of the newest record
        self.last = 10
        self.head = 10
        self.n = 0
        self.floor = 10
        self._ids = itertools.count(1)

    def start(self) -> None:
        """Attach the room and begin to sweep."""
        self.sweeper.start()
        self.attach()

    def attach(self) -> None:
        """Answer the room's Attach."""
        attached = Attached(self.room.instance, self.head, self.last, self.floor, self.n)
        self.give(self.batch([], attached=attached))

    def entry(self, kind: Kind = Kind.RELIABLE, data: bytes = b'{"t":1}', priority: int = 2, gap: int = 1) -> Entry:
        """Return the next publication of the room."""
        self.offset += gap
        if kind is Kind.RELIABLE:
            self.n += 1
        now_ms = self.clock.wall_ms()
        entry = Entry(
            self.offset, 0, kind.value, priority, self.last, self.n, next(self._ids), now_ms, now_ms, data, sender="ann"
        )
        if kind is Kind.RELIABLE:
            self.last = self.offset
        if kind is not Kind.EPHEMERAL:
            self.head = self.offset
        return entry

    def batch(
        self, entries: Sequence[Entry], *, attached: Attached | None = None, owner: int = 1, prev: int | None = None
    ) -> RoomBatch:
        """Return entries as a worker sends them."""
        if prev is None:
            prev = entries[0].prev if entries else self.last
        return RoomBatch(KEY, 0, PARTITION, owner, self.epoch, prev, self.n, list(entries), attached)

    def give(self, *batches: RoomBatch) -> None:
        """Hand a chunk to the hub."""
        self.hub.apply(Chunk(0, list(batches)))

    async def remember(self, entries: Sequence[Entry], *, reliable_max: int = 10_000) -> None:
        """Store entries in the history."""
        stored = [
            HistoryEntry(one.offset, one.kind, one.prev, one.at_ms, encode_body(one))
            for one in entries
            if one.kind != Kind.EPHEMERAL.value
        ]
        results = await self.store.history.store(
            [
                HistoryBatch(
                    key=KEY,
                    epoch=self.epoch,
                    owner=1,
                    head=self.head,
                    last=self.last,
                    n=self.n,
                    applied=self.offset,
                    state=b"",
                    entries=stored,
                    now_ms=self.clock.wall_ms(),
                    reliable_max=reliable_max,
                    reliable_ttl_ms=600_000,
                    recent_max=100,
                    recent_ttl_ms=600_000,
                )
            ]
        )
        assert results == [None]

    async def publish(self, *entries: Entry) -> None:
        """Entries go to the gateway and into the history."""
        self.give(self.batch(entries))
        await self.remember(entries)

    async def settle(self) -> None:
        """Let the sweeper come to its end."""
        for _ in range(100_000):
            await asyncio.sleep(0)
            if self.sweeper.is_idle and self.room.hole is None:
                return
        raise AssertionError("the sweeper does not come to an end")

    async def close(self) -> None:
        """Stop the sweeper."""
        await self.sweeper.close()

    def check_ledger(self) -> None:
        """offered = written + dropped + pending, and pending is what the cursors say."""
        ledger = self.room.ledger
        assert ledger.balance == (0, 0, 0, 0)
        pending = [self.room.pending_of(subscription) for subscription in self.room]
        assert tuple(map(sum, zip(*pending, strict=True))) == (ledger.pending if pending else ())
        assert all(count >= 0 for count in ledger.pending)
        assert pending or ledger.pending == (0, 0, 0, 0)
