"""The edge bench itself, small: an engine of its own, the floor, and streams that are wrong on purpose.

A checker that never fails proves nothing, so the draining client is fed lost, doubled, swapped and changed messages.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from bench._edge_client import DrainingClient, build
from bench._edge_lines import chat_tails, message
from fanout.core.errors import FanoutError
from fanout.protocol.websocket import CLOSE, TEXT, close_payload, frame

ROOT = Path(__file__).resolve().parent.parent.parent
ROOM = "open:edge"
PEERS = 5
TAILS = chat_tails()
FIGURES = (
    "bench", "sessions", "in_flight", "wire", "deflate", "deliveries_per_s", "frames_per_s", "cpu_us_per_delivery",
    "p50_ms", "p99_ms", "kb_per_session", "bytes_per_delivery", "lost",
)  # fmt: skip
WRONG = ("lost", "doubled", "changed", "unsubscribed", "closed", "refused")
SMALL = ("--sessions", "50", "--seconds", "0.3", "--warm-s", "0.1")

Stream = Callable[[int], bytes]  # what peer number i is sent


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    try:
        build()
    except FanoutError as missing:
        if os.environ.get("CI"):
            pytest.fail(f"cannot run under CI: {missing}", pytrace=False)
        pytest.skip(str(missing))


# --- a server that sends what it is told ------------------------------------------------------------------------------


class Peer(asyncio.Protocol):
    """Lets anybody in, without looking closer than it must."""

    def __init__(self, peers: list[Peer]) -> None:
        self._peers = peers
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET "):
            self.transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n\r\n"
            )
        elif b"subscribe" in data:  # masked with zeros
            self._peers.append(self)
            self.transport.write(frame(TEXT, b'{"id":1,"connect":{"client":"c"}}\n{"id":2,"subscribe":{}}'))
        else:
            self.received += data


@asynccontextmanager
async def peers() -> AsyncIterator[tuple[list[Peer], DrainingClient]]:
    """Yield the server's ends of PEERS sessions, and the client that has opened them."""
    connected: list[Peer] = []
    server = await asyncio.get_running_loop().create_server(lambda: Peer(connected), "127.0.0.1", 0)
    with DrainingClient(server.sockets[0].getsockname()[1], ROOM, pid=0, sessions=PEERS, deflate=True) as client:
        assert (await asyncio.to_thread(client.ask, "open", PEERS))["sessions"] == PEERS
        yield connected, client
        for peer in connected:
            peer.transport.abort()
    server.close()
    await server.wait_closed()


async def seen(stream: Stream) -> dict[str, Any]:
    """Send each peer its stream; return what the client says of it."""
    async with peers() as (connected, client):
        for number, peer in enumerate(connected):
            peer.transport.write(stream(number))
        await asyncio.sleep(0)
        return await asyncio.to_thread(client.settle)


def push(number: int, data: bytes | None = None) -> bytes:
    return b'{"push":{"channel":"%b","pub":{"data":%b,"offset":%d}}}' % (
        ROOM.encode(), data or message(number, 5, TAILS), number + 7,
    )  # fmt: skip


def told(*groups: Sequence[int]) -> bytes:
    """Return frames, each with the messages of one group."""
    return b"".join(frame(TEXT, b"\n".join(push(number) for number in group)) for group in groups)


def one_peer_is_told(otherwise: bytes, whole: bytes, *, which: int = PEERS - 1) -> Stream:
    return lambda peer: otherwise if peer == which else whole


def deflated(payload: bytes) -> bytes:
    squeeze = zlib.compressobj(1, zlib.DEFLATED, -15)
    made = frame(TEXT, (squeeze.compress(payload) + squeeze.flush(zlib.Z_SYNC_FLUSH))[:-4])
    return bytes([made[0] | 0x40]) + made[1:]


def wrong(found: dict[str, Any]) -> dict[str, int]:
    return {what: found[what] for what in WRONG if found[what]}


# --- the checker ------------------------------------------------------------------------------------------------------


async def test_messages_are_counted_however_their_frames_are_joined() -> None:
    joined = (
        told([1, 2, 3, 4]),
        told([1], [2, 3], [4]),
        told([1, 2], [3, 4]),
        told([1], [2], [3], [4]),
        told([1, 2, 3], [4]),
    )
    found = await seen(lambda peer: joined[peer])
    assert (found["delivered"], wrong(found)) == (4 * PEERS, {})


async def test_each_distinct_frame_is_read_once() -> None:
    found = await seen(lambda peer: told(range(1, 100), range(100, 200)))
    assert (found["delivered"], wrong(found)) == (199 * PEERS, {})


