"""Many viewers in one greenlet's care: raw sockets, one gevent watcher each, about 1 kB a socket.

A frame that the engine shares among sessions arrives as the same bytes on every socket, so what is in it is worked out
once per User and looked up for the other sockets: what is left per delivery is the read, the lookup, a few counts.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Iterator
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import gevent
import msgspec
from gevent import pool, socket

from loadtest import frames
from loadtest.tally import LATENCY_MS_MAX, Seen

READ_BYTES: Final = 262_144
HANDSHAKE_S: Final = 20.0
HANDSHAKES_AT_ONCE: Final = 50
DIGESTS_MAX: Final = 512
_READABLE: Final = 1  # gevent's event mask
_PONG: Final = frames.from_client(frames.TEXT, b"{}")
_ADDRESS_PORTS: Final = 20_000  # of the 28,000 that one source address has towards one port


class Content(msgspec.Struct):
    """The part of a message's data that a load test writes: when it was sent (ms since 1970)."""

    at: float = 0.0


class _Publication(msgspec.Struct):
    data: Content
    offset: int = 0


class _Push(msgspec.Struct):
    channel: str = ""
    pub: _Publication | None = None


class _Reply(msgspec.Struct):
    id: int = 0
    error: dict[str, Any] | None = None
    push: _Push | None = None


_DECODER: Final = msgspec.json.Decoder(_Reply)


class Digest(NamedTuple):
    """What a frame holds: times of its publications, its first and last offset (0: none), steps back inside it."""

    at_ms: tuple[float, ...]
    first: int
    last: int
    doubled: int
    disordered: int
    pings: int


def digest(payload: bytes) -> Digest:
    """Return what a text frame holds; raises msgspec.DecodeError for what is no reply or push."""
    at_ms: list[float] = []
    first = last = doubled = disordered = pings = 0
    for line in payload.split(b"\n"):
        if line == b"{}":
            pings += 1
            continue
        push = _DECODER.decode(line).push
        if push is None or push.pub is None:
            continue
        at_ms.append(push.pub.data.at)
        offset = push.pub.offset
        if offset:
            doubled += offset == last
            disordered += offset < last
            first = first or offset
            last = max(last, offset)
    return Digest(tuple(at_ms), first, last, doubled, disordered, pings)


