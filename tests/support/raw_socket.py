"""Bytes on a socket as no library would send them, and the few server frames that a test must read."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import struct
from collections.abc import AsyncIterator

MASK = b"\x11\x22\x33\x44"
KEY = base64.b64encode(b"sixteen bytes ok").decode()


class RawSocket:
    """A TCP connection to the engine."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Write bytes; a peer that has gone is no error, what it said before is what counts."""
        with contextlib.suppress(OSError):
            self.writer.write(data)
            await self.writer.drain()

    async def head(self, timeout_s: float = 15.0) -> tuple[int, dict[str, str]]:
        """Return status and headers of an HTTP answer; (0, {}) where the peer just closes."""
        async with asyncio.timeout(timeout_s):
            try:
                block = await self.reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, OSError):
                return 0, {}
        first, *lines = block.decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
        return int(first.split(" ")[1]), headers

    async def upgrade(self, query: str = "", subprotocol: str = "") -> None:
        """Make the handshake."""
        await self.send(handshake(query=query, subprotocol=subprotocol))
        status, _ = await self.head()
        assert status == 101, status

    async def close_code(self, timeout_s: float = 15.0) -> int:
        """Read frames until the close frame and return its code; 0 where the peer closes without one."""
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    opcode, payload = await self.frame()
                except (asyncio.IncompleteReadError, OSError):
                    return 0
                if opcode == 8:
                    return int(struct.unpack(">H", payload[:2])[0])

    async def frame(self) -> tuple[int, bytes]:
        """Read one server frame: opcode and payload."""
        first, second = await self.reader.readexactly(2)
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack(">H", await self.reader.readexactly(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", await self.reader.readexactly(8))
        return first & 0x0F, await self.reader.readexactly(length)

    async def text(self, timeout_s: float = 15.0) -> str:
        """Return the payload of the next data frame, as text."""
        async with asyncio.timeout(timeout_s):
            while True:
                opcode, payload = await self.frame()
                if opcode in (1, 2):
                    return payload.decode(errors="replace")


@contextlib.asynccontextmanager
async def raw_socket(port: int) -> AsyncIterator[RawSocket]:
    """Connect to loopback."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield RawSocket(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def handshake(
    *,
    first: str = "GET {path} HTTP/1.1",
    query: str = "",
    subprotocol: str = "",
    leave_out: str = "",
    change: dict[str, str] | None = None,
    more: tuple[str, ...] = (),
) -> bytes:
    """Return an upgrade request: right by default, wrong where asked (headers left out, changed, added)."""
    headers = {
        "Host": "127.0.0.1",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
        **({"Sec-WebSocket-Protocol": subprotocol} if subprotocol else {}),
        **(change or {}),
    }
    lines = [first.format(path=f"/connection/websocket{query}")]
    lines += [f"{name}: {value}" for name, value in headers.items() if name != leave_out]
    return ("\r\n".join([*lines, *more]) + "\r\n\r\n").encode("latin-1")


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = True) -> bytes:
    """Return a client frame in the shortest form."""
    length = len(payload)
    short = length if length < 126 else 126 if length < 65_536 else 127
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode, (0x80 if masked else 0) | short])
    if short == 126:
        head += struct.pack(">H", length)
    elif short == 127:
        head += struct.pack(">Q", length)
    if not masked:
        return head + payload
    return head + MASK + bytes(byte ^ MASK[index % 4] for index, byte in enumerate(payload))


def text(payload: str) -> bytes:
    """Return a whole text frame."""
    return frame(1, payload.encode())
