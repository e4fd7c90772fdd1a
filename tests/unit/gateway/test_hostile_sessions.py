"""Clients that mean harm, in virtual time: floods of control frames, storms of rooms, flapping, crossing closes."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

from fanout.core.limits import (
    COMMAND_BYTES,
    COMMANDS_BURST,
    COMMANDS_PER_S,
    CONNECTIONS_PER_USER_MAX,
    DETACH_AFTER_S,
    FRAME_BYTES_MAX,
    PING_S,
    PONG_S,
    ROOMS_PER_SESSION_MAX,
    USER_CONNECT_BURST,
    USER_CONNECTS_PER_S,
    WRITE_HARD_BYTES,
    WRITE_HIGH_WATER_BYTES,
)
from fanout.gateway.room import Subscription
from fanout.gateway.server import Gateway
from fanout.protocol import websocket
from tests.support.fake_line import MASK, UPGRADE, FakeLine
from tests.support.live_edge import LiveEdge
from tests.support.virtual_time import LoopClock, run

HOUR_S = 3_600
PING = websocket.masked_frame(websocket.PING, b"x" * 125, MASK)
PONG = websocket.masked_frame(websocket.PONG, b"", MASK)


class Scene:
    """An engine in virtual time and its gateway."""

    def __init__(self, edge: LiveEdge, gateway: Gateway) -> None:
        self.edge = edge
        self.gateway = gateway

    async def connected(self, token: str = "", *, native_pings: bool = False) -> FakeLine:
        line = FakeLine(self.gateway)
        query = b"?cf_ws_frame_ping_pong=true" if native_pings else b""
        line.receive((UPGRADE % b"").replace(b" HTTP/1.1", query + b" HTTP/1.1"))
        reply = await line.ask(b'{"id":1,"connect":{"token":"%b"}}' % token.encode())
        assert reply.connect is not None, reply.error
        return line

    def stats(self, what: str) -> Any:
        return self.gateway.stats()[what]


def play(scene: Callable[[Scene], Awaitable[None]]) -> None:
    async def main() -> None:
        edge = LiveEdge(LoopClock())
        await edge.worker.start()
        await edge.sender.start()
        gateway = await edge.gateway()
        try:
            await scene(Scene(edge, gateway))
        finally:
            await edge.close()

    run(main())


class SmallLine(FakeLine):
    """A client whose kernel takes nothing from ``is_slow`` on: everything waits in this process."""

    is_slow = False

    def got(self, data: bytes) -> None:
        super().got(data)
        if self.is_slow:
            self.transport.full = self.transport.full or len(data)
            if self.transport.full > WRITE_HIGH_WATER_BYTES:
                self.connection.pause_writing()


def subscribe(number: int, room: str, position: str = "") -> bytes:
    return f'{{"id":{number},"subscribe":{{"channel":"{room}"{position}}}}}'.encode()


def seen(line: FakeLine) -> list[bytes]:
    return [bytes(push.pub.data) for push in line.pushes if push.pub is not None]


def test_a_client_that_pings_on_and_never_reads_is_closed_before_the_pongs_fill_the_memory() -> None:
    """FAULTS 26, 56: each pong waits in our memory, and a session that is asked by native pings may answer unasked."""

    async def scene(scene: Scene) -> None:
        line = await scene.connected(native_pings=True)
        line.fill(WRITE_HIGH_WATER_BYTES + 1)
        line.answers_pings = False
        for _ in range(HOUR_S * 20):
            line.receive(PING)
            line.receive(PONG)
            await asyncio.sleep(2.5 / COMMANDS_PER_S)
            assert line.transport.full < WRITE_HARD_BYTES + 1_000
            if line.code is not None:
                break
        assert line.code == 3008

    play(scene)


def test_a_client_that_returns_from_far_in_many_rooms_is_given_no_more_than_its_socket_takes() -> None:
    """FAULTS 25: pages of history are on their way for each of its rooms when the first of them fills the socket."""

    async def scene(scene: Scene) -> None:
        line = SmallLine(scene.gateway)
        await line.connect()
        rooms = [f"open:{number}" for number in range(30)]
        for number, room in enumerate(rooms, 2):
            await line.ask(subscribe(number, room))
        line.fill()
        for room in rooms:
            for number in range(6):
                await scene.edge.publish(room, [number, "x" * 20_000])
        await asyncio.sleep(95)  # the rings are empty then
        assert scene.stats("behind") == len(rooms) and line.code is None
        line.is_slow = True
        line.drain()
        await asyncio.sleep(1)
        assert line.transport.full <= WRITE_HIGH_WATER_BYTES + FRAME_BYTES_MAX
        line.is_slow = False
        line.drain()
        await asyncio.sleep(1)
        for room in rooms:
            seen = [bytes(push.pub.data)[:2] for push in line.pushes if push.pub and push.channel == room]
            assert seen == [b"[%d" % number for number in range(6)]

    play(scene)


def test_long_commands_cost_as_much_as_many_short_ones() -> None:
    """FAULTS 50: reading 64 KB of brackets and escapes takes 8 ms, and fifty a second would take half a core."""

    async def scene(scene: Scene) -> None:
        line = await scene.connected()
        await asyncio.sleep(10)
        long = b'{"id":5,"ping":{},"x":"%b"}' % (b"x" * 60_000)
        for _ in range(60):
            line.send(long)
            await asyncio.sleep(0.1)
        taken = [reply for reply in line.replies if reply.ping is not None]
        cost = 1 + 60_000 // COMMAND_BYTES
        assert len(taken) <= COMMANDS_BURST / cost + 6 * COMMANDS_PER_S / cost + 1
        assert {reply.error.code for reply in line.replies if reply.error} == {111}
        await asyncio.sleep(4)
        assert (await line.ask(b'{"id":6,"ping":{}}')).ping is not None, "the rate is used up, never more than that"

    play(scene)


def test_a_client_that_answers_native_pings_is_kept() -> None:
    async def scene(scene: Scene) -> None:
        line = await scene.connected(native_pings=True)
        await asyncio.sleep(20 * PING_S + 1)
        assert line.code is None and line.pings >= 19

    play(scene)


def test_a_half_open_connection_is_closed_in_time_and_its_client_goes_on_from_its_position() -> None:
    """FAULTS 27: nothing comes from the client any more, and nothing says so."""

    async def scene(scene: Scene) -> None:
        line = await scene.connected()
        await line.ask(subscribe(2, "open:a"))
        first = await scene.edge.publish("open:a", 1)
        await asyncio.sleep(0.1)
        line.answers_pings = line.echoes_close = False
        line.fill(1)  # what is written from here on arrives nowhere, but the kernel takes it
        line.drain()
        await asyncio.sleep(PING_S + PONG_S + 2)
        assert line.code == 3012
        await asyncio.sleep(10)
        assert line.transport.is_aborted and scene.stats("sessions") == scene.stats("subscriptions") == 0
        for number in range(2, 8):
            await scene.edge.publish("open:a", number)
        back = await scene.connected()
        position = f',"recover":true,"offset":{first.offset},"epoch":"{first.epoch}"'
        reply = await back.ask(subscribe(2, "open:a", position))
        assert reply.subscribe is not None and reply.subscribe.recovered
        assert [bytes(one.data) for one in reply.subscribe.publications] == [b"%d" % number for number in range(2, 8)]

    play(scene)


def test_a_client_on_a_new_network_goes_on_while_its_old_connection_is_still_here() -> None:
    """FAULTS 28: nothing is lost or seen twice on the new one, and the old one is as good as any until it goes."""

    async def scene(scene: Scene) -> None:
        token = scene.edge.token("ann")
        old = await scene.connected(token)
        reply = await old.ask(subscribe(2, "open:a"))
        assert reply.subscribe is not None
        await scene.edge.publish("open:a", 1)
        await asyncio.sleep(0.1)
        offset = old.pushes[-1].pub.offset if old.pushes[-1].pub else 0
        old.fill()
        for number in (2, 3):
            await scene.edge.publish("open:a", number)
        new = await scene.connected(token)
        position = f',"recover":true,"offset":{offset},"epoch":"{reply.subscribe.epoch}"'
        resumed = await new.ask(subscribe(2, "open:a", position))
        await scene.edge.publish("open:a", 4)
        await asyncio.sleep(0.1)
        assert resumed.subscribe is not None
        assert [bytes(one.data) for one in resumed.subscribe.publications] + seen(new) == [b"2", b"3", b"4"]
        old.drain()
        await asyncio.sleep(0.1)
        assert seen(old) == [b"1", b"2", b"3", b"4"]
        old.connection.connection_lost(None)
        await scene.edge.publish("open:a", 5)
        await asyncio.sleep(0.1)
        assert seen(new) == [b"4", b"5"]
        assert scene.stats("sessions") == 1

    play(scene)


def test_a_device_that_connects_anew_takes_the_place_of_its_old_connection() -> None:
    """FAULTS 28: the address changes, the old socket looks alive; it is closed for good, so that it does not return."""

    async def scene(scene: Scene) -> None:
        phone, tablet = (scene.edge.token("ann", device=device) for device in ("phone", "tablet"))
        old, beside = await scene.connected(phone), await scene.connected(tablet)
        other = await scene.connected(scene.edge.token("bob", device="phone"))
        nameless = await scene.connected(scene.edge.token("ann"))
        await old.ask(subscribe(2, "open:a"))
        new = await scene.connected(phone)
        await new.ask(subscribe(2, "open:a"))
        await scene.edge.publish("open:a", 1)
        await asyncio.sleep(0.1)
        assert [line.code for line in (old, beside, other, nameless, new)] == [4501, None, None, None, None]
        assert (seen(old), seen(new)) == ([], [b"1"])
        assert (scene.stats("sessions"), scene.stats("subscriptions")) == (4, 1)

    play(scene)


def test_a_device_may_return_where_its_user_has_as_many_connections_as_one_may() -> None:
    async def scene(scene: Scene) -> None:
        tokens = [scene.edge.token("ann", device=f"d{number}") for number in range(CONNECTIONS_PER_USER_MAX)]
        lines = [await scene.connected(token) for token in tokens]
        await scene.connected(tokens[7])
        await asyncio.sleep(0.1)
        assert [number for number, line in enumerate(lines) if line.code] == [7]
        one_more = FakeLine(scene.gateway)
        one_more.upgrade()
        one_more.send(b'{"id":1,"connect":{"token":"%b"}}' % scene.edge.token("ann", device="new").encode())
        await asyncio.sleep(0.1)
        assert one_more.code == 3504

    play(scene)


def test_a_client_that_flaps_leaves_nothing_behind_and_is_not_kept_out_afterwards() -> None:
    """FAULTS 29: a dozen connects a second, cut in every state a connection can be in, are told to slow down."""

    async def scene(scene: Scene) -> None:
        token = scene.edge.token("ann").encode()
        bob = await scene.connected(scene.edge.token("bob"))
        slowed = 0
        for turn in range(500):
            line = FakeLine(scene.gateway)
            if turn % 5:
                line.upgrade()
            if turn % 5 > 1:
                line.send(b'{"id":1,"connect":{"token":"%b"}}' % token)
            if turn % 5 > 2:
                await asyncio.sleep(0.1)
                line.send(subscribe(2, "open:a") + b"\n" + subscribe(3, f"open:{turn}"))
            if turn % 5 > 3:
                await asyncio.sleep(0.05)
            slowed += line.code == 3013
            line.connection.connection_lost(None)
            await asyncio.sleep(0.05)
        assert slowed > 100
        assert bob.code is None
        bob.connection.connection_lost(None)
        await asyncio.sleep(USER_CONNECT_BURST / USER_CONNECTS_PER_S)
        assert scene.stats("sessions") == scene.stats("subscriptions") == 0
        lines = [await scene.connected(token.decode()) for _ in range(CONNECTIONS_PER_USER_MAX)]
        assert [line.code for line in lines] == [None] * CONNECTIONS_PER_USER_MAX
        one_more = FakeLine(scene.gateway)
        one_more.upgrade()
        one_more.send(b'{"id":1,"connect":{"token":"%b"}}' % token)
        await asyncio.sleep(0.1)
        assert one_more.code == 3504

    play(scene)


def test_rooms_that_one_client_opens_by_the_thousand_are_as_many_as_its_rate_allows_and_are_given_up() -> None:
    """FAULTS 50: join and leave, join and leave; what stays is what thirty seconds of that can make."""

    async def scene(scene: Scene) -> None:
        line = await scene.connected()
        most = 0
        for number in range(1_000):
            room = f"open:{number}"
            line.send(subscribe(2 * number + 2, room))
            line.send(b'{"id":%d,"unsubscribe":{"channel":"%b"}}' % (2 * number + 3, room.encode()))
            await asyncio.sleep(2 / COMMANDS_PER_S)
            if number % 25 == 0:
                most = max(most, scene.stats("rooms"))
        assert line.code is None
        assert most <= COMMANDS_PER_S / 2 * (DETACH_AFTER_S + 2) + COMMANDS_BURST
        await asyncio.sleep(DETACH_AFTER_S + 5)
        assert scene.stats("rooms") == scene.stats("subscriptions") == 0

    play(scene)


def test_a_storm_of_subscribes_in_one_frame_opens_no_more_rooms_than_a_session_may_have_and_its_rate_allows() -> None:
    """FAULTS 50: subscribes are prepared while they wait for their turn; those beyond the limit are refused."""

    async def scene(scene: Scene) -> None:
        line = await scene.connected()
        for start in range(0, 600, 200):
            line.send(b"\n".join(subscribe(number + 2, f"open:{number}") for number in range(start, start + 200)))
            await asyncio.sleep(3)
            assert scene.stats("subscriptions") <= ROOMS_PER_SESSION_MAX
        assert scene.stats("rooms") <= COMMANDS_BURST + 10 * COMMANDS_PER_S
        answered = [reply.id for reply in line.replies if reply.subscribe is not None]
        assert answered == list(range(2, 2 + ROOMS_PER_SESSION_MAX))
        assert line.code == 3509, "refused for good again and again"
        assert scene.stats("sessions") == scene.stats("subscriptions") == 0

    play(scene)


def test_close_frames_that_cross_are_answered_by_one() -> None:
    """The server closes for a broken command while the client's own goodbye is in the same bytes."""

    async def scene(scene: Scene) -> None:
        goodbye = websocket.masked_frame(websocket.CLOSE, websocket.close_payload(1001, "bye"), MASK)
        for first in (b"{}", b"nonsense", b'{"id":7,"connect":{}}'):
            line = await scene.connected()
            line.echoes_close = False
            line.receive(websocket.masked_frame(websocket.TEXT, first, MASK) + goodbye)
            await asyncio.sleep(0.1)
            assert line.code in (3501, 1001)
            assert line.transport.is_closed and not line.transport.is_aborted
        assert scene.stats("sessions") == 0

    play(scene)


