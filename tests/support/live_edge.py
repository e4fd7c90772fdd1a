"""Sender, room worker and gateways on the twins in the test's own loop, and raw clients that see every byte.

Unlike the embedded engine it has no HTTP API and no command line, and a test can take the log and the store away, put
records where it likes, and run several gateways.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from fanout.adapters.memory import MemoryLog, MemoryState, memory_store
from fanout.core.profiles import Profiles
from fanout.core.publish import Publish, Published
from fanout.core.records import CHUNK, CHUNKS, Chunk, RoomBatch, encode
from fanout.gateway.server import Gateway, GatewaySettings
from fanout.ports import Clock, Topics
from fanout.protocol.centrifuge import (
    Command,
    ConnectRequest,
    ConnectResult,
    Publication,
    Push,
    Reply,
    SubscribeRequest,
    SubscribeResult,
    WireFormat,
)
from fanout.protocol.codecs import CODECS
from fanout.runtime.apps import DEV_APP, DEV_SECRET, Apps
from fanout.runtime.clock import SystemClock
from fanout.runtime.tokens import Tokens, mint
from fanout.sender.sender import Sender
from workers.room_worker import RoomWorker

WAIT_S = 10.0


class Client:
    """One WebSocket, one wire format. Pings are answered as an SDK does, unless ``answers_pings`` is off."""

    def __init__(self, socket: ClientConnection, wire_format: WireFormat) -> None:
        self.socket = socket
        self.codec = CODECS[wire_format]
        self.replies: asyncio.Queue[Reply] = asyncio.Queue()
        self.pushes: asyncio.Queue[Push] = asyncio.Queue()
        self.pings = 0
        self.answers_pings = True
        self.closed: tuple[int, str] | None = None
        self._ids = itertools.count(1)
        self._reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        try:
            async for message in self.socket:
                data = message.encode() if isinstance(message, str) else message
                for reply in self.codec.decode_replies(data):
                    await self._sort(reply)
        except ConnectionClosed:
            pass
        self.closed = (self.socket.close_code or 0, self.socket.close_reason or "")

    async def _sort(self, reply: Reply) -> None:
        if reply.is_ping:
            self.pings += 1
            if self.answers_pings:
                await self.send_raw(self.codec.ping)
        elif reply.push is not None:
            self.pushes.put_nowait(reply.push)
        else:
            self.replies.put_nowait(reply)

    async def send_raw(self, data: bytes) -> None:
        """Send bytes as one message of the wire format."""
        await self.socket.send(data.decode() if self.codec.opcode == 1 else data)

    async def ask(self, **request: Any) -> Reply:
        """Send one command and return its reply, whatever it is."""
        command = Command(id=next(self._ids), **request)
        await self.send_raw(self.codec.join([self.codec.encode_command(command)]))
        reply = await asyncio.wait_for(self.replies.get(), WAIT_S)
        assert reply.id == command.id, reply
        return reply

    async def connect(self, token: str = "", subs: dict[str, SubscribeRequest] | None = None) -> ConnectResult:
        """Connect; fails unless it was accepted."""
        reply = await self.ask(connect=ConnectRequest(token=token, subs=subs or {}))
        assert reply.connect is not None, reply.error
        return reply.connect

    async def subscribe(self, room: str, **fields: Any) -> SubscribeResult:
        """Subscribe; fails unless it was accepted."""
        reply = await self.ask(subscribe=SubscribeRequest(channel=room, **fields))
        assert reply.subscribe is not None, reply.error
        return reply.subscribe

    async def error(self, **request: Any) -> tuple[int, bool]:
        """Send a command that is refused; return (code, temporary)."""
        reply = await self.ask(**request)
        assert reply.error is not None, reply
        return reply.error.code, reply.error.temporary

    async def push(self) -> Push:
        """Return the next push."""
        return await asyncio.wait_for(self.pushes.get(), WAIT_S)

    async def publications(self, count: int) -> list[Publication]:
        """Return the next ``count`` publications."""
        found = []
        for _ in range(count):
            push = await self.push()
            assert push.pub is not None, push
            found.append(push.pub)
        return found

    async def data(self, count: int) -> list[Any]:
        """Return the decoded payloads of the next ``count`` publications."""
        return [msgspec.json.decode(bytes(one.data)) for one in await self.publications(count)]

    async def end(self) -> int:
        """Wait until the server has closed; return the close code."""
        await asyncio.wait_for(asyncio.shield(self._reading), WAIT_S)
        assert self.closed is not None
        return self.closed[0]

    async def leave(self) -> None:
        """Close the connection."""
        await self.socket.close()
        await self._reading


class LiveEdge:
    """All roles of a small engine."""

    def __init__(self, clock: Clock, log: MemoryLog | None = None) -> None:
        self.clock = clock
        self.log = log or MemoryLog(Topics(), clock)
        self.state = MemoryState()
        self.store = memory_store(clock, self.state)
        self.profiles = Profiles(insecure=True)
        self.worker = RoomWorker(log=self.log, store=self.store, profiles=self.profiles, clock=clock)
        self.sender = Sender(log=self.log, store=self.store, profiles=self.profiles, clock=clock, holder="test")
        self.tokens = Tokens(Apps.insecure(), clock)
        self.gateways: list[Gateway] = []
        self.clients: list[Client] = []

    async def gateway(self, http_app: Any = None, **settings: Any) -> Gateway:
        """Start a gateway."""
        gateway = Gateway(
            log=self.log,
            store=self.store,
            profiles=self.profiles,
            tokens=self.tokens,
            sender=self.sender,
            clock=self.clock,
            settings=GatewaySettings(insecure=True, **settings),
            http_app=http_app,
        )
        await gateway.start()
        self.gateways.append(gateway)
        return gateway

    async def client(
        self,
        wire_format: WireFormat = WireFormat.JSON,
        *,
        gateway: Gateway | None = None,
        query: str = "",
        origin: str | None = None,
    ) -> Client:
        """Open a WebSocket."""
        port = (gateway or self.gateways[0]).port
        subprotocol = f"centrifuge-{wire_format.value}"
        socket = await connect(
            f"ws://127.0.0.1:{port}/connection/websocket{query}",
            subprotocols=[subprotocol],  # type: ignore[list-item]
            ping_interval=None,
            compression=None,
            max_size=1 << 24,
            origin=origin,  # type: ignore[arg-type]
            proxy=None,
        )
        client = Client(socket, wire_format)
        self.clients.append(client)
        return client

    async def listener(self, room: str, wire_format: WireFormat = WireFormat.JSON, **options: Any) -> Client:
        """Open a WebSocket, connect as a guest and subscribe."""
        client = await self.client(wire_format, **options)
        await client.connect()
        await client.subscribe(room)
        return client

    async def publish(self, room: str, data: object, priority: str = "normal") -> Published:
        """Publish as the application."""
        publish = Publish(room=room, data=msgspec.Raw(msgspec.json.encode(data)), priority=priority)
        return await self.sender.publish(DEV_APP, publish)

    def token(self, user: str, *, expires_in_s: int = 600, **claims: Any) -> str:
        """Return a token of the app ``dev``."""
        expires_s = self.clock.wall_ms() // 1_000 + expires_in_s
        return mint(DEV_SECRET, app=DEV_APP, user=user, expires_s=expires_s, **claims)

    async def put_chunk(self, gateway: Gateway, batches: Sequence[RoomBatch], generation: int | None = None) -> None:
        """Append a chunk to a gateway's partition, as a worker does."""
        lease = gateway.slot
        assert lease is not None
        writer = await self.log.writer(durable=False)
        record = encode(CHUNK, Chunk(lease.number, list(batches)), id=generation or lease.generation)
        await writer.append(CHUNKS, lease.number, None, record)
        await writer.close()

    async def until(self, truth: Any, what: str = "it") -> None:
        """Wait until a condition holds."""
        for _ in range(int(WAIT_S / 0.01)):
            if truth():
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"{what} never came true")

    def check_ledgers(self) -> None:
        """Every room of every gateway adds up."""
        for gateway in self.gateways:
            for room in gateway.hub.rooms.values():
                assert room.ledger.balance == (0, 0, 0, 0), room.key

    async def close(self) -> None:
        """End everything."""
        for client in self.clients:
            await client.leave()
        self.check_ledgers()
        for gateway in self.gateways:
            await gateway.close()
        await self.worker.close()
        await self.sender.close()


@asynccontextmanager
async def live_edge(gateways: int = 1, **settings: Any) -> AsyncIterator[LiveEdge]:
    """Run a worker, a sender and gateways until the block ends."""
    edge = LiveEdge(SystemClock())
    await edge.worker.start()
    await edge.sender.start()
    for _ in range(gateways):
        await edge.gateway(**settings)
    try:
        yield edge
    finally:
        edge.state.available = edge.log.available = True
        await edge.close()
