"""Many light WebSocket viewers of one room in one process, for demos, benches and load tests.

A viewer is a raw protocol object that holds one JSON subscription. Viewers in step all receive the same bytes, so what
a frame says is worked out once and remembered: for the other viewers it costs a look-up. What must hold for every
single viewer (positions rise, how much it got) is still checked for every single one.

Not a client library: that is ``fanout.client``. Nothing here imports the engine beyond its wire format.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, cast

from fanout.core.errors import CloseCode, ProtocolError
from fanout.core.latencies import Latencies
from fanout.core.limits import REPLY_BYTES_MAX
from fanout.protocol import json_codec
from fanout.protocol.centrifuge import Command, ConnectRequest, Publication, Reply, SubscribeRequest
from fanout.protocol.websocket import (
    CLOSE,
    NO_STATUS,
    NORMAL_CLOSURE,
    PONG,
    TEXT,
    ClientHandshake,
    Close,
    Endpoint,
    FrameParser,
    Ping,
    ProtocolViolation,
    Refusal,
    Text,
    client_request,
    close_payload,
    endpoint,
    make_key,
    masked_frame,
    message_end,
)

OnFrame = Callable[[Sequence[Publication]], Sequence[float]]

MEMO_FRAMES_MAX: Final = 512  # distinct frames in flight between the first and the last viewer
MEMO_BYTES_MAX: Final = 16 << 20
CONNECTS_AT_ONCE: Final = 128
SLOW_RECEIVE_BYTES: Final = 4_096
BACKOFF_S: Final = (0.05, 5.0)
TICKS_PER_S: Final = 10_000  # resolution of delivery times: 0.1 ms
CONNECT_ID: Final = 1
SUBSCRIBE_ID: Final = 2
RESYNC_FROM: Final = 2500  # unsubscribe codes from here on ask the client to come back with its position


@dataclass(slots=True)
class Counts:
    """What happened to all viewers of a crew. A gap is a ``recovered: false``; misordered should stay 0."""

    frames: int = 0
    deliveries: int = 0
    replayed: int = 0  # deliveries that came in the reply to a subscribe, also in ``deliveries``
    misordered: int = 0  # a position that did not rise
    gaps: int = 0
    unsubscribed: int = 0
    reconnects: int = 0
    closes: Counter[int] = field(default_factory=Counter)  # by close code; 1006 without a close frame
    errors: Counter[int] = field(default_factory=Counter)  # by error code, HTTP status or violation code


class _Frame:
    """What one frame says; shared by all viewers that received the same bytes."""

    __slots__ = ("first", "last", "publications", "replies", "rising", "sent_s", "ticks")

    def __init__(self, replies: list[Reply], on_frame: OnFrame | None) -> None:
        pushed = [reply.push.pub for reply in replies if reply.push is not None and reply.push.pub is not None]
        offsets = [publication.offset for publication in pushed if publication.offset]
        self.replies = tuple(reply for reply in replies if reply.push is None or reply.push.pub is None)
        self.publications = len(pushed)
        self.first, self.last = (offsets[0], offsets[-1]) if offsets else (0, 0)
        self.rising = all(before < after for before, after in pairwise(offsets))
        self.sent_s = tuple(on_frame(pushed)) if on_frame is not None and pushed else ()
        self.ticks: dict[int, int] = {}  # time of delivery → viewers


class Viewer(asyncio.Protocol):
    """One connection with one subscription. ``offset`` is its position, ``deliveries`` what it has received."""

    __slots__ = (
        "_crew",
        "_ends_due",
        "_handshake",
        "_rest",
        "_transport",
        "attempt",
        "deliveries",
        "epoch",
        "index",
        "offset",
        "subscribed",
        "wanted",
    )

    def __init__(self, crew: Viewers, index: int) -> None:
        self._crew = crew
        self._handshake: ClientHandshake | None = None
        self._rest = b""
        self._transport: asyncio.Transport | None = None
        self._ends_due = 0  # connections let go of whose end asyncio has still to report
        self.index = index
        self.attempt = 0
        self.deliveries = 0
        self.epoch = ""
        self.offset = 0
        self.subscribed = False
        self.wanted = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._rest = cast(asyncio.Transport, transport), b""  # uvloop's is no subclass
        key = make_key(os.urandom(16))
        self._handshake = ClientHandshake(key)
        self._transport.write(client_request(self._crew.endpoint.authority, self._crew.endpoint.target, key))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._ends_due:
            self._ends_due -= 1
            return
        self._crew.counts.closes[1006] += 1
        self._gone(reconnect=True)
        self._ends_due = 0

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data, self._rest = self._rest + data, b""
        frame = self._crew.memo.get(data)  # the usual read is exactly one frame that another viewer has had
        if frame is None:
            self._read(data)
        else:
            self._take(frame)

    def pause(self) -> None:
        """Stop reading; the server sees a socket that fills up."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def cut(self) -> None:
        """Drop the connection without a word, as a bad network does."""
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Leave for good with a close frame."""
        self.wanted = False
        self._write(CLOSE, close_payload(NORMAL_CLOSURE))
        self._gone(reconnect=False)

    def _read(self, data: bytes) -> None:
        """Take bytes that are not one known frame: a handshake, several frames, a part of one, a new one."""
        if self._handshake is not None:
            outcome = self._handshake.feed(data)
            if outcome is None:
                return
            self._handshake = None
            if isinstance(outcome, Refusal):
                self._crew.counts.errors[outcome.status] += 1
                self._gone(reconnect=outcome.status >= 500)
                return
            self._send(
                Command(id=CONNECT_ID, connect=ConnectRequest(token=self._crew.token(self.index), name="viewers"))
            )
            data = outcome.rest
        at = 0
        while self._transport is not None and (end := message_end(data, at)):
            piece = data[at:end]
            frame = self._crew.memo.get(piece)
            if frame is None:
                self._understand(piece)
            else:
                self._take(frame)
            at = end
        self._rest = data[at:]
        if len(self._rest) > REPLY_BYTES_MAX:
            self._violated(ProtocolViolation(1009, "a message larger than any frame or replay"))

    def _understand(self, piece: bytes) -> None:
        """Read a whole message that no viewer has had yet."""
        for event in FrameParser(masked=False, message_bytes_max=REPLY_BYTES_MAX).feed(piece):
            if isinstance(event, Text):
                try:
                    replies = json_codec.decode_replies(event.data)
                except ProtocolError:
                    self._violated(ProtocolViolation(1007, "no reply"))
                    return
                self._take(self._crew.remember(piece, _Frame(replies, self._crew.on_frame)))
            elif isinstance(event, Ping):
                self._write(PONG, event.data)
            elif isinstance(event, Close):
                self._closed(event)
            elif isinstance(event, ProtocolViolation):
                self._violated(event)

    def _take(self, frame: _Frame) -> None:
        if frame.publications:
            tick = int(self._crew.now() * TICKS_PER_S)
            frame.ticks[tick] = frame.ticks.get(tick, 0) + 1
            self.deliveries += frame.publications
            if frame.first:
                if frame.first <= self.offset or not frame.rising:
                    self._crew.counts.misordered += 1
                self.offset = frame.last
        for reply in frame.replies:
            self._answer(reply)

    def _answer(self, reply: Reply) -> None:
        if reply.is_ping:
            if reply.connect is None:
                self._write_raw(self._crew.pong)
        elif reply.error is not None:
            self._crew.counts.errors[reply.error.code] += 1
            self._gone(reconnect=reply.error.temporary)
        elif reply.id == CONNECT_ID:
            self._subscribe()
        elif reply.id == SUBSCRIBE_ID and reply.subscribe is not None:
            self._joined(reply)
        elif reply.push is not None and reply.push.unsubscribe is not None:
            self._crew.counts.unsubscribed += 1
            self._crew.left(self)
            if reply.push.unsubscribe.code >= RESYNC_FROM:
                self._subscribe()
        elif reply.push is not None and reply.push.disconnect is not None:
            self._closed(Close(reply.push.disconnect.code, reply.push.disconnect.reason))

    def _subscribe(self) -> None:
        request = SubscribeRequest(channel=self._crew.room)
        if self.epoch:
            request.recover, request.epoch, request.offset = True, self.epoch, self.offset
        self._send(Command(id=SUBSCRIBE_ID, subscribe=request))

    def _joined(self, reply: Reply) -> None:
        result = reply.subscribe
        assert result is not None
        counts = self._crew.counts
        if result.was_recovering and not result.recovered:
            counts.gaps += 1
        if not result.recovered:
            self.offset = result.offset
        self.epoch = result.epoch
        for publication in result.publications:
            if publication.offset <= self.offset:
                counts.misordered += 1
            self.offset = publication.offset
        self.deliveries += len(result.publications)
        counts.replayed += len(result.publications)
        counts.deliveries += len(result.publications)
        if result.publications and self._crew.on_frame is not None:
            self._crew.on_frame(result.publications)
        self._crew.joined(self)

    def _closed(self, close: Close) -> None:
        self._crew.counts.closes[close.code] += 1
        self._write(CLOSE, b"" if close.code == NO_STATUS or close.code >= 5000 else close_payload(close.code))
        self._gone(reconnect=CloseCode(close.code, "", "").reconnect)

    def _violated(self, violation: ProtocolViolation) -> None:
        self._crew.counts.errors[violation.code] += 1
        self._write(CLOSE, close_payload(violation.code, violation.detail))
        self._gone(reconnect=False)

    def _gone(self, *, reconnect: bool) -> None:
        """Let go of the connection, once; the crew brings a viewer back that is still wanted."""
        transport, self._transport = self._transport, None
        if transport is None:
            return
        transport.close()
        self._ends_due += 1
        self._crew.left(self)
        if reconnect and self.wanted:
            self._crew.bring_back(self)
        else:
            self.wanted = False
            self._crew.changed.set()

    def _send(self, command: Command) -> None:
        self._write(TEXT, json_codec.encode_command(command))

    def _write(self, opcode: int, payload: bytes) -> None:
        self._write_raw(masked_frame(opcode, payload, os.urandom(4)))

    def _write_raw(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


class Viewers:
    """A crew: ``count`` viewers of one room.

    ``token`` gives the token of each viewer by its index. ``on_frame`` is called with the publications of every frame
    that is new to the crew (rarely twice for the same: the memo is bounded) and returns when they were sent, in seconds
    of ``now``, one for each that says so; deliveries of that frame are then timed. Open at most ``connects_per_s``.
    The first ``slow`` viewers have small receive buffers: once they pause, the server soon sees a full socket.
    """

    def __init__(
        self,
        url: str,
        room: str,
        count: int,
        *,
        token: Callable[[int], str] = lambda _: "",
        on_frame: OnFrame | None = None,
        connects_per_s: float = 1_000.0,
        local_hosts: Sequence[str] = (),
        now: Callable[[], float] = time.time,
        slow: int = 0,
    ) -> None:
        self.endpoint = endpoint(url)
        if self.endpoint.secure:
            raise ValueError("viewers speak ws:// only; TLS would be what they measure")
        self.room = room
        self.token = token
        self.on_frame = on_frame
        self.now = now
        self.counts = Counts()
        self.memo: dict[bytes, _Frame] = {}
        self.viewers = [Viewer(self, index) for index in range(count)]
        self.subscribed = 0
        self.changed = asyncio.Event()
        # One mask for all pongs: masks protect caches between browsers and servers, and there are none here.
        self.pong: Final = masked_frame(TEXT, json_codec.ping, os.urandom(4))
        self._latencies = Latencies()
        self._memo_bytes = 0
        self._local_hosts = tuple(local_hosts)
        self._connects_per_s = connects_per_s
        self.slow = slow
        self._gate = asyncio.Semaphore(CONNECTS_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, timeout_s: float = 60.0) -> None:
        """Connect and subscribe everybody. Raises ConnectionError when some are refused or not there in time."""
        begin = time.monotonic()
        for viewer in self.viewers:
            ahead = viewer.index / self._connects_per_s - (time.monotonic() - begin)
            if ahead > 0:
                await asyncio.sleep(ahead)
            self._start(self._connect(viewer))
        try:
            async with asyncio.timeout(timeout_s):
                while self.subscribed < len(self.viewers):
                    if not all(viewer.wanted for viewer in self.viewers):
                        break
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            pass
        if self.subscribed < len(self.viewers):
            raise ConnectionError(
                f"{self.subscribed} of {len(self.viewers)} viewers are subscribed to {self.room};"
                f" errors {dict(self.counts.errors)}, closes {dict(self.counts.closes)}"
            )

    async def close(self) -> None:
        """Close all connections and wait until nothing runs any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for viewer in self.viewers:
            viewer.close()
        await asyncio.sleep(0)  # the transports report their ends
        self.settle()

    async def caught_up(self, deliveries: int, timeout_s: float) -> bool:
        """Wait until the crew has had that many deliveries in all; False after ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        while self.deliveries < deliveries:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.01)
        return True

    @property
    def deliveries(self) -> int:
        """Publications received so far by all viewers together."""
        return sum(viewer.deliveries for viewer in self.viewers)

    @property
    def latencies(self) -> Latencies:
        """Time from sending to receiving, of every delivery whose frame told when it was sent."""
        self.settle()
        return self._latencies

    def settle(self) -> None:
        """Book what the remembered frames have been through into ``counts`` and ``latencies``."""
        for frame in self.memo.values():
            self._book(frame)

    # --- for the viewers ---

    def remember(self, piece: bytes, frame: _Frame) -> _Frame:
        """Keep a frame for the other viewers, unless it answers one of them alone."""
        if any(reply.id for reply in frame.replies):
            return frame
        self.memo[piece] = frame
        self._memo_bytes += len(piece)
        while len(self.memo) > MEMO_FRAMES_MAX or self._memo_bytes > MEMO_BYTES_MAX:
            oldest = next(iter(self.memo))
            self._memo_bytes -= len(oldest)
            self._book(self.memo.pop(oldest))
        return frame

    def joined(self, viewer: Viewer) -> None:
        """Note a viewer that is subscribed now."""
        viewer.attempt = 0
        if not viewer.subscribed:
            viewer.subscribed = True
            self.subscribed += 1
            self.changed.set()

    def left(self, viewer: Viewer) -> None:
        """Note a viewer that is subscribed no more."""
        if viewer.subscribed:
            viewer.subscribed = False
            self.subscribed -= 1
            self.changed.set()

    def bring_back(self, viewer: Viewer) -> None:
        """Connect a viewer again, after a while that grows with its attempts."""
        self.counts.reconnects += 1
        self._start(self._connect(viewer))

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, viewer: Viewer) -> None:
        lowest, highest = BACKOFF_S
        address = self.endpoint
        local = (self._local_hosts[viewer.index % len(self._local_hosts)], 0) if self._local_hosts else None
        while viewer.wanted:
            if viewer.attempt:
                await asyncio.sleep(random.uniform(0.5, 1.0) * min(highest, lowest * 2**viewer.attempt))
            viewer.attempt = min(viewer.attempt + 1, 16)
            async with self._gate:
                try:
                    await self._open(viewer, address, local)
                except OSError as error:
                    self.counts.errors[error.errno or 0] += 1
                else:
                    return

    async def _open(self, viewer: Viewer, address: Endpoint, local: tuple[str, int] | None) -> None:
        loop = asyncio.get_running_loop()
        if viewer.index >= self.slow:
            await loop.create_connection(lambda: viewer, address.host, address.port, local_addr=local)
            return
        connection = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET)
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_RECEIVE_BYTES)
        try:
            if local is not None:
                connection.bind(local)
            await loop.sock_connect(connection, (address.host, address.port))
        except BaseException:
            connection.close()
            raise
        await loop.create_connection(lambda: viewer, sock=connection)

    def _book(self, frame: _Frame) -> None:
        viewers = sum(frame.ticks.values())
        self.counts.frames += viewers
        self.counts.deliveries += viewers * frame.publications
        for sent_s in frame.sent_s:
            for tick, times in frame.ticks.items():
                self._latencies.add(tick / TICKS_PER_S - sent_s, times)
        frame.ticks.clear()
