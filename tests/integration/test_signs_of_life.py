"""Signs of life on real sockets and the real loop: pings come on time on busy connections, and a loop that stood still
judges nobody by what it has not read."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import uvloop

from fanout.protocol import websocket
from fanout.protocol.centrifuge import WireFormat
from tests.support.fake_line import MASK, UPGRADE
from tests.support.live_edge import live_edge

PING_S, PONG_S = 0.8, 0.4


class Answering(threading.Thread):
    """A client in a thread of its own, so that it answers while the gateway's loop stands still."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.pings = 0
        self.close_code = 0
        self._socket = socket.create_connection(("127.0.0.1", port))

    def run(self) -> None:
        with self._socket:
            self._socket.sendall(UPGRADE % b"")
            data = b""
            while b"\r\n\r\n" not in data:
                data += self._socket.recv(4_096)
            parser = websocket.FrameParser(masked=False)
            self._say(b'{"id":1,"connect":{}}')
            data = data.partition(b"\r\n\r\n")[2]
            while data or (data := self._socket.recv(4_096)):
                for event in parser.feed(data):
                    if isinstance(event, websocket.Close):
                        self.close_code = event.code
                        return
                    if isinstance(event, websocket.Text) and event.data == b"{}":
                        self.pings += 1
                        self._say(b"{}")
                data = b""

    def _say(self, text: bytes) -> None:
        self._socket.sendall(websocket.masked_frame(websocket.TEXT, text, MASK))


def stand_still(seconds: float) -> None:
    """Hold the loop up, as a long collection of garbage would."""
    time.sleep(seconds)


def test_pings_come_on_time_while_publications_never_cease() -> None:
    async def main() -> None:
        async with live_edge(ping_s=PING_S, pong_s=PONG_S) as edge:
            busy = [await edge.listener("open:busy", wire_format) for wire_format in WireFormat]
            idle = await edge.listener("open:idle")
            while idle.pings < 4:
                await edge.publish("open:busy", {"x": "y" * 200})
            for client in busy:
                assert client.closed is None
                assert client.pushes.qsize() > 50
                assert client.pings >= idle.pings - 1

    uvloop.run(main())


def test_a_loop_that_stood_still_closes_nobody_for_a_pong_that_it_did_not_read() -> None:
    async def main() -> None:
        async with live_edge(ping_s=PING_S, pong_s=PONG_S) as edge:
            clients = [Answering(edge.gateways[0].port) for _ in range(8)]
            for client in clients:
                client.start()
            for pause_s in (0.21, 0.37):
                await asyncio.sleep(PING_S + pause_s)
                stand_still(PING_S + PONG_S)
            await asyncio.sleep(PING_S + PONG_S)
            assert [client.close_code for client in clients] == [0] * len(clients)
            assert all(client.pings >= 2 for client in clients)
            await edge.gateways[0].drain()
            for client in clients:
                await asyncio.to_thread(client.join, 5)
            assert {client.close_code for client in clients} == {3001}

    uvloop.run(main())
