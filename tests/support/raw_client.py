"""A JSON client on a raw socket: it can stop reading, be cut in the middle of a frame, and say anything at all.

Unlike an SDK it does nothing by itself: no pings are answered, nobody comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

from tests.support.raw_socket import RawSocket, handshake, text

WAIT_S = 20.0


class RawClient(RawSocket):
    """``offsets`` and ``data`` are those of all publications so far, replayed ones included, as they arrived."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(reader, writer)
        self.offsets: list[int] = []
        self.data: list[Any] = []
        self._replies: dict[int, dict[str, Any]] = {}

    async def ask(self, number: int, **request: Any) -> dict[str, Any]:
        """Send one command and return its reply."""
        await self.send(text(json.dumps({"id": number, **request})))
        return await self.reply(number)

    async def reply(self, number: int) -> dict[str, Any]:
        """Return the reply to a command that was sent."""
        async with asyncio.timeout(WAIT_S):
            while number not in self._replies:
                await self.read_some()
        return self._replies.pop(number)

    async def subscribe(self, number: int, room: str, **fields: Any) -> dict[str, Any]:
        """Subscribe; fails unless it was accepted."""
        reply = await self.ask(number, subscribe={"channel": room, **fields})
        assert "subscribe" in reply, reply
        result: dict[str, Any] = reply["subscribe"]
        return result

    async def publications(self, count: int) -> list[Any]:
        """Read until so many publications have come in all; return their data."""
        async with asyncio.timeout(WAIT_S):
            while len(self.data) < count:
                await self.read_some()
        return self.data

    async def read_some(self) -> None:
        """Take the next data frame."""
        opcode, payload = await self.frame()
        if opcode not in (1, 2):
            return
        for line in payload.split(b"\n"):
            self._take(json.loads(line))

    def _take(self, reply: dict[str, Any]) -> None:
        if "id" in reply:
            self._replies[reply["id"]] = reply
            for publication in reply.get("subscribe", {}).get("publications", ()):
                self._see(publication)
        elif "pub" in reply.get("push", {}):
            self._see(reply["push"]["pub"])

    def _see(self, publication: dict[str, Any]) -> None:
        self.offsets.append(publication.get("offset", 0))
        self.data.append(publication["data"])

    def reset(self) -> None:
        """End the connection by a TCP reset."""
        reset(self.writer.get_extra_info("socket"))
        self.writer.transport.abort()


def reset(connection: socket.socket) -> None:
    """Let the next close of a socket be a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextlib.asynccontextmanager
async def raw_client(port: int, *, room: str = "", token: str = "", small: bool = False) -> AsyncIterator[RawClient]:
    """Connect, and subscribe to a room where one is named. ``small``: the kernel takes little for who does not read."""
    connection = socket.socket()
    if small:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_192)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=connection, limit=1 << 14)
    client = RawClient(reader, writer)
    try:
        await client.send(handshake())
        assert (await client.head())[0] == 101
        reply = await client.ask(1, connect={"token": token})
        assert "connect" in reply, reply
        if room:
            await client.subscribe(2, room)
        yield client
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
