"""A client on a transport that is a list of bytes, for the virtual loop: what a gateway writes is read at once.

Unlike a socket it never fails and has no kernel: ``full`` says how many bytes wait in front of it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from fanout.core.limits import WRITE_HIGH_WATER_BYTES
from fanout.gateway.connection import Connection
from fanout.gateway.server import Gateway
from fanout.protocol import json_codec, websocket
from fanout.protocol.centrifuge import Push, Reply

UPGRADE = (
    b"GET /connection/websocket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%b\r\n"
)
MASK = b"\x01\x02\x03\x04"


class FakeTransport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self, line: FakeLine, address: str) -> None:
        super().__init__()
        self._line = line
        self._address = address
        self.full = 0
        self.is_closed = False
        self.is_aborted = False
        self.lingers = False  # closing waits until the peer has read everything, and it does not
        self.has_eof = False

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        assert not self.is_closed, "nothing is written to a closed transport"
        if self.full:
            self.full += len(data)
        self._line.got(bytes(data))

    def get_write_buffer_size(self) -> int:
        return self.full

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == WRITE_HIGH_WATER_BYTES

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return (self._address, 1) if name == "peername" else default

    def write_eof(self) -> None:
        self.has_eof = True

    def close(self) -> None:
        if not self.is_closed and (self.is_aborted or not self.lingers):
            self.is_closed = True
            asyncio.get_running_loop().call_soon(self._line.connection.connection_lost, None)

    def abort(self) -> None:
        self.is_aborted = True
        self.close()


class FakeLine:
    """One client: JSON, pings answered unless ``answers_pings`` is off."""

    def __init__(self, gateway: Gateway, *, address: str = "10.0.0.1") -> None:
        self.connection: Connection = gateway.new_connection()
        self.transport = FakeTransport(self, address)
        self.head = b""
        self.replies: list[Reply] = []
        self.pushes: list[Push] = []
        self.pings = 0
        self.pongs = 0
        self.code: int | None = None
        self.answers_pings = True
        self.echoes_close = True
        self._parser: websocket.FrameParser | None = None
        self.connection.connection_made(self.transport)

    def got(self, data: bytes) -> None:
        if self._parser is None:
            self.head += data
            if self.head.startswith(b"HTTP/1.1 101"):
                assert self.head.endswith(b"\r\n\r\n")
                has_deflate = b"\r\nSec-WebSocket-Extensions: permessage-deflate" in self.head
                parser = websocket.InflatingParser if has_deflate else websocket.FrameParser
                self._parser = parser(masked=False, message_bytes_max=1 << 24)
            return
        for event in self._parser.feed(data):
            self._take(event)

    def _take(self, event: websocket.Event) -> None:
        if isinstance(event, websocket.Close):
            self.code = event.code
            if self.echoes_close:
                self._later(websocket.masked_frame(websocket.CLOSE, websocket.close_payload(event.code), MASK))
        elif isinstance(event, websocket.Pong):
            self.pongs += 1
        elif isinstance(event, websocket.Ping):
            self.pings += 1
            if self.answers_pings:
                self._later(websocket.masked_frame(websocket.PONG, event.data, MASK))
        else:
            assert isinstance(event, websocket.Text)
            for reply in json_codec.decode_replies(event.data):
                self._sort(reply)

    def _sort(self, reply: Reply) -> None:
        if reply.is_ping:
            self.pings += 1
            if self.answers_pings:
                self._later(websocket.masked_frame(websocket.TEXT, b"{}", MASK))
        elif reply.push is not None:
            self.pushes.append(reply.push)
        else:
            self.replies.append(reply)

    def _later(self, data: bytes) -> None:
        asyncio.get_running_loop().call_soon(self.receive, data)

    def receive(self, data: bytes) -> None:
        """Let bytes reach the gateway."""
        if not self.transport.is_closed:
            self.connection.data_received(data)

    def upgrade(self, headers: bytes = b"") -> None:
        """Ask for a WebSocket."""
        self.receive(UPGRADE % headers)

    def send(self, text: bytes) -> None:
        """Send a text message."""
        self.receive(websocket.masked_frame(websocket.TEXT, text, MASK))

    async def ask(self, text: bytes) -> Reply:
        """Send a command and return the next reply."""
        before = len(self.replies)
        self.send(text)
        for _ in range(10_000):
            if len(self.replies) > before:
                return self.replies[before]
            await asyncio.sleep(0.001)
        raise AssertionError(f"no reply; closed with {self.code}")

    async def connect(self, token: str = "") -> None:
        """Upgrade and connect."""
        self.upgrade()
        reply = await self.ask(b'{"id":1,"connect":{"token":"%b"}}' % token.encode())
        assert reply.connect is not None, reply.error

    def fill(self, waiting: int = 70_000) -> None:
        """Let the socket be full."""
        self.transport.full = waiting
        self.connection.pause_writing()

    def drain(self) -> None:
        """Let the socket take everything."""
        self.transport.full = 0
        self.connection.resume_writing()
