"""HTTP for a process without a gateway: uvicorn on the loop that runs already."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from litestar import Litestar

from fanout.core.errors import ConfigError
from fanout.gateway.http_door import HttpConnection


class _Server(uvicorn.Server):
    """uvicorn without signal handlers: the engine drains its roles in order, the HTTP port last."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """Serves an ASGI app until ``close``."""

    def __init__(self, app: Litestar, host: str, port: int, *, reuse_port: bool) -> None:
        self._host, self._port, self._reuse_port = host, port, reuse_port
        config = uvicorn.Config(
            app,
            lifespan="off",
            access_log=False,
            log_config=None,
            http=HttpConnection,
            ws="none",
            timeout_graceful_shutdown=5,
            server_header=False,
        )
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None
        self.port = port

    async def start(self) -> None:
        """Listen; raises ConfigError when the port is taken."""
        listening = socket.socket(socket.AF_INET6 if ":" in self._host else socket.AF_INET, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self._reuse_port:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            listening.bind((self._host, self._port))
        except OSError as error:
            listening.close()
            raise ConfigError(f"--port {self._port}: {error.strerror}; choose another or 0 for any free one") from error
        self.port = listening.getsockname()[1]
        self._task = asyncio.create_task(self._server.serve([listening]), name="http")
        await self._server.listening.wait()

    async def close(self) -> None:
        """Finish the requests at hand and stop."""
        if self._task is not None:
            self._server.should_exit = True
            await self._task
            self._task = None
