"""A gateway that does what a test tells it: real sockets and real frames, no engine behind it.

Unlike the real one it has no tokens, no limits and no thinning, keeps its whole history in a list, and sends every
publication in a frame of its own unless told otherwise. JSON only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from msgspec import Raw

from fanout.protocol import json_codec
from fanout.protocol.centrifuge import (
    Command,
    ConnectResult,
    Disconnect,
    Error,
    HistoryResult,
    Malformed,
    Publication,
    PublishResult,
    Push,
    RefreshResult,
    Reply,
    RPCResult,
    SubscribeResult,
    Unsubscribe,
    UnsubscribeResult,
)
from fanout.protocol.websocket import (
    CLOSE,
    TEXT,
    Close,
    FrameParser,
    PlainHttp,
    Refusal,
    ServerHandshake,
    Text,
    accept_response,
    close_payload,
    frame,
)


class Peer(asyncio.Protocol):
    """The gateway's end of one connection."""

    def __init__(self, gateway: ScriptedGateway) -> None:
        self._gateway = gateway
        self._handshake: ServerHandshake | None = ServerHandshake()
        self._parser = FrameParser()
        self.transport: asyncio.Transport | None = None
        self.rooms: set[str] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._gateway.peers.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._gateway.peers.remove(self)

    def data_received(self, data: bytes) -> None:
        assert self.transport is not None
        if self._handshake is not None:
            outcome = self._handshake.feed(data)
            if outcome is None:
                return
            if isinstance(outcome, PlainHttp | Refusal) or self._gateway.refusals:
                self.transport.write(self._gateway.refusals.pop(0))
                self.transport.close()
                return
            self._handshake = None
            self.transport.write(accept_response(outcome))
            data = outcome.rest
        for event in self._parser.feed(data):
            if isinstance(event, Text):
                self._gateway.received.append(event.data)
                for command in json_codec.decode_commands(event.data):
                    assert not isinstance(command, Malformed), command
                    self.send(*self._gateway.answer(self, command))
            elif isinstance(event, Close):
                self._gateway.closes.append(event.code)
                self.transport.close()

    def send(self, *replies: Reply) -> None:
        """Send replies in one frame."""
        if replies:
            self.write(frame(TEXT, json_codec.join([json_codec.encode_reply(reply) for reply in replies])))

    def write(self, data: bytes) -> None:
        """Send bytes as they are."""
        assert self.transport is not None
        self.transport.write(data)


class ScriptedGateway:
    """Holds one history for all rooms; offsets are sparse, as the engine's are."""

    def __init__(self, url: str = "") -> None:
        self.url = url
        self.epoch = "e1"
        self.history: list[tuple[str, Publication]] = []
        self.floor = 0  # positions below it are beyond the history
        self.peers: list[Peer] = []
        self.received: list[bytes] = []
        self.closes: list[int] = []
        self.refusals: list[bytes] = []  # HTTP answers for the next connections
        self.errors: dict[str, Error] = {}  # method → the error of its next call
        self.ping_s = 25
        self.token_ttls: list[int] = []  # seconds that the next tokens are good for; 0 = for good

    @property
    def head(self) -> int:
        return self.history[-1][1].offset if self.history else self.floor

    def publish(self, room: str, *payloads: bytes) -> None:
        """Publish to everybody in the room, all in one frame."""
        pushes = []
        for payload in payloads:
            publication = Publication(data=Raw(payload), offset=self.head + 3)
            self.history.append((room, publication))
            pushes.append(Reply(push=Push(channel=room, pub=publication)))
        for peer in self.peers:
            if room in peer.rooms:
                peer.send(*pushes)

    def unsubscribe(self, room: str, code: int) -> None:
        """Unsubscribe everybody from the room."""
        for peer in self.peers:
            peer.rooms.discard(room)
            peer.send(Reply(push=Push(channel=room, unsubscribe=Unsubscribe(code=code, reason="test"))))

    def disconnect(self, code: int, *, push: bool = False) -> None:
        """End all connections with a close frame, or with a disconnect push before it."""
        for peer in list(self.peers):
            if push:
                peer.send(Reply(push=Push(disconnect=Disconnect(code=code, reason="test", reconnect=code < 3500))))
            else:
                peer.write(frame(CLOSE, close_payload(code, "test")))

    def cut(self) -> None:
        """Abort all connections."""
        for peer in list(self.peers):
            assert peer.transport is not None
            peer.transport.abort()

    def ping(self) -> None:
        """Ping everybody."""
        for peer in self.peers:
            peer.write(frame(TEXT, json_codec.ping))

    def answer(self, peer: Peer, command: Command) -> list[Reply]:
        """Return the replies to a command."""
        error = self.errors.pop(command.method, None)
        if error is not None:
            return [Reply(id=command.id, error=error)]
        reply = Reply(id=command.id)
        if command.connect is not None:
            ttl = self.token_ttls.pop(0) if self.token_ttls else 0
            reply.connect = ConnectResult(
                client=f"c{len(self.peers)}", ping=self.ping_s, pong=True, expires=ttl > 0, ttl=ttl
            )
        elif command.refresh is not None:
            ttl = self.token_ttls.pop(0) if self.token_ttls else 0
            reply.refresh = RefreshResult(client="c", expires=ttl > 0, ttl=ttl)
        elif command.subscribe is not None:
            reply.subscribe = self._subscribe(peer, command)
        elif command.unsubscribe is not None:
            peer.rooms.discard(command.unsubscribe.channel)
            reply.unsubscribe = UnsubscribeResult()
        elif command.publish is not None:
            self.publish(command.publish.channel, bytes(command.publish.data))
            reply.publish = PublishResult()
        elif command.history is not None:
            found = [one for room, one in self.history if room == command.history.channel]
            reply.history = HistoryResult(found[: command.history.limit], epoch=self.epoch, offset=self.head)
        elif command.rpc is not None:
            reply.rpc = RPCResult(data=command.rpc.data)
        else:
            return []
        return [reply]

    def _subscribe(self, peer: Peer, command: Command) -> SubscribeResult:
        request = command.subscribe
        assert request is not None
        peer.rooms.add(request.channel)
        result = SubscribeResult(recoverable=True, positioned=True, epoch=self.epoch, offset=self.head)
        if request.recover:
            result.was_recovering = True
            if request.epoch == self.epoch and request.offset >= self.floor:
                result.recovered, result.offset = True, request.offset
                result.publications = [
                    one for room, one in self.history if room == request.channel and one.offset > request.offset
                ]
        return result


@asynccontextmanager
async def scripted_gateway() -> AsyncIterator[ScriptedGateway]:
    """Serve on a free loopback port; ``url`` is the gateway's WebSocket URL."""
    gateway = ScriptedGateway()
    server = await asyncio.get_running_loop().create_server(lambda: Peer(gateway), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    gateway.url = f"ws://127.0.0.1:{port}/connection/websocket"
    try:
        yield gateway
    finally:
        server.close()
        gateway.cut()
        await asyncio.sleep(0)
        await server.wait_closed()


async def until(met: object, timeout_s: float = 5.0) -> None:
    """Wait until the callable returns something true; fails after ``timeout_s``."""
    assert callable(met)
    async with asyncio.timeout(timeout_s):
        while not met():  # noqa: ASYNC110 - what is waited for is the state of objects that have no event
            await asyncio.sleep(0.005)
