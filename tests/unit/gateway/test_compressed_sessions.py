"""Sessions and permessage-deflate, in virtual time: what is agreed on, what they are sent, what is refused of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from fanout.core.limits import COMMANDS_BURST, COMMANDS_REFUSED_MAX
from fanout.gateway.server import Gateway
from fanout.protocol import websocket
from fanout.protocol.deflate import deflate
from fanout.runtime.metrics import BYTES_SAVED, SESSIONS, SESSIONS_CLOSED
from tests.support.fake_line import MASK, UPGRADE, FakeLine
from tests.support.live_edge import LiveEdge
from tests.support.virtual_time import LoopClock, run

ANSWER = b"\r\nSec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n"
BROWSER = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
RSV1 = 0x40


def play(scene: Callable[[LiveEdge, Gateway], Awaitable[None]], *, is_on: bool = True) -> None:
    async def main() -> None:
        edge = LiveEdge(LoopClock())
        await edge.worker.start()
        await edge.sender.start()
        gateway = await edge.gateway(deflate=is_on)
        try:
            await scene(edge, gateway)
        finally:
            await edge.close()

    run(main())


def compressed(message: bytes) -> bytes:
    """Return a message as a browser sends it."""
    frame = websocket.masked_frame(websocket.TEXT, deflate(message), MASK)
    return bytes((frame[0] | RSV1,)) + frame[1:]


async def browser(gateway: Gateway, room: str = "") -> FakeLine:
    """Connect as a browser does: it offers compression, and compresses what it sends."""
    line = FakeLine(gateway)
    line.upgrade(BROWSER)
    line.receive(compressed(b'{"id":1,"connect":{}}'))
    if room:
        line.receive(compressed(b'{"id":2,"subscribe":{"channel":"%b"}}' % room.encode()))
    await asyncio.sleep(0.5)
    assert [reply.error for reply in line.replies] == [None] * (2 if room else 1)
    return line


def live(wire_format: str, compression: str) -> float:
    return float(SESSIONS.labels(wire_format, compression)._value.get())


@pytest.mark.parametrize(
    ("offer", "is_taken"),
    [
        (BROWSER, True),
        (b"Sec-WebSocket-Extensions: permessage-deflate\r\n", True),
        (b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9\r\n", False),
        (b"Sec-WebSocket-Extensions: permessage-deflate; no_such_parameter\r\n", False),
        (b"", False),
    ],
)
def test_compression_is_agreed_on_where_the_offer_can_be_met(offer: bytes, is_taken: bool) -> None:
    async def scene(edge: LiveEdge, gateway: Gateway) -> None:
        line = FakeLine(gateway)
        line.upgrade(offer)
        assert (ANSWER in line.head) == is_taken
        assert is_taken or b"Sec-WebSocket-Extensions" not in line.head
        line.send(b'{"id":1,"connect":{}}')
        await asyncio.sleep(0.5)
        assert line.replies[0].connect is not None

    play(scene)


def test_an_operator_can_turn_it_off() -> None:
    async def scene(edge: LiveEdge, gateway: Gateway) -> None:
        line = FakeLine(gateway)
        line.upgrade(BROWSER)
        assert line.head.startswith(b"HTTP/1.1 101") and b"Sec-WebSocket-Extensions" not in line.head
        line.receive(compressed(b'{"id":1,"connect":{}}'))
        assert line.code == 1002

    play(scene, is_on=False)


def test_a_page_can_decline_in_its_url_what_its_browser_offers() -> None:
    async def scene(edge: LiveEdge, gateway: Gateway) -> None:
        line = FakeLine(gateway)
        line.receive((UPGRADE % BROWSER).replace(b"websocket HTTP", b"websocket?deflate=off HTTP"))
        assert line.head.startswith(b"HTTP/1.1 101") and b"Sec-WebSocket-Extensions" not in line.head

    play(scene)


def test_sessions_are_counted_by_what_they_negotiated() -> None:
    async def scene(edge: LiveEdge, gateway: Gateway) -> None:
        plain, packed = live("json", "none"), live("json", "deflate")
        line, other = await browser(gateway), FakeLine(gateway)
        await other.connect()
        assert (live("json", "none") - plain, live("json", "deflate") - packed) == (1, 1)
        line.transport.close()
        await asyncio.sleep(0.1)
        assert (live("json", "none") - plain, live("json", "deflate") - packed) == (1, 0)

    play(scene)


def test_joined_messages_reach_a_browser_compressed_and_others_as_they_are() -> None:
    async def scene(edge: LiveEdge, gateway: Gateway) -> None:
        line, other = await browser(gateway, "open:a"), FakeLine(gateway)
        await other.connect()
        await other.ask(b'{"id":2,"subscribe":{"channel":"open:a"}}')
        saved = BYTES_SAVED._value.get()
        await asyncio.gather(*(edge.publish("open:a", f"message number {number}") for number in range(100)))
        await asyncio.sleep(1)
        for receiver in (line, other):
            assert len([push for push in receiver.pushes if push.pub]) == 100
        assert BYTES_SAVED._value.get() > saved + 3_000

    play(scene)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (compressed(bytes(20_000_000)), 1009),
        (bytes((0x80 | RSV1 | websocket.TEXT,)) + websocket.masked_frame(websocket.TEXT, b"\xff" * 9, MASK)[1:], 1007),
        (compressed(b"\xff\xfe"), 1007),
        (bytes((0x80 | RSV1 | websocket.PING,)) + websocket.masked_frame(websocket.PING, b"", MASK)[1:], 1002),
    ],
    ids=["a bomb", "no deflate data", "not UTF-8", "a compressed ping"],
)
def test_what_breaks_the_protocol_ends_the_session_and_is_counted(data: bytes, code: int) -> None:
    async def scene(edge: LiveEdge, gateway: Gateway) -> None:
        line = await browser(gateway)
        closed = SESSIONS_CLOSED.labels(str(code))._value.get()
        line.receive(data)
        assert line.code == code
        assert SESSIONS_CLOSED.labels(str(code))._value.get() == closed + 1

    play(scene)


def test_a_flood_of_pongs_is_a_flood() -> None:
    async def scene(edge: LiveEdge, gateway: Gateway) -> None:
        line = await browser(gateway)
        pong = websocket.masked_frame(websocket.PONG, b"x", MASK)
        line.receive(pong * (COMMANDS_BURST - 10))
        assert line.code is None
        line.receive(pong * (COMMANDS_REFUSED_MAX + 20))
        assert line.code == 3013

    play(scene)
