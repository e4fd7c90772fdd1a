"""The port: a listening socket, and several listeners on it.

libuv takes one connection from a listening socket in one turn of the loop (since 1.46). A turn lasts 5 ms and more
while rooms are swept, so one listener would take 200 connections a second exactly when a herd comes, and the kernel
would drop the rest. Listeners on duplicates of the socket share its queue: each of them takes one at each turn.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

import structlog

from fanout.core.errors import ConfigError
from fanout.core.limits import LISTENERS
from fanout.runtime.descriptors import spared_descriptors

logger = structlog.get_logger(__name__)

_BACKLOG: Final = 4_096
_TCP_NOTSENT_LOWAT: Final = 25  # Linux; not named by the socket module of Python 3.11
_TCP_USER_TIMEOUT_MS: Final = 60_000
_SEND_BUFFER_BYTES: Final = 131_072  # the kernel's share of a session that reads slowly
_UNSENT_BYTES: Final = 65_536


class Listener:
    """Bound when made, listening after ``start``, gone after ``close``. Raises ConfigError when the port is taken."""

    def __init__(self, host: str, port: int, *, reuse_port: bool) -> None:
        self._socket = _bind(host, port, reuse_port=reuse_port)
        self._servers: list[asyncio.Server] = []
        self._protocol: Callable[[], asyncio.Protocol] | None = None  # None before the start and after the end
        self._opening: asyncio.Task[None] | None = None
        self.port: int = self._socket.getsockname()[1]

    @property
    def is_open(self) -> bool:
        """True while connections are taken."""
        return bool(self._servers)

    async def start(self, protocol: Callable[[], asyncio.Protocol]) -> None:
        """Take connections from now on."""
        self._protocol = protocol
        self._socket.listen(_BACKLOG)
        await self._open()

    def mind(self, free: int) -> None:
        """Stop taking connections where descriptors have run out, and go on when there are some; to be called often.

        ``free``: as ``free_descriptors`` says. A socket that is ready and cannot be accepted wakes the loop for ever
        (libuv keeps one descriptor in reserve against that, and loses it where others are quicker), so nobody may look
        at it. What comes meanwhile waits in the kernel.
        """
        if self._protocol is None or self._opening is not None:
            return
        if self._servers and free <= -spared_descriptors():
            logger.warning("file descriptors have run out: no connections are taken")
            self._shut()
        elif not self._servers and free > LISTENERS:
            logger.info("connections are taken again", free=free)
            self._opening = asyncio.get_running_loop().create_task(self._open_again(), name="listen")

    def close(self) -> None:
        """Take no more; connections that were taken stay."""
        self._protocol = None
        if self._opening is not None:
            self._opening.cancel()
        self._shut()
        self._socket.close()

    async def _open_again(self) -> None:
        try:
            await self._open()
        except OSError as error:
            logger.warning("no connections are taken yet", error=str(error))
            self._shut()
        finally:
            self._opening = None

    async def _open(self) -> None:
        assert self._protocol is not None, "opened between start and close"
        loop = asyncio.get_running_loop()
        for _ in range(LISTENERS):
            duplicate = self._socket.dup()
            self._servers.append(await loop.create_server(self._protocol, sock=duplicate, backlog=_BACKLOG))

    def _shut(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()


def _bind(host: str, port: int, *, reuse_port: bool) -> socket.socket:
    """Return a bound socket; what is set here, accepted connections inherit."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse_port:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _TCP_USER_TIMEOUT_MS)
        bound.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise ConfigError(f"--port {port}: {error.strerror}; choose another or 0 for any free one") from error
    bound.setblocking(False)
    return bound