def test_nothing_that_comes_after_a_close_frame_is_done() -> None:
    async def scene(scene: Scene) -> None:
        witness = await scene.connected()
        await witness.ask(subscribe(2, "open:a"))
        line = await scene.connected(scene.edge.token("ann"))
        publish = websocket.masked_frame(websocket.TEXT, b'{"id":5,"publish":{"channel":"open:a","data":1}}', MASK)
        line.receive(websocket.masked_frame(websocket.CLOSE, websocket.close_payload(1000), MASK) + publish)
        await asyncio.sleep(1)
        assert seen(witness) == []
        assert line.code == 1000 and line.transport.is_closed

    play(scene)


def test_sockets_that_fill_and_drain_where_nothing_is_published_are_not_remembered() -> None:
    """FAULTS 26: answers fill a socket, too; a quiet gateway must not keep a note of each time."""

    def subscriptions() -> int:
        gc.collect()
        return sum(isinstance(one, Subscription) for one in gc.get_objects())

    async def scene(scene: Scene) -> None:
        before = subscriptions()
        line = await scene.connected()
        await line.ask(subscribe(2, "open:a"))
        for _ in range(300):
            line.fill()
            await asyncio.sleep(0.01)
            line.drain()
            await asyncio.sleep(0.01)
        line.connection.connection_lost(None)
        del line
        await asyncio.sleep(1)
        assert subscriptions() == before

    play(scene)
