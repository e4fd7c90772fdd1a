"""The asyncio client against a scripted gateway, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import uvloop

from fanout.cli.tools import watch_room
from fanout.client import Client, Disconnected, Publication, Rejected, StreamPosition, SubscribeResult
from fanout.client.subscription import QUEUE_MAX
from fanout.core.errors import DRAINING
from fanout.protocol.centrifuge import Error
from fanout.protocol.websocket import PING, TEXT, frame, refuse_response
from tests.support.scripted_gateway import ScriptedGateway, scripted_gateway, until

ROOM = "open:1"


class Listener:
    """Collects what a subscription hands over."""

    def __init__(self) -> None:
        self.data: list[bytes] = []
        self.joins: list[SubscribeResult] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def on_publication(self, publication: Publication) -> None:
        await self.gate.wait()
        self.data.append(bytes(publication.data))

    def on_subscribed(self, result: SubscribeResult) -> None:
        self.joins.append(result)


@pytest.fixture
async def gateway() -> AsyncIterator[ScriptedGateway]:
    async with scripted_gateway() as served:
        yield served


@pytest.fixture
async def client(gateway: ScriptedGateway) -> AsyncIterator[Client]:
    async with Client(gateway.url) as connected:
        yield connected


async def test_publications_arrive_in_order_and_move_the_position(gateway: ScriptedGateway, client: Client) -> None:
    listener = Listener()
    subscription = await client.subscribe(ROOM, listener.on_publication, on_subscribed=listener.on_subscribed)
    gateway.publish(ROOM, b"1", b"2")
    await client.publish(ROOM, {"three": 3})
    await until(lambda: len(listener.data) == 3)
    assert listener.data == [b"1", b"2", b'{"three":3}']
    assert subscription.position == StreamPosition(gateway.head, "e1")
    assert len(listener.joins) == 1


async def test_watching_ends_with_the_reason_when_the_engine_ends_it_for_good(gateway: ScriptedGateway) -> None:
    watching = asyncio.create_task(asyncio.to_thread(watch_room, gateway.url, "", ROOM, 0))
    await until(lambda: any(peer.rooms for peer in gateway.peers))
    gateway.disconnect(3503)
    with pytest.raises(Disconnected, match="3503"):
        await asyncio.wait_for(watching, 5)


async def test_plain_function_is_a_handler_too(gateway: ScriptedGateway, client: Client) -> None:
    got: list[bytes] = []
    await client.subscribe(ROOM, lambda publication: got.append(bytes(publication.data)))
    gateway.publish(ROOM, b"1")
    await until(lambda: got == [b"1"])


async def test_cut_is_followed_by_exactly_what_was_missed(gateway: ScriptedGateway, client: Client) -> None:
    listener = Listener()
    subscription = await client.subscribe(ROOM, listener.on_publication, on_subscribed=listener.on_subscribed)
    gateway.publish(ROOM, b"1")
    await until(lambda: listener.data == [b"1"])
    gateway.cut()
    gateway.publish(ROOM, b"2")
    gateway.publish(ROOM, b"3")
    await until(lambda: len(listener.data) == 3)
    gateway.publish(ROOM, b"4")
    await until(lambda: len(listener.data) == 4)
    assert listener.data == [b"1", b"2", b"3", b"4"]
    assert client.connects == 2
    assert [(join.was_recovering, join.recovered) for join in listener.joins] == [(False, False), (True, True)]
    assert subscription.gaps == 0


async def test_position_counts_what_the_handler_has_finished(gateway: ScriptedGateway, client: Client) -> None:
    listener = Listener()
    await client.subscribe(ROOM, listener.on_publication)
    listener.gate.clear()
    gateway.publish(ROOM, b"1")
    await asyncio.sleep(0.05)
    gateway.cut()
    await until(lambda: client.connects == 2)
    gateway.publish(ROOM, b"2")
    assert listener.data == []
    listener.gate.set()
    await until(lambda: len(listener.data) == 2)
    await asyncio.sleep(0.05)
    assert listener.data == [b"1", b"2"]


async def test_subscription_starts_from_a_given_position(gateway: ScriptedGateway, client: Client) -> None:
    gateway.publish(ROOM, b"1", b"2", b"3")
    listener = Listener()
    await client.subscribe(ROOM, listener.on_publication, position=StreamPosition(3, "e1"))
    await until(lambda: listener.data == [b"2", b"3"])


async def test_gap_is_counted_and_the_position_starts_anew(gateway: ScriptedGateway, client: Client) -> None:
    listener = Listener()
    subscription = await client.subscribe(ROOM, listener.on_publication)
    gateway.publish(ROOM, b"1")
    await until(lambda: listener.data == [b"1"])
    gateway.epoch = "e2"
    gateway.unsubscribe(ROOM, 2500)
    await until(lambda: subscription.gaps == 1)
    assert subscription.position == StreamPosition(gateway.head, "e2")


async def test_resync_returns_with_the_position(gateway: ScriptedGateway, client: Client) -> None:
    listener = Listener()
    await client.subscribe(ROOM, listener.on_publication)
    gateway.publish(ROOM, b"1")
    gateway.unsubscribe(ROOM, 2500)
    gateway.publish(ROOM, b"2")
    await until(lambda: listener.data == [b"1", b"2"])


async def test_final_unsubscribe_ends_the_subscription(gateway: ScriptedGateway, client: Client) -> None:
    subscription = await client.subscribe(ROOM, Listener().on_publication)
    gateway.unsubscribe(ROOM, 2000)
    with pytest.raises(Disconnected, match="2000: test"):
        await subscription.ended()
    gateway.publish(ROOM, b"1")
    await client.subscribe(ROOM, Listener().on_publication)


async def test_handler_that_raises_ends_its_own_subscription_only(gateway: ScriptedGateway, client: Client) -> None:
    def broken(publication: Publication) -> None:
        raise RuntimeError("cannot cope")

    listener = Listener()
    await client.subscribe("open:2", listener.on_publication)
    subscription = await client.subscribe(ROOM, broken)
    gateway.publish(ROOM, b"1", b"2")
    with pytest.raises(RuntimeError, match="cannot cope"):
        await subscription.ended()
    gateway.publish("open:2", b'"fine"')
    await until(lambda: listener.data == [b'"fine"'])
    assert all(ROOM not in peer.rooms for peer in gateway.peers)


async def test_handler_that_falls_behind_gets_everything_by_its_position(
    gateway: ScriptedGateway, client: Client
) -> None:
    listener = Listener()
    subscription = await client.subscribe(ROOM, listener.on_publication, on_subscribed=listener.on_subscribed)
    listener.gate.clear()
    wanted = [b"%d" % number for number in range(QUEUE_MAX + 200)]
    for payload in wanted:
        gateway.publish(ROOM, payload)
    await asyncio.sleep(0.1)
    listener.gate.set()
    await until(lambda: len(listener.data) >= len(wanted))
    assert listener.data == wanted
    assert len(listener.joins) == 2
    assert subscription.skipped == 0


async def test_what_has_no_position_is_counted_when_it_is_skipped(gateway: ScriptedGateway, client: Client) -> None:
    listener = Listener()
    subscription = await client.subscribe(ROOM, listener.on_publication)
    listener.gate.clear()
    push = frame(TEXT, b'{"push":{"channel":"open:1","pub":{"data":1}}}')
    gateway.peers[0].write(push * (QUEUE_MAX + 10))
    await until(lambda: subscription.skipped >= 9)
    listener.gate.set()
    await until(lambda: len(listener.data) + subscription.skipped == QUEUE_MAX + 10)
    assert subscription.position == StreamPosition(0, "e1")


async def test_calls_are_answered_also_inside_handlers(gateway: ScriptedGateway, client: Client) -> None:
    answers: list[object] = []

    async def on_publication(publication: Publication) -> None:
        answers.append(await client.rpc("echo", {"got": 1}))

    await client.subscribe(ROOM, on_publication)
    gateway.publish(ROOM, b"1")
    await until(lambda: answers == [{"got": 1}])
    assert await client.rpc("nothing") is None
    page = await client.history(ROOM, limit=10)
    assert [bytes(publication.data) for publication in page.publications] == [b"1"]


async def test_error_of_a_call_is_raised(gateway: ScriptedGateway, client: Client) -> None:
    gateway.errors["rpc"] = Error(code=104, message="method not found")
    with pytest.raises(Rejected, match="104: method not found") as caught:
        await client.rpc("x")
    assert not caught.value.temporary


async def test_temporary_error_of_a_subscribe_is_tried_again_and_another_is_final(
    gateway: ScriptedGateway, client: Client
) -> None:
    gateway.errors["subscribe"] = Error(code=100, message="internal", temporary=True)
    await client.subscribe(ROOM, Listener().on_publication)
    gateway.errors["subscribe"] = Error(code=103, message="permission denied")
    with pytest.raises(Rejected, match="103"):
        await client.subscribe("open:2", Listener().on_publication)
    with pytest.raises(ValueError, match="already"):
        await client.subscribe(ROOM, Listener().on_publication)


async def test_unsubscribed_room_is_left_on_the_server(gateway: ScriptedGateway, client: Client) -> None:
    listener = Listener()
    subscription = await client.subscribe(ROOM, listener.on_publication)
    await client.unsubscribe(ROOM)
    assert gateway.peers[0].rooms == set()
    await subscription.ended()
    await client.unsubscribe(ROOM)
    gateway.peers[0].write(frame(TEXT, b'{"push":{"channel":"open:1","pub":{"data":1}}}'))
    await until(lambda: client.unrouted == 1)


async def test_handler_may_leave_its_own_room(gateway: ScriptedGateway, client: Client) -> None:
    async def once(publication: Publication) -> None:
        await client.unsubscribe(ROOM)

    subscription = await client.subscribe(ROOM, once)
    gateway.publish(ROOM, b"1")
    await subscription.ended()
    await until(lambda: gateway.peers[0].rooms == set())


@pytest.mark.parametrize("push", [True, False])
async def test_close_is_followed_where_it_asks_to_come_back(
    gateway: ScriptedGateway, client: Client, push: bool
) -> None:
    listener = Listener()
    await client.subscribe(ROOM, listener.on_publication)
    gateway.disconnect(3001, push=push)
    await until(lambda: client.connects == 2)
    gateway.publish(ROOM, b"1")
    await until(lambda: listener.data == [b"1"])


async def test_final_close_closes_the_client(gateway: ScriptedGateway, client: Client) -> None:
    subscription = await client.subscribe(ROOM, Listener().on_publication)
    waiting = asyncio.create_task(client.subscribe("open:2", Listener().on_publication))
    await asyncio.sleep(0)
    gateway.disconnect(3503, push=True)
    with pytest.raises(Disconnected, match="3503"):
        await subscription.ended()
    with pytest.raises(Disconnected, match="3503"):
        await client.publish(ROOM, 1)
    await asyncio.gather(waiting, return_exceptions=True)
    assert client.connects == 1


async def test_call_that_the_cut_caught_says_that_nobody_knows(gateway: ScriptedGateway, client: Client) -> None:
    calling = asyncio.create_task(client.rpc("x"))
    await asyncio.sleep(0)
    gateway.cut()
    with pytest.raises(Disconnected) as caught:
        await calling
    assert caught.value.reconnect


async def test_pings_of_both_kinds_are_answered(gateway: ScriptedGateway, client: Client) -> None:
    gateway.received.clear()
    gateway.ping()
    gateway.peers[0].write(frame(PING, b"x"))
    await until(lambda: gateway.received == [b"{}"])
    assert client.connects == 1


async def test_silent_server_is_left(gateway: ScriptedGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fanout.client.session.PING_GRACE_S", -0.9)
    gateway.ping_s = 1
    async with Client(gateway.url) as client:
        await until(lambda: client.connects == 2)


async def test_connect_waits_for_a_server_that_is_not_ready(gateway: ScriptedGateway) -> None:
    gateway.refusals = [refuse_response(503, DRAINING)]
    gateway.errors["connect"] = Error(code=100, message="internal", temporary=True)
    async with Client(gateway.url) as client:
        assert client.connects == 1


async def test_connect_that_is_no_use_raises(gateway: ScriptedGateway) -> None:
    gateway.errors["connect"] = Error(code=101, message="unauthorized")
    client = Client(gateway.url, "bad token")
    with pytest.raises(Rejected, match="101"):
        await client.connect()
    await client.close()


async def test_expired_token_is_fetched_anew_and_refreshed(gateway: ScriptedGateway) -> None:
    fetched: list[str] = []

    async def token() -> str:
        fetched.append(f"t{len(fetched)}")
        if len(fetched) == 1:
            raise RuntimeError("the token service is down")
        return fetched[-1]

    gateway.errors["connect"] = Error(code=109, message="token expired")
    gateway.token_ttls = [1, 0]
    async with Client(gateway.url, token) as client:
        assert fetched == ["t0", "t1", "t2"]
        assert b'"token":"t2"' in gateway.received[-1]
        gateway.errors["refresh"] = Error(code=100, message="internal", temporary=True)
        await until(lambda: b"refresh" in gateway.received[-1])
        assert client.connects == 1


@pytest.mark.parametrize("broken", [frame(TEXT, b"no reply"), frame(TEXT, b"\xff"), b"\x81\x80abcd"])
async def test_server_that_breaks_the_protocol_is_left_and_tried_again(
    gateway: ScriptedGateway, client: Client, broken: bytes
) -> None:
    gateway.peers[0].write(broken)
    await until(lambda: client.connects == 2)
    assert gateway.closes in ([1007], [1002])


async def test_use_without_connect_and_after_close_is_refused(gateway: ScriptedGateway) -> None:
    client = Client(gateway.url)
    with pytest.raises(Disconnected, match="was not called"):
        await client.publish(ROOM, 1)
    await client.close()
    await client.connect()
    await client.subscribe(ROOM, Listener().on_publication)
    await client.close()
    with pytest.raises(Disconnected, match="closed by the client"):
        await client.publish(ROOM, 1)
    await until(lambda: gateway.closes == [1000])


async def test_close_while_connecting_ends_at_once() -> None:
    client = Client("ws://127.0.0.1:1/")
    connecting = asyncio.create_task(client.connect())
    await asyncio.sleep(0.05)
    await client.close()
    with pytest.raises(Disconnected, match="closed by the client"):
        await connecting


async def test_cancelled_subscribe_leaves_nothing_behind(gateway: ScriptedGateway, client: Client) -> None:
    gateway.errors["subscribe"] = Error(code=100, message="internal", temporary=True)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await client.subscribe(ROOM, Listener().on_publication)
    await client.subscribe(ROOM, Listener().on_publication)


def test_client_runs_on_uvloop() -> None:
    async def scenario() -> None:
        async with scripted_gateway() as gateway, Client(gateway.url, data={"ack": True}) as client:
            listener = Listener()
            await client.subscribe(ROOM, listener.on_publication)
            gateway.cut()
            gateway.publish(ROOM, b"1")
            await until(lambda: listener.data == [b"1"])

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
