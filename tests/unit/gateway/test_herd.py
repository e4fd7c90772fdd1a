"""A herd in front of one gateway, in virtual time: who waits, who is refused, who does not wait at all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from fanout.core.limits import CONNECT_WAIT_S_MAX, HANDSHAKE_S
from fanout.gateway.admission import ConnectRate
from fanout.gateway.server import Gateway
from fanout.protocol import websocket
from tests.support.fake_line import MASK, UPGRADE, FakeLine
from tests.support.live_edge import LiveEdge
from tests.support.virtual_time import LoopClock, run

RATE = ConnectRate(10.0, 2)
PLACES = int(RATE.per_s * CONNECT_WAIT_S_MAX * 0.65)


def play(scene: Callable[[Gateway], Awaitable[None]]) -> None:
    async def main() -> None:
        edge = LiveEdge(LoopClock())
        await edge.worker.start()
        await edge.sender.start()
        gateway = await edge.gateway(connects=RATE)
        try:
            await scene(gateway)
        finally:
            await edge.close()

    run(main())


def asked(gateway: Gateway, count: int) -> list[FakeLine]:
    lines = [FakeLine(gateway) for _ in range(count)]
    for line in lines:
        line.upgrade()
    return lines


def is_in(line: FakeLine) -> bool:
    return line.head.startswith(b"HTTP/1.1 101")


def is_refused(line: FakeLine) -> bool:
    return line.head.startswith(b"HTTP/1.1 503") and b"\r\nRetry-After: " in line.head and line.transport.is_closed


def test_a_herd_comes_in_at_the_rate_and_what_is_too_much_is_told_when_to_come_back() -> None:
    async def scene(gateway: Gateway) -> None:
        lines = asked(gateway, RATE.burst + PLACES + 5)
        assert [is_in(line) for line in lines] == [True] * RATE.burst + [False] * (PLACES + 5)
        assert sum(map(is_refused, lines)) == 5
        await asyncio.sleep(1.05)
        assert 10 <= sum(map(is_in, lines)) - RATE.burst <= 11
        await asyncio.sleep(CONNECT_WAIT_S_MAX)
        assert sum(map(is_in, lines)) + sum(map(is_refused, lines)) == len(lines)
        assert sum(map(is_in, lines)) == RATE.burst + PLACES

    play(scene)


def test_who_waits_for_us_does_not_miss_the_deadline_of_the_handshake() -> None:
    async def scene(gateway: Gateway) -> None:
        lines = asked(gateway, RATE.burst + PLACES)
        await asyncio.sleep(HANDSHAKE_S + 2)
        assert not any(line.transport.is_aborted for line in lines)

    play(scene)


def test_a_request_for_anything_else_does_not_stand_in_line() -> None:
    async def scene(gateway: Gateway) -> None:
        asked(gateway, RATE.burst + 10)
        probe = FakeLine(gateway)
        probe.receive(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert probe.head.startswith(b"HTTP/1.1 404"), "this gateway has no HTTP behind its port"

    play(scene)


def test_a_request_that_comes_in_pieces_does_not_pass_the_line_by() -> None:
    async def scene(gateway: Gateway) -> None:
        asked(gateway, RATE.burst)
        line = FakeLine(gateway)
        for byte in UPGRADE % b"":
            line.receive(bytes((byte,)))
        assert not line.head
        await asyncio.sleep(0.5)
        assert is_in(line)

    play(scene)


def test_what_a_client_says_while_it_waits_is_kept_up_to_a_bound() -> None:
    async def scene(gateway: Gateway) -> None:
        asked(gateway, RATE.burst)
        eager, flooding = asked(gateway, 2)
        eager.receive(websocket.masked_frame(websocket.TEXT, b'{"id":1,"connect":{}}', MASK))
        for _ in range(3):
            flooding.receive(b"x" * 8_000)
        assert flooding.head.startswith(b"HTTP/1.1 400") and flooding.transport.is_closed
        await asyncio.sleep(1.0)
        assert is_in(eager)
        assert eager.replies and eager.replies[0].connect is not None

    play(scene)


def test_who_hangs_up_in_the_line_takes_nobodys_turn() -> None:
    async def scene(gateway: Gateway) -> None:
        asked(gateway, RATE.burst)
        gone, last = asked(gateway, 20), asked(gateway, 1)[0]
        for line in gone:
            line.transport.abort()
        await asyncio.sleep(0.3)
        assert is_in(last)
        assert not any(map(is_in, gone))

    play(scene)


def test_a_drain_refuses_the_line() -> None:
    async def scene(gateway: Gateway) -> None:
        lines = asked(gateway, RATE.burst + 20)
        await gateway.drain()
        assert all(is_in(line) for line in lines[: RATE.burst])
        assert all(is_refused(line) for line in lines[RATE.burst :])
        assert b'"draining"' in lines[-1].head

    play(scene)


def test_a_drain_sends_sessions_away_in_waves_and_is_over_in_time() -> None:
    async def main() -> None:
        edge = LiveEdge(LoopClock())
        await edge.worker.start()
        await edge.sender.start()
        gateway = await edge.gateway(drain_s=2.0, connects=ConnectRate(1e6, 10_000))
        lines = [FakeLine(gateway) for _ in range(400)]
        await asyncio.gather(*(line.connect() for line in lines))
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        draining = asyncio.ensure_future(gateway.drain())
        await asyncio.sleep(0.25)
        gone = sum(line.code == 3001 for line in lines)
        assert 0 < gone < len(lines)
        await draining
        assert loop.time() - begun_s <= 2.0
        assert all(line.code == 3001 for line in lines)
        await edge.close()

    run(main())
