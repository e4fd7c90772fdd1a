"""Connections that never become sessions, on real sockets: half-open floods, drips, header bombs, smuggled requests."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from fanout.core.limits import HANDSHAKE_BYTES_MAX, HANDSHAKE_S
from tests.support.live_edge import LiveEdge, live_edge
from tests.support.loops import on_uvloop
from tests.support.raw_client import raw_client, reset
from tests.support.raw_socket import RawSocket, frame, handshake, raw_socket

ROOM = "open:a"
GET = b"GET / HTTP/1.1\r\nHost: x\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer every request with its method and path, when it is whole."""
    more = True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            return
        more = event.get("more_body", False)
    said = f"{scope['method']} {scope['path']}".encode()
    headers = [(b"content-length", str(len(said)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": said})


async def knocking(port: int, first: bytes) -> socket.socket:
    """Return a connection that has sent some bytes and will not read."""
    connection = socket.socket()
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, ("127.0.0.1", port))
    await loop.sock_sendall(connection, first)
    return connection


async def ends(connection: socket.socket) -> bool:
    """Return True when the engine has ended a connection, however."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(6 * HANDSHAKE_S):
            while await loop.sock_recv(connection, 4_096):
                pass
    except ConnectionError:
        pass
    connection.close()
    return True


async def is_served(edge: LiveEdge, number: int) -> None:
    """A client comes now, subscribes, and is given what is published."""
    async with raw_client(edge.gateways[0].port, room=ROOM) as client:
        await edge.publish(ROOM, number)
        assert await client.publications(1) == [number]


@on_uvloop
async def test_half_open_connections_by_the_hundred_keep_nobody_out_and_are_cut() -> None:
    """FAULTS 41: silent ones, half a request, and one byte now and then; those who behave come and go meanwhile."""
    async with live_edge() as edge:
        gateway = edge.gateways[0]
        witness = await edge.listener(ROOM)
        starts = [b"", b"G", GET, handshake()[:-2], GET + b"X: " + b"y" * 15_000]
        flood = [await knocking(gateway.port, start) for start in starts for _ in range(150)]
        cut = asyncio.gather(*map(ends, flood))
        served = 0
        while not cut.done():
            for drip in flood[300:330]:
                try:
                    drip.send(b"z")
                except OSError:
                    continue
            await is_served(edge, served)
            served += 1
            await asyncio.sleep(0.2)
        assert await cut == [True] * len(flood)
        assert served
        assert await witness.data(served) == list(range(served))
        assert gateway.stats()["sessions"] == 1


@on_uvloop
async def test_connections_that_are_reset_in_every_state_leave_nothing_behind() -> None:
    """FAULTS 27, 29: before, in the middle of and after the handshake, connect, subscribe, a frame, a close."""
    async with live_edge() as edge:
        gateway = edge.gateways[0]
        witness = await edge.listener(ROOM)
        connect = frame(1, b'{"id":1,"connect":{}}')
        subscribe = frame(1, b'{"id":2,"subscribe":{"channel":"open:a"}}\n{"id":3,"subscribe":{"channel":"open:b"}}')
        whole = handshake() + connect + subscribe + frame(8, b"\x03\xe8")
        for end in range(1, len(whole), 7):
            connection = await knocking(gateway.port, whole[:end])
            if end % 2:
                await asyncio.sleep(0)
            reset(connection)
            connection.close()
        await edge.until(lambda: gateway.stats()["sessions"] == 1, "the others to be gone")
        await edge.until(lambda: gateway.stats()["subscriptions"] == 1, "their subscriptions to be gone")
        await is_served(edge, 1)
        assert await witness.data(1) == [1]


NO_REQUESTS = {
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "zeros": b"\x00" * 64,
    "a WebSocket frame": frame(1, b"{}"),
    "lower case": b"get / http/1.1\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a word": b"HELO there\r\n\r\n",
    "a colon first": b"GET / HTTP/1.1\r\n: y\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length and chunks": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
    "a negative length": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
}


@on_uvloop
async def test_what_is_no_request_is_refused_at_once() -> None:
    """FAULTS 42: nothing waits for a time-out where the first bytes say it all."""
    async with live_edge() as edge:
        gateway = await edge.gateway(http_app=app)
        for name, first in NO_REQUESTS.items():
            async with raw_socket(gateway.port) as raw:
                await raw.send(first)
                assert (await raw.head())[0] == 400, name
                assert (await raw.reader.read()).startswith(b"{"), name


BOMBS: dict[str, tuple[bytes, bytes]] = {
    "small headers": (GET, b"X-Some: header\r\n"),
    "one header": (GET + b"X: ", b"y" * 1_000),
    "a path": (b"GET /", b"y" * 1_000),
    "trailers": (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n",
        b"X-Some: tail\r\n",
    ),
    "one trailer": (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX: ",
        b"y" * 1_000,
    ),
    "a chunk's extension": (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;",
        b"y" * 1_000,
    ),
    "line breaks": (b"", b"\r\n" * 100),
}


@pytest.mark.parametrize("is_second", [False, True], ids=["at once", "after another request"])
@pytest.mark.parametrize("case", BOMBS)
@on_uvloop
async def test_a_head_without_end_is_refused_before_it_fills_the_memory(case: str, is_second: bool) -> None:
    """FAULTS 42: a cap of 16 KB, on the first request of a connection and on any later one."""
    begin, more = BOMBS[case]
    async with live_edge() as edge:
        gateway = await edge.gateway(http_app=app)
        async with raw_socket(gateway.port) as raw:
            if is_second:
                await raw.send(GET + b"\r\n")
                assert (await raw.head())[0] == 200
                assert await raw.reader.readexactly(5) == b"GET /"
            answer = asyncio.ensure_future(raw.head())
            await raw.send(begin)
            sent = 0
            while not answer.done() and sent < 40 * HANDSHAKE_BYTES_MAX:
                await raw.send(more)
                sent += len(more)
                await asyncio.sleep(0)
            assert (await answer)[0] in (0, 400), "0: reset, with what we had still sent unread"
            assert sent < 20 * HANDSHAKE_BYTES_MAX


@on_uvloop
async def test_a_long_head_in_one_piece_is_refused_on_a_kept_connection_too() -> None:
    """FAULTS 42: one read may bring all of it."""
    async with live_edge() as edge:
        gateway = await edge.gateway(http_app=app)
        async with raw_socket(gateway.port) as raw:
            for size, status in ((10_000, 200), (HANDSHAKE_BYTES_MAX + 100, 400)):
                await raw.send(GET + b"X: " + b"y" * size + b"\r\n\r\n")
                assert (await raw.head())[0] == status
                if status == 200:
                    await raw.reader.readexactly(5)


@on_uvloop
async def test_a_body_in_the_smallest_chunks_is_taken_all_the_same() -> None:
    """What bounds heads must not refuse what is only silly."""
    async with live_edge() as edge:
        gateway = await edge.gateway(http_app=app)
        async with raw_socket(gateway.port) as raw:
            await raw.send(b"POST /chunks HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(100):
                await raw.send(b"1\r\nx\r\n" * 200)
            await raw.send(b"0\r\n\r\n" + GET + b"\r\n")
            assert (await raw.head())[0] == 200
            assert await raw.reader.readexactly(12) == b"POST /chunks"
            assert (await raw.head())[0] == 200


@on_uvloop
async def test_a_request_behind_an_upgrade_is_no_request_and_an_upgrade_behind_a_request_is_no_upgrade() -> None:
    """FAULTS 42: a proxy that sees two requests where we see one, or the other way round, gets nothing smuggled."""
    async with live_edge() as edge:
        gateway = await edge.gateway(http_app=app)
        async with raw_socket(gateway.port) as raw:
            await raw.send(handshake() + GET + b"\r\n")
            assert (await raw.head())[0] == 101
            assert await raw.close_code() == 1002
            assert await raw.reader.read() == b""
        for first in (GET + b"\r\n", GET + b"Content-Length: 2\r\n\r\nab"):
            async with raw_socket(gateway.port) as raw:
                await raw.send(first + handshake(query="?x=1"))
                statuses = [await answered(raw), await answered(raw)]
                assert statuses[0] == 200 and 101 not in statuses


async def answered(raw: RawSocket) -> int:
    """Return the status of the next HTTP answer, and skip its body."""
    status, headers = await raw.head()
    await raw.reader.readexactly(int(headers.get("content-length", 0)))
    return status
