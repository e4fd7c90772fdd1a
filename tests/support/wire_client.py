"""A few lines of the Centrifuge JSON protocol over a stock WebSocket library: what a client sees, byte for byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import websockets


class WireClient:
    """One connection. Pushes wait in ``_publications`` until ``publication`` asks for them."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self._socket = socket
        self._next = 1
        self._publications: list[dict[str, Any]] = []

    async def command(self, **command: Any) -> dict[str, Any]:
        """Send a command and return its reply."""
        number, self._next = self._next, self._next + 1
        await self._socket.send(json.dumps({"id": number, **command}))
        while True:
            for reply in await self._replies():
                if reply.get("id") == number:
                    return reply

    async def publication(self, timeout_s: float = 10.0) -> dict[str, Any]:
        """Return the next publication of any room, with its room under ``room``."""
        async with asyncio.timeout(timeout_s):
            while not self._publications:
                await self._replies()
        return self._publications.pop(0)

    async def _replies(self) -> list[dict[str, Any]]:
        replies = [json.loads(line) for line in str(await self._socket.recv()).splitlines()]
        for reply in replies:
            push = reply.get("push", {})
            if "pub" in push:
                self._publications.append({"room": push["channel"], **push["pub"]})
            elif not reply:
                await self._socket.send("{}")
        return replies


@contextlib.asynccontextmanager
async def wire_client(url: str, token: str = "", room: str = "") -> AsyncIterator[WireClient]:
    """Connect with a token, and subscribe to a room where one is named."""
    async with websockets.connect(url, proxy=None) as socket:
        client = WireClient(socket)
        reply = await client.command(connect={"token": token})
        assert "connect" in reply, reply
        if room:
            reply = await client.command(subscribe={"channel": room})
            assert "subscribe" in reply, reply
        yield client
