"""One WebSocket connection of a client, and the two ways in which a server says no."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from typing import Final, cast

from fanout.core.errors import CloseCode, FanoutError
from fanout.core.limits import HANDSHAKE_S, REPLY_BYTES_MAX
from fanout.protocol.centrifuge import Error
from fanout.protocol.websocket import (
    CLOSE,
    NORMAL_CLOSURE,
    PONG,
    TEXT,
    ClientHandshake,
    Close,
    CloseHandshake,
    Endpoint,
    FrameParser,
    Ping,
    ProtocolViolation,
    Refusal,
    Text,
    client_request,
    make_key,
    masked_frame,
)

ABNORMAL: Final = 1006  # the connection ended without a close frame; never on the wire
BACKOFF_S: Final = (0.1, 20.0)


class Rejected(FanoutError):
    """The server's answer to a command is an error; where ``temporary``, the same may work later."""

    def __init__(self, error: Error) -> None:
        super().__init__(f"{error.code}: {error.message}")
        self.code, self.message, self.temporary = error.code, error.message, error.temporary


class Disconnected(FanoutError):
    """The connection ended (``code``, ``reason``) before an answer; what was asked may or may not have happened."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code, self.reason = code, reason

    @property
    def reconnect(self) -> bool:
        """True where the code lets a client come back."""
        return CloseCode(self.code, "", "").reconnect


class Wire(asyncio.Protocol):
    """One connection. ``ended`` is done when it is over, with how; nothing is told after that."""

    def __init__(self, target: Endpoint, on_text: Callable[[Wire, bytes], None]) -> None:
        loop = asyncio.get_running_loop()
        self._key = make_key(os.urandom(16))
        self._target = target
        self._handshake: ClientHandshake | None = ClientHandshake(self._key)
        self._parser = FrameParser(masked=False, message_bytes_max=REPLY_BYTES_MAX)
        self._closing = CloseHandshake()
        self._on_text = on_text
        self._transport: asyncio.Transport | None = None
        self._opened: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[Disconnected] = loop.create_future()
        self.heard_s = loop.time()

    async def open(self) -> None:
        """Connect and shake hands within 5 s. Raises Disconnected, also where nobody answers."""
        target = self._target
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                await asyncio.get_running_loop().create_connection(
                    lambda: self, target.host, target.port, ssl=True if target.secure else None
                )
                await asyncio.wait((self._opened, self.ended), return_when=asyncio.FIRST_COMPLETED)
        except (OSError, TimeoutError) as error:
            self.abort(str(error) or "no answer to the handshake")
        if self.ended.done():
            raise self.ended.result()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._transport.write(client_request(self._target.authority, self._target.target, self._key))

    def connection_lost(self, exc: Exception | None) -> None:
        """End, unless a close frame said more before."""
        self._end(ABNORMAL, str(exc or "connection lost"))

    def data_received(self, data: bytes) -> None:
        """Pass on what the bytes complete."""
        self.heard_s = asyncio.get_running_loop().time()
        if self._handshake is not None:
            outcome = self._handshake.feed(data)
            if outcome is None:
                return
            self._handshake = None
            if isinstance(outcome, Refusal):
                self._end(ABNORMAL, outcome.detail)
                return
            self._opened.set_result(None)
            data = outcome.rest
        for event in self._parser.feed(data):
            if self.ended.done():
                return
            if isinstance(event, Text):
                self._on_text(self, event.data)
            elif isinstance(event, Ping):
                self._send(PONG, event.data)
            elif isinstance(event, Close):
                self._send_close(self._closing.receive(event))
                self._end(event.code, event.reason)
            elif isinstance(event, ProtocolViolation):
                self.give_up(event.code, event.detail)

    def send(self, data: bytes) -> None:
        """Send a text message; nothing happens once the connection has ended."""
        if not self._closing.sent:
            self._send(TEXT, data)

    def end(self, code: int, reason: str) -> None:
        """Leave in an orderly way; ``ended`` gets ``code``, which may be one that no close frame can carry."""
        self._send_close(self._closing.start(NORMAL_CLOSURE))
        self._end(code, reason)

    def give_up(self, violation: int, detail: str) -> None:
        """Leave a server that breaks the protocol, naming the violation."""
        self._send_close(self._closing.start(violation, detail))
        self._end(ABNORMAL, detail)

    def abort(self, reason: str) -> None:
        """Leave without a word."""
        self._end(ABNORMAL, reason)

    def _send_close(self, payload: bytes | None) -> None:
        if payload is not None:
            self._send(CLOSE, payload)

    def _send(self, opcode: int, payload: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(masked_frame(opcode, payload, os.urandom(4)))

    def _end(self, code: int, reason: str) -> None:
        if not self.ended.done():
            self.ended.set_result(Disconnected(code, reason))
        if self._transport is not None:
            self._transport.close()


def backoff_s(attempt: int) -> float:
    """Return how long to wait after that many failures in a row (0 = the first): jittered, doubling, capped."""
    lowest, highest = BACKOFF_S
    return random.uniform(0.5, 1.0) * min(highest, lowest * (1 << min(attempt, 16)))
