"""Rooms under attack on real sockets: readers that never read, storms of joins and leaves, forged positions, herds.

Beside each attack sit sessions that behave: what they are given is what was published, in order, once.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import pytest

from fanout.core.limits import FRAME_BYTES_MAX, WRITE_HIGH_WATER_BYTES
from fanout.gateway.server import Gateway
from fanout.protocol.centrifuge import WireFormat
from tests.support.live_edge import Client, LiveEdge, live_edge
from tests.support.loops import on_uvloop
from tests.support.raw_client import RawClient, raw_client
from tests.support.raw_socket import text

ROOM = "open:a"


async def readers(edge: LiveEdge) -> list[Client]:
    """Two sessions that behave, one of each wire format."""
    return [await edge.listener(ROOM, wire_format) for wire_format in WireFormat]


def kept_for(gateway: Gateway) -> list[int]:
    """Return the bytes that wait in this process for each session."""
    sinks: list[Any] = [session.sink for session in gateway.services.sessions.by_number.values()]
    return [sink.get_write_buffer_size() for sink in sinks]


@on_uvloop
async def test_clients_that_never_read_cost_bounded_memory_and_the_readers_nothing() -> None:
    """FAULTS 25, 26: nothing is kept for a full socket beyond the frame that filled it; nothing reliable is lost."""
    async with live_edge() as edge, AsyncExitStack() as stack:
        gateway = edge.gateways[0]
        behaving = await readers(edge)
        stuck = [await stack.enter_async_context(raw_client(gateway.port, room=ROOM, small=True)) for _ in range(30)]
        for one in stuck:
            one.writer.transport.pause_reading()  # type: ignore[attr-defined]
        padding = "x" * 8_000
        for number in range(500):
            await edge.publish(ROOM, [number, padding])
        for client in behaving:
            assert [one[0] for one in await client.data(500)] == list(range(500))
        assert gateway.stats()["behind"] == len(stuck)
        assert max(kept_for(gateway)) <= WRITE_HIGH_WATER_BYTES + FRAME_BYTES_MAX + 8_200
        for one in stuck[:20]:
            one.reset()
        for one in stuck[20:]:
            one.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for one in stuck[20:]:
            assert [data[0] for data in await one.publications(500)] == list(range(500))
        await edge.until(lambda: gateway.stats()["pending"] == 0, "everything to be written")
        assert gateway.stats()["subscriptions"] == 12
        assert set(gateway.stats()["dropped"]) <= {"closed", "behind_ring"}, "and offered anew from the history"


@on_uvloop
async def test_a_client_that_reads_a_little_now_and_then_gets_everything_reliable_in_order() -> None:
    """FAULTS 25: far slower than the room, on a connection that takes 8 KB at a time; likes may be skipped for it."""
    async with live_edge() as edge:
        gateway = edge.gateways[0]
        behaving = await readers(edge)
        async with raw_client(gateway.port, room="live:a", small=True) as slow:
            witness = await edge.listener("live:a")
            slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
            notices = 0
            for number in range(1_200):
                is_notice = number % 3 == 0
                notices += is_notice
                await edge.publish("live:a", [number, "x" * 1_000], "system" if is_notice else "low")
                await edge.publish(ROOM, number)
                if number % 40 == 0:
                    slow.writer.transport.resume_reading()  # type: ignore[attr-defined]
                    await slow.read_some()
                    slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
            slow.writer.transport.resume_reading()  # type: ignore[attr-defined]
            last = await edge.publish("live:a", [1_200, ""], "system")
            async with asyncio.timeout(20):
                while last.offset not in slow.offsets:
                    await slow.read_some()
            numbers = [data[0] for data in slow.data]
            assert numbers == sorted(set(numbers))
            assert [number for number in numbers if number % 3 == 0] == list(range(0, 1_201, 3))
            for client in behaving:
                assert await client.data(1_200) == list(range(1_200))
            assert (await witness.data(notices))[0][0] == 0


@on_uvloop
async def test_joins_and_leaves_in_one_frame_over_and_over_lose_and_repeat_nothing() -> None:
    """FAULTS 31: a client leaves and returns with its position in the same bytes, while the room is at full rate."""
    async with live_edge() as edge, AsyncExitStack() as stack:
        gateway = edge.gateways[0]
        behaving = await readers(edge)
        movers = [await stack.enter_async_context(raw_client(gateway.port)) for _ in range(6)]
        published, is_over = 0, False

        async def publish() -> None:
            nonlocal published
            while not is_over:
                await asyncio.gather(*(edge.publish(ROOM, published + n) for n in range(4)))
                published += 4

        async def move(mover: RawClient) -> None:
            joined = await mover.subscribe(2, ROOM)
            first = joined.get("offset", 0)
            for turn in range(35):
                position = {"recover": True, "epoch": joined["epoch"], "offset": max([first, *mover.offsets])}
                back = {"id": 2 * turn + 4, "subscribe": {"channel": ROOM, **position}}
                # What is in flight when the leave arrives comes twice: as a push and in the replay.
                leave = {"id": 2 * turn + 3, "unsubscribe": {"channel": ROOM}}
                await mover.send(text(json.dumps(leave) + "\n" + json.dumps(back)))
                reply = await mover.reply(2 * turn + 4)
                assert reply["subscribe"]["recovered"], reply
                await asyncio.sleep(0.01)

        publishing = asyncio.ensure_future(publish())
        await asyncio.gather(*map(move, movers))
        is_over = True
        await publishing
        for client in behaving:
            assert await client.data(published) == list(range(published))
        for mover in movers:
            async with asyncio.timeout(20):
                while not mover.data or mover.data[-1] < published - 1:
                    await mover.read_some()
            seen = sorted(set(mover.data))
            assert seen == list(range(seen[0], published)), "no gap"
        assert gateway.stats()["subscriptions"] == 8


FORGED: dict[str, tuple[dict[str, Any], bool]] = {
    "the beginning": ({"offset": 0}, True),
    "an offset before all": ({"offset": 1}, True),
    "one that nobody has reached": ({"offset": 10**6}, True),
    "the largest that JSON can tell": ({"offset": 2**53 - 1}, True),
    "the largest that is read": ({"offset": 2**63 - 1}, True),
    "an epoch of elsewhere": ({"offset": 5, "epoch": "elsewhere"}, False),
    "no epoch": ({"offset": 5, "epoch": ""}, False),
    "a long epoch": ({"offset": 2**62, "epoch": "e" * 50_000}, False),
}


@on_uvloop
async def test_forged_positions_are_declared_lost_or_harm_only_who_made_them() -> None:
    """FAULTS 51: whatever a client says where it was, others are given everything, and the room goes on."""
    async with live_edge() as edge, AsyncExitStack() as stack:
        gateway = edge.gateways[0]
        behaving = await readers(edge)
        for number in range(20):
            published = await edge.publish(ROOM, number)
        forgers: dict[str, RawClient] = {}
        for name, (position, is_of_epoch) in FORGED.items():
            forger = forgers[name] = await stack.enter_async_context(raw_client(gateway.port))
            epoch = {"epoch": published.epoch} if is_of_epoch else {}
            joined = await forger.subscribe(2, ROOM, recover=True, **epoch, **position)
            assert joined.get("recovered", False) == is_of_epoch, name
            assert is_of_epoch or not joined.get("publications"), f"{name}: never a part"
            assert joined["epoch"] == published.epoch
        for number in range(20, 40):
            await edge.publish(ROOM, number)
        for client in behaving:
            assert await client.data(40) == list(range(40))
        for name, (_, is_of_epoch) in FORGED.items():
            if not is_of_epoch:
                assert await forgers[name].publications(20) == list(range(20, 40)), name
        for name in ("the beginning", "an offset before all"):
            assert await forgers[name].publications(40) == list(range(40)), name
        assert gateway.stats()["ahead"] == 3, "they wait for what they say that they have seen"
        since = {"offset": 2**62, "epoch": published.epoch}
        answer = await forgers["no epoch"].ask(9, history={"channel": ROOM, "limit": 10, "since": since})
        assert answer["history"].get("publications", []) == []
        for offset in (2**64 - 1, 10**400, -1, 1.5, "1"):
            answer = await forgers["no epoch"].ask(
                9, subscribe={"channel": "open:b", "recover": True, "offset": offset}
            )
            assert answer["error"]["code"] == 107, offset
    assert not gateway.services.sessions.by_number


@on_uvloop
async def test_a_herd_that_was_cut_at_once_returns_to_a_cold_gateway_and_nobody_misses_anything() -> None:
    """FAULTS 24, 30: resets for all, and all of them come to a gateway that does not hold the room."""
    async with live_edge(gateways=2) as edge, AsyncExitStack() as stack:
        warm, cold = edge.gateways
        behaving = await readers(edge)
        herd = [await stack.enter_async_context(raw_client(warm.port, room=ROOM)) for _ in range(150)]
        for number in range(50):
            published = await edge.publish(ROOM, number)
        for one in herd:
            await one.publications(50)
            one.reset()
        for number in range(50, 80):
            await edge.publish(ROOM, number)
        await edge.until(lambda: warm.stats()["subscriptions"] == len(behaving), "the herd to be gone")

        async def back(one: RawClient) -> RawClient:
            position = {"recover": True, "offset": one.offsets[-1], "epoch": published.epoch}
            again = await stack.enter_async_context(raw_client(cold.port))
            assert (await again.subscribe(2, ROOM, **position))["recovered"]
            return again

        returned = await asyncio.gather(*map(back, herd))
        for number in range(80, 90):
            await edge.publish(ROOM, number)
        for one in returned:
            assert await one.publications(40) == list(range(50, 90))
        for client in behaving:
            assert await client.data(90) == list(range(90))
        assert cold.stats()["subscriptions"] == 150


@pytest.mark.parametrize("size", [2_000, 60_000])
@on_uvloop
async def test_an_oversized_token_is_refused_for_good_and_holds_up_nobody(size: int) -> None:
    """FAULTS 44: a token is a name tag, not a place to keep things."""
    async with live_edge() as edge:
        behaving = await readers(edge)
        for token in ("x" * size, "x" * (size // 3) + "." + "y" * (size // 3) + "." + "z" * (size // 3)):
            client = await edge.client()
            await client.send_raw(b'{"id":1,"connect":{"token":"%b"}}' % token.encode())
            assert await client.end() == 3500
        await edge.publish(ROOM, 1)
        for one in behaving:
            assert await one.data(1) == [1]
