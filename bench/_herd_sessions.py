"""Sessions for ``bench.herd``: raw sockets on epoll, as light as the kernel lets them be.

Those who stay are read before anybody else at every turn, so that the work of bringing the others back does not show in
their delivery times. A session comes back as the stock JavaScript SDK does: after 0.5 s and a random share of a time
that doubles with every attempt, up to 20 s.
"""

from __future__ import annotations

import errno
import heapq
import os
import random
import select
import socket
import struct
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, Final

import msgspec

from fanout.core.errors import CloseCode
from fanout.protocol.websocket import (
    CLOSE,
    TEXT,
    Endpoint,
    client_request,
    close_payload,
    make_key,
    masked_frame,
    message_end,
)

RECONNECT_S: Final = (0.5, 20.0)  # minReconnectDelay and maxReconnectDelay of the SDK
TIMEOUT_S: Final = 5.0  # its patience with an open and with each command
NOWHERE: Final = -1  # position of a session that was never subscribed
READ_BYTES: Final = 65_536
EVENTS_AT_ONCE: Final = 64  # of sessions on their way back, then those who stay are looked at
KNOWN_MAX: Final = 4_096
STATES: Final = ("away", "connecting", "upgrading", "opening", "subscribing", "live")
AWAY, CONNECTING, UPGRADING, OPENING, SUBSCRIBING, LIVE = range(6)
_NOW: Final = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset, as a lost network looks to a server
_PONG: Final = masked_frame(TEXT, b"{}", b"\0\0\0\0")


class Said(msgspec.Struct):
    """The payload of a message: its number, and when it was sent."""

    n: int
    t: float
    x: str = ""


class _Publication(msgspec.Struct):
    data: Said
    offset: int = 0


class _Result(msgspec.Struct):
    epoch: str = ""
    offset: int = 0
    recovered: bool = False
    was_recovering: bool = False
    publications: list[_Publication] = []


class _Push(msgspec.Struct):
    pub: _Publication | None = None


class _Reply(msgspec.Struct):
    id: int = 0
    error: Any = None
    subscribe: _Result | None = None
    push: _Push | None = None


_decode: Final = msgspec.json.Decoder(_Reply).decode


class Frame:
    """What one WebSocket message says; the same for all sessions that receive the same bytes."""

    __slots__ = ("first", "last", "offset", "result", "sent_s", "whole")

    def __init__(self, payload: bytes) -> None:
        replies = [_decode(line) for line in payload.split(b"\n")]
        self.result = next((reply.subscribe for reply in replies if reply.subscribe is not None), None)
        pushed = [reply.push.pub for reply in replies if reply.push is not None and reply.push.pub is not None]
        publications = self.result.publications if self.result is not None else pushed
        numbers = [publication.data.n for publication in publications]
        self.first, self.last = (numbers[0], numbers[-1]) if numbers else (0, 0)
        self.offset = publications[-1].offset if publications else 0
        self.whole = all(after == before + 1 for before, after in pairwise(numbers))
        self.sent_s = [publication.data.t for publication in pushed]


class HerdSession:
    """One session. ``due`` is the number of the message that has to come next (0: any), ``offset`` its position."""

    __slots__ = ("attempt", "due", "fd", "index", "offset", "rest", "socket", "state", "stays", "steps")

    def __init__(self, index: int, *, stays: bool) -> None:
        self.index = index
        self.stays = stays
        self.socket: socket.socket | None = None
        self.fd = -1
        self.state = AWAY
        self.rest = b""
        self.due = 0
        self.offset = NOWHERE
        self.attempt = 0
        self.steps = 0  # of all its states so far


