"""The crew of light viewers against a scripted gateway, over real sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest
import uvloop

from fanout.core.errors import DRAINING
from fanout.core.latencies import Latencies
from fanout.protocol.centrifuge import Error, Publication
from fanout.protocol.websocket import BINARY, PING, TEXT, frame, refuse_response
from fanout.viewers import Viewers
from tests.support.scripted_gateway import ScriptedGateway, scripted_gateway, until

ROOM = "live:1"


@pytest.fixture
async def gateway() -> AsyncIterator[ScriptedGateway]:
    async with scripted_gateway() as served:
        yield served


@pytest.fixture
async def crew(gateway: ScriptedGateway) -> AsyncIterator[Viewers]:
    viewers = Viewers(gateway.url, ROOM, 5)
    await viewers.open(timeout_s=5)
    yield viewers
    await viewers.close()


async def test_every_viewer_gets_every_publication_and_each_frame_is_understood_once(gateway: ScriptedGateway) -> None:
    understood: list[int] = []

    def on_frame(publications: Sequence[Publication]) -> list[float]:
        understood.append(len(publications))
        return [msgspec.json.decode(bytes(publication.data))["s"] for publication in publications]

    crew = Viewers(gateway.url, ROOM, 20, on_frame=on_frame)
    await crew.open(timeout_s=5)
    gateway.publish(ROOM, b'{"s":%f}' % time.time())
    gateway.publish(ROOM, b'{"s":%f}' % time.time(), b'{"s":%f}' % time.time())
    assert await crew.caught_up(60, timeout_s=5)
    assert [viewer.deliveries for viewer in crew.viewers] == [3] * 20
    assert sum(understood) <= 6  # two frames, or both in one read and then each again
    assert crew.latencies.samples == 60
    assert 0 < crew.latencies.quantile(0.5) <= crew.latencies.quantile(1.0) < 5
    assert crew.counts.deliveries == 60
    assert crew.counts.misordered == 0
    await crew.close()
    await until(lambda: not gateway.peers)
    assert set(gateway.closes) == {1000}


def test_viewers_run_on_uvloop() -> None:
    async def scenario() -> None:
        async with scripted_gateway() as gateway:
            crew = Viewers(gateway.url, ROOM, 5)
            await crew.open(timeout_s=5)
            gateway.publish(ROOM, b"1")
            crew.viewers[0].cut()
            assert await crew.caught_up(5, timeout_s=5)
            await crew.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


async def test_cut_viewers_come_back_and_recover_what_they_missed(gateway: ScriptedGateway, crew: Viewers) -> None:
    gateway.publish(ROOM, b"1")
    assert await crew.caught_up(5, timeout_s=5)
    for viewer in crew.viewers[:2]:
        viewer.cut()
    gateway.cut()
    gateway.publish(ROOM, b"2")
    assert await crew.caught_up(10, timeout_s=5)
    crew.settle()
    assert [viewer.offset for viewer in crew.viewers] == [gateway.head] * 5
    assert (crew.counts.replayed, crew.counts.gaps, crew.counts.misordered) == (5, 0, 0)
    assert crew.counts.reconnects == 5
    assert crew.counts.closes[1006] == 5


@pytest.mark.parametrize("push", [True, False])
async def test_close_that_asks_to_come_back_is_followed(gateway: ScriptedGateway, crew: Viewers, push: bool) -> None:
    gateway.disconnect(3001, push=push)
    await until(lambda: crew.counts.reconnects == 5 and crew.subscribed == 5)
    assert crew.counts.closes[3001] == 5


async def test_final_close_is_obeyed(gateway: ScriptedGateway, crew: Viewers) -> None:
    gateway.disconnect(3503)
    await until(lambda: not gateway.peers)
    assert crew.counts.reconnects == 0
    assert crew.subscribed == 0


async def test_resync_recovers_and_a_final_unsubscribe_does_not(gateway: ScriptedGateway, crew: Viewers) -> None:
    gateway.unsubscribe(ROOM, 2500)
    await until(lambda: all(ROOM in peer.rooms for peer in gateway.peers))
    gateway.publish(ROOM, b"1")
    assert await crew.caught_up(5, timeout_s=5)
    gateway.unsubscribe(ROOM, 2000)
    await until(lambda: crew.subscribed == 0)
    assert crew.counts.unsubscribed == 10


async def test_gap_and_a_new_epoch_are_counted(gateway: ScriptedGateway, crew: Viewers) -> None:
    gateway.publish(ROOM, b"1")
    assert await crew.caught_up(5, timeout_s=5)
    gateway.epoch = "e2"
    gateway.unsubscribe(ROOM, 2500)
    await until(lambda: crew.counts.gaps == 5)


async def test_position_that_does_not_rise_is_counted(gateway: ScriptedGateway, crew: Viewers) -> None:
    push = b'{"push":{"channel":"live:1","pub":{"data":1,"offset":9}}}'
    for peer in gateway.peers:
        peer.write(frame(TEXT, push) + frame(TEXT, push))
    assert await crew.caught_up(10, timeout_s=5)
    assert crew.counts.misordered == 5


async def test_publication_without_offset_leaves_the_position_alone(gateway: ScriptedGateway, crew: Viewers) -> None:
    for peer in gateway.peers:
        peer.write(frame(TEXT, b'{"push":{"channel":"live:1","pub":{"data":1}}}'))
    assert await crew.caught_up(5, timeout_s=5)
    assert {viewer.offset for viewer in crew.viewers} == {0}


async def test_pings_of_both_kinds_are_answered(gateway: ScriptedGateway, crew: Viewers) -> None:
    gateway.received.clear()
    gateway.ping()
    await until(lambda: gateway.received == [b"{}"] * 5)
    for peer in gateway.peers:
        peer.write(frame(PING, b"x"))
    gateway.publish(ROOM, b"1")
    assert await crew.caught_up(5, timeout_s=5)
    assert crew.subscribed == 5


async def test_frames_in_pieces_fragments_and_lumps_are_read(gateway: ScriptedGateway, crew: Viewers) -> None:
    push = b'{"push":{"channel":"live:1","pub":{"data":"%b","offset":%d}}}'
    long, short = push % (b"x" * 70_000, 5), push % (b"y", 7)
    data = frame(TEXT, long) + b"\x01\x0a" + short[:10] + b"\x80" + bytes((len(short) - 10,)) + short[10:]
    for start in range(0, len(data), 9_000):
        for peer in gateway.peers:
            peer.write(data[start : start + 9_000])
        await asyncio.sleep(0.002)
    assert await crew.caught_up(10, timeout_s=5)
    assert {viewer.offset for viewer in crew.viewers} == {7}


@pytest.mark.parametrize("broken", [frame(TEXT, b"no reply"), frame(TEXT, b"\xff"), b"\x81\x80abcd", b"\xf1\x00"])
async def test_server_that_breaks_the_protocol_is_left(gateway: ScriptedGateway, crew: Viewers, broken: bytes) -> None:
    gateway.peers[0].write(broken)
    await until(lambda: crew.subscribed == 4)
    assert sum(crew.counts.errors.values()) == 1


async def test_binary_message_is_ignored(gateway: ScriptedGateway, crew: Viewers) -> None:
    gateway.peers[0].write(frame(BINARY, b"x"))
    gateway.publish(ROOM, b"1")
    assert await crew.caught_up(5, timeout_s=5)


async def test_paused_viewer_costs_the_others_nothing(gateway: ScriptedGateway, crew: Viewers) -> None:
    crew.viewers[0].pause()
    gateway.publish(ROOM, b"1")
    assert await crew.caught_up(4, timeout_s=5)
    crew.viewers[0].resume()
    assert await crew.caught_up(5, timeout_s=5)


async def test_refused_handshake_is_tried_again_when_it_may_help(gateway: ScriptedGateway) -> None:
    gateway.refusals = [refuse_response(503, DRAINING)] * 2
    crew = Viewers(gateway.url, ROOM, 3)
    await crew.open(timeout_s=5)
    assert crew.counts.errors[503] == 2
    await crew.close()


async def test_errors_are_counted_and_open_says_what_is_missing(gateway: ScriptedGateway) -> None:
    gateway.errors["connect"] = Error(code=101, message="unauthorized")
    crew = Viewers(gateway.url, ROOM, 3)
    with pytest.raises(ConnectionError, match=r"of 3 viewers are subscribed to live:1; errors \{101: 1\}"):
        await crew.open(timeout_s=5)
    await crew.close()


async def test_open_gives_up_where_nobody_listens() -> None:
    crew = Viewers("ws://127.0.0.1:1/", ROOM, 2, local_hosts=("127.0.0.2",), connects_per_s=100)
    with pytest.raises(ConnectionError, match="0 of 2"):
        await crew.open(timeout_s=0.3)
    assert not await crew.caught_up(1, timeout_s=0.02)
    await crew.close()


def test_viewers_do_not_speak_tls() -> None:
    with pytest.raises(ValueError, match="ws://"):
        Viewers("wss://127.0.0.1/", ROOM, 1)


def test_quantiles_are_right_to_within_two_percent() -> None:
    latencies = Latencies()
    assert latencies.quantile(0.5) == 0
    for milliseconds in range(1, 1_001):
        latencies.add(milliseconds / 1_000)
    assert latencies.quantile(0.5) == pytest.approx(0.5, rel=0.021)
    assert latencies.quantile(0.99) == pytest.approx(0.99, rel=0.021)
    latencies.add(-1.0)
    latencies.add(1e9)
    assert latencies.samples == 1_002
    assert latencies.quantile(1.0) > 300