class Viewers:
    """``count`` sessions in one room; ``network`` picks their source address on loopback."""

    def __init__(self, url: str, room: str, count: int, tokens: Iterator[str], network: int = 0) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._room, self._count, self._tokens, self._network = room, count, tokens, network
        self._watchers: dict[int, Any] = {}
        self._rest: dict[int, bytes] = {}
        self._last: dict[int, int] = {}
        self._digests: dict[bytes, Digest] = {}
        self._loop = gevent.get_hub().loop
        self.seen = Seen()
        self.newest_s = time.monotonic()

    def open(self) -> None:
        """Connect and subscribe all sockets, some at once."""
        workers = pool.Pool(HANDSHAKES_AT_ONCE)
        for number in range(self._count):
            workers.spawn(self._open_one, number)
        workers.join()

    def _open_one(self, number: int) -> None:
        try:
            connection, rest, last = self._subscribe(number)
        except (OSError, ValueError, msgspec.DecodeError):
            self.seen.failed += 1
            return
        self.seen.sessions += 1
        fd = connection.detach()
        self._rest[fd], self._last[fd] = b"", last
        self._watchers[fd] = watcher = self._loop.io(fd, _READABLE)
        watcher.start(self._readable, fd)
        if rest:
            self._take(fd, rest)

    def _source(self, number: int) -> tuple[str, int]:
        """On loopback each User binds an address of its own: one address has 28,000 ports towards a port."""
        if self._host.startswith("127."):
            return (f"127.0.{1 + self._network % 250}.{1 + number // _ADDRESS_PORTS}", 0)
        return ("", 0)

    def _subscribe(self, number: int) -> tuple[Any, bytes, int]:
        """Return the socket, bytes read beyond the subscribe reply, and the offset that the reply named."""
        with gevent.Timeout(HANDSHAKE_S, TimeoutError("handshake")):
            connection = socket.create_connection((self._host, self._port), source_address=self._source(number))
            try:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.sendall(self._upgrade() + self._commands())
                data = self._past_upgrade(connection)
                return self._answered(connection, data)
            except BaseException:
                connection.close()
                raise

    def _upgrade(self) -> bytes:
        key = base64.b64encode(os.urandom(16)).decode()
        return (
            f"GET /connection/websocket HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        ).encode()

    def _commands(self) -> bytes:
        connect = {"id": 1, "connect": {"token": next(self._tokens), "name": "load"}}
        subscribe = {"id": 2, "subscribe": {"channel": self._room}}
        return frames.from_client(frames.TEXT, msgspec.json.encode(connect) + b"\n" + msgspec.json.encode(subscribe))

    @staticmethod
    def _past_upgrade(connection: Any) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            got = connection.recv(READ_BYTES)
            if not got:
                raise ConnectionError("closed before the upgrade")
            data += got
        head, _, rest = data.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101"):
            raise ConnectionError(head[:80].decode(errors="replace"))
        return bytes(rest)

    @staticmethod
    def _answered(connection: Any, data: bytes) -> tuple[Any, bytes, int]:
        """Read until the subscribe reply; publications that came in the same read stay in the rest."""
        while True:
            whole, rest = frames.split(data)
            for index, (opcode, payload) in enumerate(whole):
                if opcode == frames.CLOSE:
                    raise ConnectionError(f"closed with {frames.close_code(payload)}")
                lines = payload.split(b"\n") if opcode == frames.TEXT else []
                for place, line in enumerate(lines):
                    reply = msgspec.json.decode(line)
                    if reply.get("error"):
                        raise ConnectionError(str(reply["error"]))
                    if reply.get("id") == 2:
                        left = b"\n".join(lines[place + 1 :])
                        again = [(frames.TEXT, left)] if left else []
                        after = b"".join(_server_frame(*frame) for frame in again + whole[index + 1 :])
                        return connection, after + rest, int(reply["subscribe"].get("offset", 0))
            got = connection.recv(READ_BYTES)
            if not got:
                raise ConnectionError("closed before the subscribe reply")
            data = rest + got

    def _readable(self, fd: int) -> None:
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._take(fd, data)
        else:
            self._end(fd, 1006)

    def _take(self, fd: int, data: bytes) -> None:
        self.seen.bytes += len(data)
        try:
            whole, self._rest[fd] = frames.split(self._rest[fd] + data)
            for opcode, payload in whole:
                if opcode == frames.TEXT:
                    self._count_frame(fd, payload)
                elif opcode == frames.CLOSE:
                    self._end(fd, frames.close_code(payload))
                    return
        except (frames.Unreadable, msgspec.DecodeError):
            self.seen.unreadable += 1
            self._end(fd, 1002)

    def _count_frame(self, fd: int, payload: bytes) -> None:
        found = self._digests.get(payload)
        if found is None:
            if len(self._digests) >= DIGESTS_MAX:
                self._digests.clear()
            found = self._digests[payload] = digest(payload)
        if found.pings:
            self._answer_ping(fd)
        if not found.at_ms:
            return
        seen, now_ms = self.seen, time.time() * 1000
        seen.deliveries += len(found.at_ms)
        self.newest_s = time.monotonic()
        for at in found.at_ms:
            late_ms = min(LATENCY_MS_MAX, max(0, int(now_ms - at)))
            seen.latency_ms[late_ms] = seen.latency_ms.get(late_ms, 0) + 1
        if found.first:
            last = self._last[fd]
            seen.doubled += found.doubled + (found.first == last)
            seen.disordered += found.disordered + (found.first < last)
            self._last[fd] = max(last, found.last)

    def _answer_ping(self, fd: int) -> None:
        try:
            os.write(fd, _PONG)
        except OSError:  # a full or broken socket: the engine closes it with 3012, which is counted
            return

    def _end(self, fd: int, code: int) -> None:
        self.seen.closed[code] = self.seen.closed.get(code, 0) + 1
        self._forget(fd)

    def _forget(self, fd: int) -> None:
        watcher = self._watchers.pop(fd, None)
        if watcher is not None:
            watcher.stop()
            watcher.close()
            os.close(fd)

    def close(self) -> None:
        """Close the sockets that are still open; they are not counted as closed by the engine."""
        for fd in list(self._watchers):
            self._forget(fd)


def _server_frame(opcode: int, payload: bytes) -> bytes:
    """Return a frame as it came; ``_answered`` puts back what it read too far."""
    masked = frames.from_client(opcode, payload)
    head = len(masked) - len(payload) - 4
    return bytes((masked[0], masked[1] & 0x7F)) + masked[2:head] + payload
