"""Connections and sessions in virtual time: deadlines, signs of life, floods, the two ends of a close handshake."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

import pytest

from fanout.core.limits import (
    COMMANDS_REFUSED_MAX,
    CONNECT_S,
    CONNECT_WAIT_S_MAX,
    CONNECTIONS_PER_USER_MAX,
    EXPIRED_GRACE_S,
    HALF_OPEN_PER_ADDRESS_MAX,
    HANDSHAKE_S,
    PING_S,
    PONG_S,
    SESSION_ERRORS_MAX,
    WRITE_HARD_BYTES,
)
from fanout.gateway.admission import Admission, ConnectRate
from fanout.gateway.connection import CLOSE_S, Doorkeeper
from fanout.gateway.heartbeat import Deadlines
from fanout.gateway.server import Gateway
from fanout.protocol import websocket
from tests.support.fake_line import MASK, UPGRADE, FakeLine
from tests.support.live_edge import LiveEdge
from tests.support.virtual_time import LoopClock, VirtualLoop, run


class Scene:
    """An engine in virtual time and its gateway."""

    def __init__(self, edge: LiveEdge, gateway: Gateway) -> None:
        self.edge = edge
        self.gateway = gateway

    def line(self, address: str = "10.0.0.1") -> FakeLine:
        return FakeLine(self.gateway, address=address)

    async def connected(self, token: str = "") -> FakeLine:
        line = self.line()
        await line.connect(token)
        return line


def is_open(line: FakeLine) -> bool:
    return line.code is None


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


def test_a_handshake_may_come_in_single_bytes_but_not_late() -> None:
    async def scene(scene: Scene) -> None:
        slow, late = scene.line(), scene.line()
        for byte in UPGRADE % b"":
            slow.receive(bytes((byte,)))
        assert slow.head.startswith(b"HTTP/1.1 101")
        late.receive(b"GET / HTTP/1.1\r\n")
        await asyncio.sleep(HANDSHAKE_S + 1.5)
        assert late.transport.is_aborted
        assert not slow.transport.is_closed

    play(scene)


def test_without_a_connect_command_the_session_ends_as_stale() -> None:
    async def scene(scene: Scene) -> None:
        line = scene.line()
        line.upgrade()
        await asyncio.sleep(CONNECT_S + 1.5)
        assert line.code == 3502
        assert line.transport.is_closed and not line.transport.is_aborted

    play(scene)


def test_a_first_frame_may_come_with_the_handshake() -> None:
    async def scene(scene: Scene) -> None:
        line = scene.line()
        line.receive(UPGRADE % b"" + websocket.masked_frame(websocket.TEXT, b'{"id":1,"connect":{}}', MASK))
        await asyncio.sleep(0.1)
        assert line.replies[0].connect is not None
        await asyncio.sleep(60)
        assert is_open(line)

    play(scene)


def test_the_subprotocol_that_was_offered_is_answered() -> None:
    async def scene(scene: Scene) -> None:
        line = scene.line()
        line.upgrade(b"Sec-WebSocket-Protocol: centrifuge-json\r\n")
        assert b"Sec-WebSocket-Protocol: centrifuge-json\r\n" in line.head
        silent = scene.line()
        silent.upgrade(b"Sec-WebSocket-Protocol: \r\n")
        assert b"Sec-WebSocket-Protocol" not in silent.head

    play(scene)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\x16\x03\x01", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", b"4"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000, b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
    ],
)
def test_requests_that_are_no_upgrade_are_turned_away(request_: bytes, status: bytes) -> None:
    async def scene(scene: Scene) -> None:
        line = scene.line()
        line.receive(request_)
        assert line.head.startswith(b"HTTP/1.1 " + status)
        assert line.transport.is_closed

    play(scene)


def test_the_server_closes_after_the_client_s_close_frame_or_after_a_while() -> None:
    async def scene(scene: Scene) -> None:
        polite, rude = await scene.connected(), await scene.connected()
        rude.echoes_close = False
        for line in (polite, rude):
            line.send(b"{}")
        await asyncio.sleep(0.1)
        assert (polite.code, rude.code) == (3501, 3501)
        assert polite.transport.is_closed and not rude.transport.is_closed
        rude.send(b'{"id":9,"ping":{}}')
        await asyncio.sleep(CLOSE_S + 1.5)
        assert rude.transport.is_aborted

    play(scene)


def test_a_client_that_closes_is_answered() -> None:
    async def scene(scene: Scene) -> None:
        line = await scene.connected()
        line.receive(websocket.masked_frame(websocket.CLOSE, websocket.close_payload(1000), MASK))
        assert line.code == 1000
        assert line.transport.is_closed
        assert scene.gateway.stats()["sessions"] == 0

    play(scene)


def test_a_broken_frame_ends_the_connection_with_its_code() -> None:
    async def scene(scene: Scene) -> None:
        line = await scene.connected()
        line.receive(b"\xc1\x00")
        assert line.code == 1002
        assert line.transport.has_eof

    play(scene)


def test_a_flood_of_pings_is_a_flood() -> None:
    async def scene(scene: Scene) -> None:
        line = await scene.connected()
        for _ in range(100):
            line.receive(websocket.masked_frame(websocket.PING, b"x", MASK))
        assert (line.pongs, line.code) == (100, None)
        for _ in range(100 + COMMANDS_REFUSED_MAX):
            line.receive(websocket.masked_frame(websocket.PING, b"x", MASK))
        assert line.code == 3013

    play(scene)


def test_a_session_that_answers_pings_lives_and_one_that_does_not_is_closed() -> None:
    async def scene(scene: Scene) -> None:
        lively, silent = await scene.connected(), await scene.connected()
        silent.answers_pings = False
        await asyncio.sleep(PING_S + PONG_S + 2)
        assert silent.code == 3012
        await asyncio.sleep(300)
        assert is_open(lively)
        assert 12 <= lively.pings <= 14

    play(scene)


def test_a_pong_that_nobody_asked_for_breaks_the_protocol() -> None:
    async def scene(scene: Scene) -> None:
        line = await scene.connected()
        line.send(b"{}")
        await asyncio.sleep(0)
        assert line.code == 3501

    play(scene)


def test_native_pings_are_sent_and_answered_where_asked_for() -> None:
    async def scene(scene: Scene) -> None:
        line = scene.line()
        line.receive((UPGRADE % b"").replace(b"websocket HTTP", b"websocket?cf_ws_frame_ping_pong=true HTTP"))
        reply = await line.ask(b'{"id":1,"connect":{}}')
        assert reply.connect is not None and not reply.connect.pong and reply.connect.ping == 0
        await asyncio.sleep(PING_S * 4)
        assert line.pings >= 3 and line.code is None
        line.answers_pings = False
        await asyncio.sleep(PING_S + PONG_S + 2)
        assert line.code == 3012

    play(scene)


def test_a_full_socket_that_drains_slowly_is_given_time_and_one_that_is_stuck_is_not() -> None:
    async def scene(scene: Scene) -> None:
        slow, stuck = await scene.connected(), await scene.connected()
        slow.answers_pings = stuck.answers_pings = False
        slow.fill(100_000)
        stuck.fill(100_000)
        for _ in range(20):
            await asyncio.sleep(10)
            slow.transport.full -= 500
        assert is_open(slow)
        assert stuck.code == 3012

    play(scene)


def test_after_a_stall_of_the_loop_nobody_is_closed_for_a_pong_that_was_not_read_yet() -> None:
    async def scene(scene: Scene) -> None:
        lines = [await scene.connected() for _ in range(50)]
        loop = cast(VirtualLoop, asyncio.get_running_loop())
        for _ in range(20):
            await asyncio.sleep(3)
            loop.now_s += 40  # the loop was somewhere else
        assert [line.code for line in lines] == [None] * 50

    play(scene)


def test_a_session_whose_token_ran_out_is_closed_after_a_grace() -> None:
    async def scene(scene: Scene) -> None:
        token = scene.edge.token("ann", expires_in_s=60)
        line = await scene.connected(token)
        kept = await scene.connected(token)
        await asyncio.sleep(60)
        refreshed = await kept.ask(b'{"id":5,"refresh":{"token":"%b"}}' % scene.edge.token("ann").encode())
        assert refreshed.refresh is not None
        await asyncio.sleep(EXPIRED_GRACE_S - 5)
        assert is_open(line)
        await asyncio.sleep(PING_S + 10)
        assert line.code == 3005
        assert is_open(kept)

    play(scene)


def test_a_subscription_whose_token_ran_out_is_told_to_come_with_a_new_one() -> None:
    async def scene(scene: Scene) -> None:
        line = await scene.connected(scene.edge.token("ann"))
        token = scene.edge.token("ann", room="open:a", expires_in_s=60)
        command = b'{"id":5,"subscribe":{"channel":"open:a","token":"%b"}}'
        assert (await line.ask(command % token.encode())).subscribe is not None
        assert (await line.ask(b'{"id":6,"subscribe":{"channel":"open:b"}}')).subscribe is not None
        await asyncio.sleep(60 + EXPIRED_GRACE_S + PING_S + 5)
        assert [(push.channel, push.unsubscribe and push.unsubscribe.code) for push in line.pushes] == [
            ("open:a", 2501)
        ]
        assert scene.gateway.stats()["subscriptions"] == 1

    play(scene)


def test_a_session_that_is_refused_for_good_again_and_again_is_closed() -> None:
    async def scene(scene: Scene) -> None:
        line = await scene.connected()
        for number in range(SESSION_ERRORS_MAX):
            reply = await line.ask(b'{"id":%d,"subscribe":{"channel":"nowhere:a"}}' % (number + 10))
            assert reply.error is not None and reply.error.code == 102
            await asyncio.sleep(0.05)
        assert is_open(line)
        line.send(b'{"id":9999,"subscribe":{"channel":"nowhere:a"}}')
        await asyncio.sleep(0.1)
        assert line.code == 3509

    play(scene)


def test_a_client_that_asks_and_never_reads_is_closed_before_its_answers_fill_the_memory() -> None:
    async def scene(scene: Scene) -> None:
        line = await scene.connected()
        line.fill(WRITE_HARD_BYTES)
        line.send(b'{"id":9,"ping":{}}')
        await asyncio.sleep(0.1)
        assert line.code == 3008

    play(scene)


def test_what_a_session_missed_while_its_socket_was_full_is_served_when_it_drains() -> None:
    async def scene(scene: Scene) -> None:
        line = await scene.connected()
        await line.ask(b'{"id":5,"subscribe":{"channel":"open:a"}}')
        line.fill()
        for number in range(5):
            await scene.edge.publish("open:a", number)
        await asyncio.sleep(1)
        assert line.pushes == []
        assert scene.gateway.stats()["behind"] == 1
        line.drain()
        await asyncio.sleep(0.1)
        assert [bytes(push.pub.data) for push in line.pushes if push.pub] == [b"0", b"1", b"2", b"3", b"4"]

    play(scene)


def test_a_lost_connection_leaves_nothing_behind() -> None:
    async def scene(scene: Scene) -> None:
        line = await scene.connected(scene.edge.token("ann"))
        await line.ask(b'{"id":5,"subscribe":{"channel":"open:a"}}')
        line.send(b'{"id":6,"subscribe":{"channel":"open:unheard"}}')
        line.transport.close()
        await asyncio.sleep(60)
        stats = scene.gateway.stats()
        assert (stats["sessions"], stats["subscriptions"], stats["rooms"]) == (0, 0, 0)

    play(scene)


def test_no_push_of_a_server_side_room_comes_before_the_connect_reply() -> None:
    async def scene(scene: Scene) -> None:
        other = await scene.connected()
        await other.ask(b'{"id":5,"subscribe":{"channel":"open:in"}}')
        line = scene.line()
        line.upgrade()
        token = scene.edge.token("ann", subs=["open:in", "open:cold", "open:in"])
        line.send(b'{"id":1,"connect":{"token":"%b"}}' % token.encode())
        for number in range(50):
            await scene.edge.publish("open:in", number)
            assert line.replies or not line.pushes
        await asyncio.sleep(1)
        reply = line.replies[0].connect
        assert reply is not None and list(reply.subs) == ["open:in", "open:cold"]
        position = reply.subs["open:in"].offset
        offsets = [push.pub.offset for push in line.pushes if push.pub]
        expected = [push.pub.offset for push in other.pushes if push.pub and push.pub.offset > position]
        assert offsets == expected
        assert scene.gateway.stats()["subscriptions"] == 3

    play(scene)


def test_a_connect_whose_rooms_cannot_be_had_changes_nothing() -> None:
    async def scene(scene: Scene) -> None:
        line = scene.line()
        line.upgrade()
        token = scene.edge.token("ann", subs=["nowhere:a", "open:a"])
        reply = await line.ask(b'{"id":1,"connect":{"token":"%b"}}' % token.encode())
        assert reply.error is not None and reply.error.code == 102
        await asyncio.sleep(1)
        assert scene.gateway.stats()["sessions"] == scene.gateway.stats()["subscriptions"] == 0
        again = await line.ask(b'{"id":2,"connect":{"token":"%b"}}' % scene.edge.token("ann").encode())
        assert again.connect is not None

    play(scene)


def test_half_open_connections_of_one_address_are_bounded() -> None:
    keeper = Doorkeeper(Deadlines(5), Deadlines(10), Deadlines(5), admission=Admission(ConnectRate(), LoopClock()))
    for _ in range(HALF_OPEN_PER_ADDRESS_MAX):
        assert keeper.admits("10.0.0.1")
    assert not keeper.admits("10.0.0.1")
    assert keeper.admits("10.0.0.2")
    for _ in range(HALF_OPEN_PER_ADDRESS_MAX + 1):
        assert keeper.admits("127.0.0.1")
    keeper.let_go("10.0.0.1")
    assert keeper.admits("10.0.0.1")


def test_who_is_turned_away_is_told_when_to_come_back() -> None:
    async def scene(scene: Scene) -> None:
        lines = [scene.line("10.9.9.9") for _ in range(HALF_OPEN_PER_ADDRESS_MAX + 1)]
        assert lines[-1].head.startswith(b"HTTP/1.1 503")
        told_s = int(lines[-1].head.partition(b"Retry-After: ")[2].partition(b"\r\n")[0])
        assert CONNECT_WAIT_S_MAX / 2 <= told_s <= 2 * CONNECT_WAIT_S_MAX
        assert lines[-1].transport.is_closed
        await asyncio.sleep(HANDSHAKE_S + 2)
        assert all(line.transport.is_closed for line in lines)
        again = scene.line("10.9.9.9")
        await again.connect()

    play(scene)


def test_a_connect_and_a_goodbye_in_one_packet_leave_no_session_behind() -> None:
    async def scene(scene: Scene) -> None:
        token = scene.edge.token("ann").encode()
        for _ in range(CONNECTIONS_PER_USER_MAX + 1):
            line = scene.line()
            line.upgrade()
            command = websocket.masked_frame(websocket.TEXT, b'{"id":1,"connect":{"token":"%b"}}' % token, MASK)
            line.receive(command + websocket.masked_frame(websocket.CLOSE, websocket.close_payload(1000), MASK))
        await asyncio.sleep(1)
        assert scene.gateway.stats()["sessions"] == 0
        await scene.connected(scene.edge.token("ann"))

    play(scene)


def test_a_client_that_says_goodbye_and_does_not_read_is_not_kept() -> None:
    async def scene(scene: Scene) -> None:
        line = await scene.connected()
        line.transport.lingers = True
        line.fill()
        line.receive(websocket.masked_frame(websocket.CLOSE, websocket.close_payload(1000), MASK))
        await asyncio.sleep(CLOSE_S - 1)
        assert not line.transport.is_aborted
        await asyncio.sleep(3)
        assert line.transport.is_aborted

    play(scene)


def test_a_connect_that_waits_for_us_is_not_called_stale() -> None:
    async def scene(scene: Scene) -> None:
        await scene.edge.worker.close()
        line = scene.line()
        line.upgrade()
        await asyncio.sleep(CONNECT_S - 2)
        token = scene.edge.token("ann", subs=["open:cold"])
        line.send(b'{"id":1,"connect":{"token":"%b"}}' % token.encode())
        await asyncio.sleep(10)
        assert line.code is None and line.replies[0].error is not None and line.replies[0].error.temporary
        await asyncio.sleep(CONNECT_S + 2)
        assert line.code == 3502

    play(scene)


def test_a_session_that_fails_does_not_stop_the_heartbeat_of_the_others() -> None:
    async def scene(scene: Scene) -> None:
        bad, good = await scene.connected(), await scene.connected()

        def broken(data: bytes) -> None:
            raise RuntimeError("no socket")

        bad.transport.write = broken  # type: ignore[assignment]
        await asyncio.sleep(3 * PING_S)
        assert good.pings >= 2
        silent = scene.line()
        await asyncio.sleep(HANDSHAKE_S + 2)
        assert silent.transport.is_closed

    play(scene)


def test_connections_are_turned_away_while_file_descriptors_are_short() -> None:
    shortage = [True]
    keeper = Doorkeeper(
        Deadlines(5),
        Deadlines(10),
        Deadlines(5),
        admission=Admission(ConnectRate(), LoopClock()),
        are_descriptors_short=lambda: shortage[0],
    )
    assert not keeper.admits("10.0.0.1")
    shortage[0] = False
    assert keeper.admits("10.0.0.1")


def test_cold_rooms_of_one_frame_are_attached_side_by_side_and_answered_in_order() -> None:
    async def scene(scene: Scene) -> None:
        await scene.edge.worker.close()  # so that every room waits as long as it may
        line = await scene.connected()
        line.send(b"\n".join(b'{"id":%d,"subscribe":{"channel":"open:r%d"}}' % (id_, id_) for id_ in range(2, 19)))
        line.send(b'{"id":19,"unsubscribe":{"channel":"open:r2"}}')
        await asyncio.sleep(9)  # two rounds of at most four seconds, where one after the other takes seventeen
        assert [reply.id for reply in line.replies] == list(range(1, 20))

    play(scene)


def test_commands_about_one_room_in_one_frame_act_in_their_order() -> None:
    async def scene(scene: Scene) -> None:
        line = await scene.connected()
        frame = [
            b'{"id":%d,"%b":{"channel":"open:a"}}' % (id_, method)
            for id_, method in enumerate(
                (b"subscribe", b"subscribe", b"unsubscribe", b"subscribe", b"unsubscribe", b"subscribe"), 2
            )
        ]
        line.send(b"\n".join(frame))
        await asyncio.sleep(5)
        assert [reply.id for reply in line.replies] == list(range(1, 8))
        assert [reply.error.code for reply in line.replies if reply.error] == [105]
        assert scene.gateway.stats()["subscriptions"] == 1

    play(scene)


def test_a_session_that_ends_leaves_none_of_its_early_attaches_behind() -> None:
    async def scene(scene: Scene) -> None:
        line = await scene.connected()
        line.send(b"\n".join(b'{"id":%d,"subscribe":{"channel":"open:r%d"}}' % (id_, id_) for id_ in range(2, 100)))
        await asyncio.sleep(0)
        line.transport.close()
        await asyncio.sleep(60)
        stats = scene.gateway.stats()
        assert (stats["sessions"], stats["subscriptions"], stats["rooms"]) == (0, 0, 0)
        assert not [task for task in asyncio.all_tasks() if task.get_name() in ("prepare", "command")]

    play(scene)


@pytest.mark.parametrize(
    "command",
    [
        b'{"id":5,"publish":{"channel":"open:private","data":1}}',
        b'{"id":5,"rpc":{"method":"publish","data":{"room":"open:private","data":1}}}',
    ],
)
def test_a_client_publishes_only_to_rooms_that_its_token_contains(command: bytes) -> None:
    async def scene(scene: Scene) -> None:
        line = await scene.connected(scene.edge.token("ann", rooms=["open:mine*"]))
        reply = await line.ask(command)
        assert reply.error is not None and reply.error.code == 103
        reply = await line.ask(command.replace(b"private", b"mine"))
        assert reply.error is None

    play(scene)
