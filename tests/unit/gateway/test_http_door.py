"""Deadlines of plain HTTP: for the first byte of a connection, and for the last one of a request."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from fanout.core.limits import HTTP_REQUEST_S
from fanout.gateway.http_door import HttpConnection
from tests.support.virtual_time import run


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self.written += bytes(data)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed


async def answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize("begun", [b"", b"GE", b"POST / HTTP/1.1\r\nContent-Le"])
def test_a_connection_whose_request_does_not_come_is_cut_in_time(begun: bytes) -> None:
    async def scene() -> None:
        connection, transport = opened()
        if begun:
            connection.data_received(begun)
        await asyncio.sleep(HTTP_REQUEST_S - 1)
        assert not transport.is_closing()
        await asyncio.sleep(2)
        assert transport.is_closing()
        assert transport.written.startswith(b"HTTP/1.1 408")

    run(scene())


def test_a_request_in_time_is_answered_and_nothing_cuts_the_connection_later() -> None:
    async def scene() -> None:
        connection, transport = opened()
        await asyncio.sleep(HTTP_REQUEST_S - 1)
        connection.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(4)
        assert transport.written.startswith(b"HTTP/1.1 204")
        assert b"408" not in transport.written

    run(scene())


def opened() -> tuple[HttpConnection, Transport]:
    """Return a connection that has just been made."""
    config = Config(answer, lifespan="off", access_log=False, log_config=None, http=HttpConnection, ws="none")
    config.load()
    connection, transport = HttpConnection(config, ServerState(), {}), Transport()
    connection.connection_made(transport)
    return connection, transport