class Herd:
    """All sessions of a run, one room. ``turn`` does what can be done now; nothing else runs."""

    def __init__(
        self, endpoint: Endpoint, room: str, sessions: int, stay: int, *, token: Callable[[int], str], backoff: bool
    ) -> None:
        every = max(1, sessions // max(1, stay))  # of all ages, so that they stand everywhere in a sweep
        self.sessions = [HerdSession(index, stays=index % every == 0) for index in range(sessions)]
        self.live = 0
        self.epoch = ""
        self.counts: Counter[str] = Counter()
        self.sent_s = array("d")  # of each delivery to those who stay ...
        self.took_s = array("d")  # ... and how long it took
        self._endpoint = endpoint
        self._room = room
        self._token = token
        self._backoff = backoff
        self._request = client_request(endpoint.authority, endpoint.target, make_key(os.urandom(16)))
        self._staying, self._herd = select.epoll(), select.epoll()
        self._by_fd: dict[int, HerdSession] = {}
        self._due: list[tuple[float, int]] = []
        self._patience: deque[tuple[float, HerdSession, int]] = deque()
        self._known: dict[bytes, Frame] = {}

    # --- coming and going ---------------------------------------------------------------------------------------------

    def bring(self, index: int, after_s: float = 0.0) -> None:
        """Let a session connect, in a while."""
        heapq.heappush(self._due, (time.monotonic() + after_s, index))

    def cut(self, sessions: Iterator[HerdSession]) -> None:
        """Reset the connections of sessions, a hundred at a turn, and let none come back yet."""
        for count, session in enumerate(sessions, 1):
            self._let_go(session)
            if count % 100 == 0:
                self.turn(0.0)

    def come_back(self, session: HerdSession) -> None:
        """Let a session come back after what an SDK waits, longer with every attempt."""
        lowest, highest = RECONNECT_S
        wait_s = min(highest, lowest + random.uniform(0, min(highest, lowest * 2**session.attempt)))
        session.attempt = min(session.attempt + 1, 30)
        self.bring(session.index, wait_s if self._backoff or session.attempt > 1 else 0.0)

    def close(self) -> None:
        """Let go of everything."""
        for session in self.sessions:
            self._let_go(session)
        self._staying.close()
        self._herd.close()

    def turn(self, wait_s: float) -> None:
        """Read those who stay, then do some of the rest; wait at most so long where there is nothing to do."""
        for fd, _ in self._staying.poll(0):
            self._read(self._by_fd[fd])
        now_s = time.monotonic()
        for _ in range(EVENTS_AT_ONCE):
            if not self._due or self._due[0][0] > now_s:
                break
            self._connect(self.sessions[heapq.heappop(self._due)[1]])
            wait_s = 0.0
        while self._patience and self._patience[0][0] <= now_s:
            _, late, steps = self._patience.popleft()
            if late.steps == steps and late.state not in (AWAY, LIVE):
                self._lost(late, f"timeout {STATES[late.state]}")
        for fd, events in self._herd.poll(min(wait_s, 0.001), EVENTS_AT_ONCE):
            session = self._by_fd.get(fd)
            if session is None:
                continue
            if session.state == CONNECTING:
                self._connected(session)
            elif events:
                self._read(session)

    def _connect(self, session: HerdSession) -> None:
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NOW)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        failed = made.connect_ex((self._endpoint.host, self._endpoint.port))
        if failed not in (0, errno.EINPROGRESS):
            made.close()
            self.counts[f"connect: {errno.errorcode[failed]}"] += 1
            self.come_back(session)
            return
        session.socket, session.fd, session.rest = made, made.fileno(), b""
        self._step(session, CONNECTING)
        self._by_fd[session.fd] = session
        self._poll_of(session).register(session.fd, select.EPOLLOUT)

    def _step(self, session: HerdSession, state: int) -> None:
        session.state = state
        session.steps += 1
        self._patience.append((time.monotonic() + TIMEOUT_S, session, session.steps))

    def _connected(self, session: HerdSession) -> None:
        assert session.socket is not None
        failed = session.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failed:
            self._lost(session, f"connect: {errno.errorcode[failed]}")
            return
        self._poll_of(session).modify(session.fd, select.EPOLLIN)
        session.state = UPGRADING
        self._send(session, self._request)

    def _lost(self, session: HerdSession, why: str, *, again: bool = True) -> None:
        self.counts[why] += 1
        self._let_go(session)
        if again:
            self.come_back(session)

    def _let_go(self, session: HerdSession) -> None:
        if session.socket is None:
            return
        if session.state == LIVE:
            self.live -= 1
        del self._by_fd[session.fd]
        self._poll_of(session).unregister(session.fd)
        session.socket.close()
        session.socket, session.fd, session.state = None, -1, AWAY

    def _poll_of(self, session: HerdSession) -> select.epoll:
        return self._staying if session.stays else self._herd

    # --- bytes --------------------------------------------------------------------------------------------------------

    def _send(self, session: HerdSession, data: bytes) -> None:
        assert session.socket is not None
        try:
            session.socket.send(data)
        except OSError as error:
            self._lost(session, f"send: {errno.errorcode.get(error.errno or 0, '?')}")

    def _read(self, session: HerdSession) -> None:
        if session.state == CONNECTING:
            self._connected(session)
            return
        assert session.socket is not None
        try:
            data = session.socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(session, f"recv: {errno.errorcode.get(error.errno or 0, '?')}")
            return
        if not data:
            self._lost(session, "end")
            return
        frame = None if session.rest else self._known.get(data)  # nearly always one frame that others have had, too
        if frame is not None:
            self._take(session, frame)
            return
        self._pieces(session, session.rest + data)

    def _pieces(self, session: HerdSession, data: bytes) -> None:
        if session.state == UPGRADING:
            end = data.find(b"\r\n\r\n") + 4
            if end < 4:
                session.rest = data
                return
            if not data.startswith(b"HTTP/1.1 101"):
                self._lost(session, f"status {data[9:12].decode()}")
                return
            data = data[end:]
            self._step(session, OPENING)
            self._command(session, b'{"id":1,"connect":{"token":"%b"}}' % self._token(session.index).encode())
        at = 0
        while session.socket is not None and (end := message_end(data, at)):
            self._message(session, data[at:end])
            at = end
        session.rest = data[at:]

    def _message(self, session: HerdSession, piece: bytes) -> None:
        frame = self._known.get(piece)
        if frame is not None:
            self._take(session, frame)
            return
        short = piece[1]
        payload = piece[2 if short < 126 else 4 if short == 126 else 10 :]
        if piece[0] == 0x80 | CLOSE:
            code = int.from_bytes(payload[:2])
            if session.socket is not None:
                self._send(session, masked_frame(CLOSE, close_payload(code), b"\0\0\0\0"))
            self._lost(session, f"close {code}", again=CloseCode(code, "", "").reconnect)
        elif payload == b"{}":
            self._send(session, _PONG)
        elif session.state == OPENING:
            self._opened(session, payload)
        else:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            frame = self._known[piece] = Frame(payload)
            self._take(session, frame)

    # --- the protocol -------------------------------------------------------------------------------------------------

    def _command(self, session: HerdSession, command: bytes) -> None:
        self._send(session, masked_frame(TEXT, command, b"\0\0\0\0"))

    def _opened(self, session: HerdSession, payload: bytes) -> None:
        if not payload.startswith(b'{"id":1,"connect"'):
            self._lost(session, f"connect: {payload[:100].decode()}")
            return
        self._step(session, SUBSCRIBING)
        command = b'{"id":2,"subscribe":{"channel":"%b"' % self._room.encode()
        if session.offset != NOWHERE:
            command += b',"recover":true,"epoch":"%b","offset":%d' % (self.epoch.encode(), session.offset)
        self._command(session, command + b"}}")

    def _take(self, session: HerdSession, frame: Frame) -> None:
        if frame.result is not None:
            self._subscribed(session, frame.result)
        if not frame.first:
            if frame.result is None:
                self.counts["unknown reply"] += 1
            return
        if (session.due and frame.first != session.due) or not frame.whole:
            self.counts["misordered"] += 1
        session.due = frame.last + 1
        session.offset = frame.offset
        if session.stays and frame.sent_s:
            now_s = time.monotonic()
            for sent_s in frame.sent_s:
                self.sent_s.append(sent_s)
                self.took_s.append(now_s - sent_s)

    def _subscribed(self, session: HerdSession, result: _Result) -> None:
        if session.offset != NOWHERE and not result.recovered:
            self.counts["gap"] += 1
        self.epoch = result.epoch
        if not result.recovered:
            session.offset = result.offset
        session.state, session.attempt = LIVE, 0
        self.live += 1
