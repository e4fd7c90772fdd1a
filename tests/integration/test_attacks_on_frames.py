"""Frames under attack on real sockets: floods, bombs, drips, endless fragments, resets in the middle of a frame.

Each single violation and its code is in ``tests/acceptance/test_bad_client_input.py``; here attackers come in numbers,
and beside them sits a session that must be given everything, in order, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from fanout.core.limits import CLIENT_MESSAGE_BYTES_MAX, MESSAGE_FRAGMENTS_MAX
from tests.support.live_edge import Client, LiveEdge, live_edge
from tests.support.loops import on_uvloop
from tests.support.raw_client import RawClient, raw_client
from tests.support.raw_socket import RawSocket, frame, handshake, raw_socket, text

ROOM = "open:a"
OFFER = ("Sec-WebSocket-Extensions: permessage-deflate",)
ATTACKERS = 8


@contextlib.asynccontextmanager
async def beside() -> AsyncIterator[LiveEdge]:
    """Run an edge with a session that listens all the while; at the end it has everything, and nothing is left over."""
    async with live_edge() as edge:
        witness: Client = await edge.listener(ROOM)
        stop, sent = asyncio.Event(), 0

        async def publish() -> None:
            nonlocal sent
            while not stop.is_set():
                await edge.publish(ROOM, sent)
                sent += 1
                await asyncio.sleep(0.001)

        publishing = asyncio.ensure_future(publish())
        try:
            yield edge
        finally:
            stop.set()
            await publishing
        assert await witness.data(sent) == list(range(sent))
        assert witness.closed is None
        await edge.until(lambda: edge.gateways[0].stats()["sessions"] == 1, "the attackers to be gone")
        assert edge.gateways[0].stats()["subscriptions"] == 1


async def attacked_by(edge: LiveEdge, attack: Callable[[RawClient], Awaitable[None]]) -> None:
    """Let several clients do the same at once."""
    async with AsyncExitStack() as stack:
        port = edge.gateways[0].port
        clients = [await stack.enter_async_context(raw_client(port, room=ROOM)) for _ in range(ATTACKERS)]
        await asyncio.gather(*map(attack, clients))


@pytest.mark.parametrize("opcode", [9, 10], ids=["pings", "pongs"])
@on_uvloop
async def test_a_flood_of_control_frames_ends_with_3013_and_delays_no_publication_for_good(opcode: int) -> None:
    """FAULTS 56: both kinds of control frame have a price, asked for or not."""

    async def attack(client: RawClient) -> None:
        await client.send(frame(opcode, b"x" * 20) * 2_000)  # in one piece: no pause in which the rate recovers
        assert await client.close_code() == 3013

    async with beside() as edge:
        await attacked_by(edge, attack)


@on_uvloop
async def test_frames_that_come_byte_by_byte_are_understood_and_hold_up_nobody() -> None:
    """FAULTS 39: many fragments of a byte, pings between them, every byte in a segment of its own."""
    command = b'{"id":7,"presence_stats":{"channel":"open:a"}}'

    async def attack(client: RawClient) -> None:
        pieces = [frame(0 if n else 1, bytes([byte]), fin=False) for n, byte in enumerate(command)]
        whole = b"".join(piece + (frame(9) if n % 8 == 0 else b"") for n, piece in enumerate(pieces)) + frame(0)
        for byte in whole:
            client.writer.write(bytes([byte]))
            await asyncio.sleep(0)
        assert (await client.reply(7))["presence_stats"]["num_clients"] == ATTACKERS + 1

    async with beside() as edge:
        await attacked_by(edge, attack)


@on_uvloop
async def test_a_size_that_is_only_declared_takes_no_memory() -> None:
    """FAULTS 38, 39: hundreds of messages of 64 KB begin, and their second byte never comes."""
    begun = b"\x81\xff" + CLIENT_MESSAGE_BYTES_MAX.to_bytes(8) + b"mask" + b"x"
    async with beside() as edge, AsyncExitStack() as stack:
        port = edge.gateways[0].port
        clients = [await stack.enter_async_context(raw_client(port)) for _ in range(100)]
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for client in clients:
                await client.send(begun)
            await asyncio.sleep(0.2)
            now, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert now - before < len(clients) * 8_192
        assert edge.gateways[0].stats()["sessions"] == 101


@on_uvloop
async def test_fragments_without_end_are_cut_at_their_number_and_at_their_sum() -> None:
    """FAULTS 39: empty ones, tiny ones and large ones, with control frames between them to look busy."""
    busy = frame(9, b"still here")
    floods = {
        "empty": frame(0, b"", fin=False) * MESSAGE_FRAGMENTS_MAX,
        "tiny": (frame(0, b"x", fin=False) + busy) * 20 + frame(0, b"x", fin=False) * MESSAGE_FRAGMENTS_MAX,
        "large": frame(0, b"x" * 9_000, fin=False) * 8,
    }

    async def attack(client: RawClient) -> None:
        for flood in floods.values():
            async with raw_client(client.writer.get_extra_info("peername")[1]) as one:
                await one.send(frame(1, b"{", fin=False) + flood)
                assert await one.close_code() == 1009
        await client.send(frame(8))

    async with beside() as edge:
        await attacked_by(edge, attack)


@contextlib.asynccontextmanager
async def deflating(edge: LiveEdge) -> AsyncIterator[RawSocket]:
    """Open a session that negotiated compression."""
    async with raw_socket(edge.gateways[0].port) as raw:
        await raw.send(handshake(more=OFFER) + text('{"id":1,"connect":{}}'))
        status, headers = await raw.head()
        assert status == 101 and headers["sec-websocket-extensions"].startswith("permessage-deflate")
        assert '"connect"' in await raw.text()
        yield raw


def deflated(data: bytes) -> bytes:
    """Return a message's payload, compressed by itself."""
    press = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (press.compress(data) + press.flush(zlib.Z_SYNC_FLUSH))[:-4]