@pytest.mark.parametrize("which", [0, PEERS - 1])
@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (told([1, 2], [4]), {"lost": 1}),
        (told([1], [3, 4]), {"lost": 1}),
        (told([1, 2], [3]), {"lost": 1}),
        (b"", {"lost": 4}),
        (told([1, 2], [1, 2], [3, 4]), {"doubled": 2}),
        (told([1, 2], [2, 3, 4]), {"doubled": 1}),
        (told([1, 2], [4, 3]), {"lost": 1, "doubled": 1}),
        (told([3, 4], [1, 2]), {"lost": 2, "doubled": 2}),
    ],
)
async def test_one_session_that_is_told_otherwise_is_noticed(
    stream: bytes, expected: dict[str, int], which: int
) -> None:
    found = await seen(one_peer_is_told(stream, told([1, 2], [3, 4]), which=which))
    assert wrong(found) == expected


@pytest.mark.parametrize("which", [0, PEERS - 1])
@pytest.mark.parametrize("place", [0, 6, 22, 60, 122])
async def test_a_changed_byte_is_noticed(place: int, which: int) -> None:
    whole = message(2, 5, TAILS)
    changed = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
    stream = told([1]) + frame(TEXT, push(2, changed)) + told([3, 4])
    found = await seen(one_peer_is_told(stream, told([1], [2], [3, 4]), which=which))
    assert wrong(found)
    assert found["delivered"] < 4 * PEERS or found["changed"]


async def test_compressed_frames_are_checked_like_plain_ones() -> None:
    whole = deflated(b"\n".join(push(number) for number in range(1, 129)))
    short = deflated(b"\n".join(push(number) for number in range(1, 129) if number != 77))
    fine = await seen(lambda peer: whole)
    assert (fine["delivered"], wrong(fine)) == (128 * PEERS, {})
    assert fine["bytes"] < 128 * PEERS * 100
    assert wrong(await seen(one_peer_is_told(short, whole))) == {"lost": 1}


async def test_bytes_that_are_no_compressed_frame_are_noticed() -> None:
    whole = deflated(push(1))
    broken = whole[:10] + bytes([whole[10] ^ 255]) + whole[11:]
    assert wrong(await seen(one_peer_is_told(broken, whole)))


async def test_pings_between_frames_are_answered_and_disturb_nothing() -> None:
    async with peers() as (connected, client):
        connected[3].transport.write(told([1]) + frame(TEXT, b"{}") + told([2, 3]))
        for place, peer in enumerate(connected):
            if place != 3:
                peer.transport.write(told([1], [2, 3]))
        found = await asyncio.to_thread(client.settle)
        await asyncio.sleep(0.05)
        assert (found["delivered"], wrong(found)) == (3 * PEERS, {})
        assert [peer.received for peer in connected] == [b"", b"", b"", b"\x81\x82\x00\x00\x00\x00{}", b""]


async def test_an_unsubscribe_and_a_close_are_noticed() -> None:
    gone = told([1]) + frame(TEXT, b'{"push":{"channel":"open:edge","unsubscribe":{"code":2500,"reason":"x"}}}')
    assert wrong(await seen(one_peer_is_told(gone, told([1])))) == {"unsubscribed": 1}
    closed = told([1]) + frame(CLOSE, close_payload(3008, "slow"))
    assert wrong(await seen(one_peer_is_told(closed, told([1])))) == {"closed": 1}


async def test_bytes_may_be_cut_anywhere() -> None:
    async with peers() as (connected, client):
        whole = told([1, 2], [3]) + frame(TEXT, b"{}") + told(range(4, 9), [9])
        for start in range(0, len(whole), 7):
            for place, peer in enumerate(connected):
                cut = start + 3 * place  # everybody's cuts are elsewhere
                peer.transport.write(whole[: 3 * place] if not start else b"")
                peer.transport.write(whole[cut : cut + 7])
            await asyncio.sleep(0.0005)
        found = await asyncio.to_thread(client.settle)
        assert (found["delivered"], wrong(found)) == (9 * PEERS, {})


# --- the bench --------------------------------------------------------------------------------------------------------


def bench(*arguments: str) -> tuple[int, list[dict[str, Any]], str]:
    """Run the bench; return its exit status, its lines, and all that it printed."""
    command = [sys.executable, "-m", "bench", "edge", *SMALL, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stdout + done.stderr


def test_an_engine_and_the_floor_deliver_everything() -> None:
    status, lines, printed = bench("--only", "engine", "floor")
    assert status == 0, printed
    *measured, summary = lines
    engine = [line for line in measured if line["bench"] == "edge"]
    assert [line["in_flight"] for line in engine] == [1, 4, 128]
    assert all(name in line for line in engine for name in FIGURES)
    assert all(line["frames_per_s"] > 0 and not wrong(line) for line in measured), printed
    assert [line["joined"] for line in measured if line["bench"] == "edge_floor"] == [1, 1, 32, 128]
    assert summary["lost"] == 0


def test_sessions_that_never_read_are_no_loss() -> None:
    status, lines, printed = bench("--behind", "10")
    assert status == 0, printed
    assert (lines[0]["behind"], lines[0]["sessions"], lines[0]["lost"]) == (10, 50, 0)
