"""Plain HTTP on the gateway's port: connections without an upgrade go on with uvicorn's protocol class."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from fanout.core.errors import BAD_REQUEST, METHOD_NOT_FOUND
from fanout.core.limits import HANDSHAKE_BYTES_MAX, HTTP_REQUEST_S
from fanout.protocol.websocket import refuse_response
from fanout.runtime.metrics import HTTP_REQUESTS

_FRAMING_PER_BODY_BYTE: Final = 8  # a chunk of one byte has five around it
_TOO_LONG: Final = f"the head of a request has at most {HANDSHAKE_BYTES_MAX} bytes"


class HttpConnection(HttpToolsProtocol):
    """uvicorn's protocol class, with what it lacks: a request is whole in time, what is no body in it is bounded,
    and what is no HTTP is answered in the one shape of errors and counted.

    The time runs from the connection on, and between requests from the first byte, also where that begins nothing: line
    breaks are no request.
    """

    _overdue: asyncio.TimerHandle | None = None
    _framing = 0  # bytes of the request at hand that are no body: its head, sizes of chunks, trailers
    _body = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come; its first request has as long as any other."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Bytes have come, cut anywhere."""
        if self._overdue is None:
            self._wait()
        self._framing += len(data)
        super().data_received(data)
        if self._framing > HANDSHAKE_BYTES_MAX + _FRAMING_PER_BODY_BYTE * self._body:
            self._refuse(400, _TOO_LONG)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        if self._overdue is None:
            self._wait()

    def on_headers_complete(self) -> None:
        """The head is whole; raises ValueError, which is answered 400, where a single read held all of a long one."""
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > HANDSHAKE_BYTES_MAX:
            raise ValueError(_TOO_LONG)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._framing -= len(body)
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is whole."""
        self._stop_waiting()
        self._framing = self._body = 0
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are no HTTP request."""
        self._refuse(400, msg)

    def _wait(self) -> None:
        self._overdue = self.loop.call_later(HTTP_REQUEST_S, self._cut)

    def _cut(self) -> None:
        self._refuse(408, f"the request was not whole within {HTTP_REQUEST_S:.0f} s")

    def _refuse(self, status: int, detail: str) -> None:
        if self.transport.is_closing():
            return
        self._stop_waiting()
        HTTP_REQUESTS.labels("other", str(status)).inc()
        self.transport.write(refuse_response(status, BAD_REQUEST, detail))
        self.transport.close()

    def _stop_waiting(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None


class UvicornDoor:
    """Hands connections to uvicorn, in front of an ASGI app."""

    def __init__(self, app: Any) -> None:
        self._config = Config(
            app, lifespan="off", access_log=False, log_config=None, http=HttpConnection, ws="none", server_header=False
        )
        self._config.load()
        self._state = ServerState()

    def enter(self, transport: asyncio.Transport, data: bytes) -> None:
        """Go on with a connection whose first bytes are ``data``."""
        protocol = HttpConnection(self._config, self._state, {})
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.data_received(data)

    async def close(self, timeout_s: float) -> None:
        """Let requests at hand finish, then end the connections."""
        for connection in list(self._state.connections):
            connection.shutdown()
        if self._state.tasks:
            await asyncio.wait(list(self._state.tasks), timeout=timeout_s)
        for connection in list(self._state.connections):
            connection.transport.close()


class ClosedDoor:
    """There is no HTTP behind this port."""

    def enter(self, transport: asyncio.Transport, data: bytes) -> None:
        """Answer 404 and close."""
        transport.write(refuse_response(404, METHOD_NOT_FOUND, "this port serves WebSocket only"))
        transport.close()

    async def close(self, timeout_s: float) -> None:
        """Nothing is open."""