def ended(data: bytes) -> bytes:
    """Return a DEFLATE stream that ends, as senders may use several of in one message."""
    press = zlib.compressobj(9, zlib.DEFLATED, -15)
    return press.compress(data) + press.flush()


BOMB = deflated(b" " * (32 << 20))
COMPRESSED: dict[str, tuple[bytes, int]] = {
    "a bomb": (frame(1, BOMB, rsv=4), 1009),
    "a bomb in fragments": (
        frame(1, BOMB[:100], rsv=4, fin=False) + frame(0, BOMB[100:20_000], fin=False) + frame(0, BOMB[20_000:]),
        1009,
    ),
    "a bomb one byte too large": (frame(1, deflated(b" " * (CLIENT_MESSAGE_BYTES_MAX + 1)), rsv=4), 1009),
    "a bomb of many streams": (frame(2, ended(b" " * 60_000) * 7, rsv=4), 1009),
    "streams without end": (frame(2, ended(b"") * 200, rsv=4), 1007),
    "no DEFLATE data": (frame(1, b"\xff" * 50, rsv=4), 1007),
    "not UTF-8 inside": (frame(1, deflated(b'{"id":2,"rpc":{"method":"\xff"}}'), rsv=4), 1007),
    "a compressed ping": (frame(9, deflated(b"x"), rsv=4), 1002),
    "a compressed continuation": (frame(1, b"", rsv=4, fin=False) + frame(0, b"", rsv=4), 1002),
    "another reserved bit": (frame(1, deflated(b"{}"), rsv=6), 1002),
}


@on_uvloop
async def test_compressed_messages_are_unpacked_no_further_than_their_cap() -> None:
    """FAULTS 37, 56: 32 MB in 32 KB, and whatever else RSV1 can be made to mean."""
    async with beside() as edge:
        for name, (data, code) in COMPRESSED.items():
            async with deflating(edge) as raw:
                tracemalloc.start()
                try:
                    await raw.send(data)
                    assert await raw.close_code() == code, name
                    _, peak = tracemalloc.get_traced_memory()
                finally:
                    tracemalloc.stop()
                assert peak < 16 * CLIENT_MESSAGE_BYTES_MAX, f"{name}: {peak}"
        async with deflating(edge) as raw:
            largest = json.dumps({"id": 2, "rpc": {"method": "m" * (CLIENT_MESSAGE_BYTES_MAX - 40)}}).encode()
            await raw.send(frame(1, deflated(largest), rsv=4))
            assert '"id":2' in await raw.text()


@on_uvloop
async def test_invalid_text_is_refused_wherever_it_is_cut() -> None:
    """FAULTS 40: a code point in pieces, over frames and over reads, with a ping in its middle."""
    cases = (b"\xe2\x82\x28", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80")

    async def attack(client: RawClient) -> None:
        for bad in cases:
            async with raw_client(client.writer.get_extra_info("peername")[1]) as one:
                pieces = [frame(0, bytes([byte]), fin=False) + frame(9) for byte in bad]
                for piece in [frame(1, b'{"id":', fin=False), *pieces, frame(0)]:
                    await one.send(piece)
                    await asyncio.sleep(0)
                assert await one.close_code() == 1007, bad
        await client.send(frame(8))

    async with beside() as edge:
        await attacked_by(edge, attack)


@on_uvloop
async def test_close_frames_that_cross_on_the_wire_end_the_connection_once() -> None:
    """Both sides say goodbye at the same time: one close frame each, then the end of the stream."""
    async with beside() as edge:
        for first in (text("{}"), text("nonsense"), frame(1, b"\xff"), frame(3)):
            for goodbye in (frame(8), frame(8, b"\x03\xe9bye"), frame(8, b"\x03\xe9") * 2):
                async with raw_client(edge.gateways[0].port) as client:
                    await client.send(first + goodbye + text('{"id":9,"ping":{}}'))
                    assert await client.close_code() in (3501, 1001, 1002, 1007)
                    assert await client.reader.read() == b"", "nothing after the close frame"


@on_uvloop
async def test_resets_in_the_middle_of_frames_leave_neither_sessions_nor_subscriptions() -> None:
    """FAULTS 27: gone without a word, in the middle of a header, a payload, a message, an answer."""
    whole = frame(1, b'{"id":8,', fin=False) + frame(9, b"p") + frame(0, b'"history":{"channel":"open:a","limit":-1}}')

    async def attack(client: RawClient) -> None:
        for end in range(1, len(whole) + 1, 2):
            async with raw_client(client.writer.get_extra_info("peername")[1], room=ROOM) as one:
                await one.send(whole[:end])
                one.reset()
        client.reset()

    async with beside() as edge:
        await attacked_by(edge, attack)


@on_uvloop
async def test_commands_without_a_pause_from_many_sessions_leave_the_others_their_turn() -> None:
    """FAULTS 50: full frames of commands as fast as the socket takes them, until 3013."""

    async def attack(client: RawClient) -> None:
        ids = iter(range(10, 10**6))
        for _ in range(4):
            lines = [f'{{"id":{next(ids)},"history":{{"channel":"{ROOM}","limit":1}}}}' for _ in range(200)]
            await client.send(text("\n".join(lines)))
        assert await client.close_code() == 3013

    async with beside() as edge:
        await attacked_by(edge, attack)
