"""A gateway on real sockets and a real event loop, between real clients and a real worker on the twins."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

import httpx
import pytest
from litestar import Litestar, post
from litestar.params import JSONBody
from msgspec import Raw
from websockets.exceptions import InvalidStatus

from fanout.core.messages import Kind
from fanout.core.records import Entry, Joined, RoomBatch, encode_body
from fanout.ports import MemberChange
from fanout.protocol.centrifuge import (
    ERROR_WHEN_UNRECOVERABLE,
    Command,
    HistoryRequest,
    PingRequest,
    PresenceRequest,
    PresenceStatsRequest,
    PublishRequest,
    RefreshRequest,
    RPCRequest,
    StreamPosition,
    SubRefreshRequest,
    SubscribeRequest,
    UnsubscribeRequest,
    WireFormat,
)
from fanout.runtime.apps import App, Apps, TokenKey
from fanout.runtime.tokens import Tokens, mint
from sharding.placement import partition_of, shard_key, shard_of
from tests.support.live_edge import Client, live_edge
from tests.support.loops import on_uvloop

FORMATS = list(WireFormat)


@pytest.mark.parametrize("wire_format", FORMATS)
@on_uvloop
async def test_publications_arrive_in_order_with_their_sender_and_position(wire_format: WireFormat) -> None:
    async with live_edge() as edge:
        listener = await edge.listener("open:a", wire_format)
        speaker = await edge.client(wire_format)
        await speaker.connect(edge.token("ann"))
        for number in range(20):
            reply = await speaker.ask(publish=PublishRequest("open:a", Raw(b'{"n":%d}' % number)))
            assert reply.publish is not None, reply.error
        found = await listener.publications(20)
        assert [bytes(one.data) for one in found] == [b'{"n":%d}' % number for number in range(20)]
        assert {one.info.user for one in found if one.info} == {"ann"}
        offsets = [one.offset for one in found]
        assert offsets == sorted(set(offsets))
        stats = edge.gateways[0].stats()
        assert stats["subscriptions"] == 1
        assert stats["written"] == stats["offered"] == 20


@pytest.mark.parametrize("wire_format", FORMATS)
@on_uvloop
async def test_a_client_that_comes_back_gets_exactly_what_it_missed(wire_format: WireFormat) -> None:
    async with live_edge(gateways=2) as edge:
        first = await edge.listener("live:a", wire_format)
        position = await edge.publish("live:a", 1, "high")
        assert await first.data(1) == [1]
        await first.leave()
        for number in range(2, 30):
            await edge.publish("live:a", number, "low" if number % 2 else "high")
        for gateway in edge.gateways:
            back = await edge.client(wire_format, gateway=gateway)
            await back.connect()
            result = await back.subscribe("live:a", recover=True, offset=position.offset, epoch=position.epoch)
            assert result.recovered and result.was_recovering and result.positioned and result.recoverable
            assert result.offset == position.offset
            assert [int(bytes(one.data)) for one in result.publications] == list(range(2, 30, 2))
            await back.leave()


@on_uvloop
async def test_a_position_that_cannot_be_recovered_is_answered_without_a_replay() -> None:
    async with live_edge() as edge:
        client = await edge.listener("open:a")
        newest = await edge.publish("open:a", 1)
        await client.data(1)
        await client.ask(unsubscribe=UnsubscribeRequest("open:a"))
        request = SubscribeRequest("open:a", recover=True, offset=1, epoch="old", flag=ERROR_WHEN_UNRECOVERABLE)
        assert await client.error(subscribe=request) == (112, False)
        result = await client.subscribe("open:a", recover=True, offset=1, epoch="old")
        assert (result.recovered, result.was_recovering, result.publications) == (False, True, [])
        assert (result.offset, result.epoch) == (newest.offset, newest.epoch)


@on_uvloop
async def test_a_lost_chunk_is_filled_from_history() -> None:
    async with live_edge() as edge:
        listener = await edge.listener("open:a")
        first = await edge.publish("open:a", 1)
        await listener.data(1)
        reader = edge.gateways[0].chunk_reader
        lease = edge.gateways[0].slot
        assert lease is not None
        await reader.close()
        lost = [await edge.publish("open:a", number) for number in (2, 3)]
        await asyncio.sleep(0.1)
        await reader.open(lease)  # at the end: what came meanwhile is gone for this gateway
        await edge.publish("open:a", 4)
        assert await listener.data(3) == [2, 3, 4]
        assert first.offset < lost[0].offset < lost[1].offset


@on_uvloop
async def test_a_hole_that_history_cannot_fill_makes_the_client_come_back() -> None:
    async with live_edge() as edge:
        listener = await edge.listener("open:a")
        served = await edge.client()
        await served.connect(edge.token("bob", subs=["open:a"]))
        published = await edge.publish("open:a", 1)
        await listener.data(1)
        prev = published.offset + 1_000
        entry = Entry(prev + 5, 0, Kind.RELIABLE.value, 2, prev, 9, 1, edge.clock.wall_ms(), 0, b"9")
        partition = partition_of(b"dev/open:a", 64)
        batch = RoomBatch("dev/open:a", 0, partition, 1 << 50, published.epoch, prev, 8, [entry])
        await edge.put_chunk(edge.gateways[0], [batch])
        push = await listener.push()
        assert push.unsubscribe is not None
        assert (push.unsubscribe.code, push.unsubscribe.reason) == (2500, "insufficient state")
        assert await served.end() == 3010


@on_uvloop
async def test_another_epoch_resyncs_every_subscription() -> None:
    async with live_edge() as edge:
        listener = await edge.listener("open:a")
        published = await edge.publish("open:a", 1)
        await listener.data(1)
        partition = partition_of(b"dev/open:a", 64)
        entry = Entry(3, 0, Kind.RELIABLE.value, 2, 2, 1, 1, edge.clock.wall_ms(), 0, b"1")
        await edge.put_chunk(edge.gateways[0], [RoomBatch("dev/open:a", 0, partition, 1 << 50, "other", 2, 0, [entry])])
        push = await listener.push()
        assert push.unsubscribe is not None and push.unsubscribe.code == 2500
        result = await listener.subscribe("open:a", recover=True, offset=published.offset, epoch=published.epoch)
        assert (result.recovered, result.epoch, result.offset) == (False, "other", 3)


@on_uvloop
async def test_a_client_ahead_of_its_gateway_gets_nothing_twice() -> None:
    async with live_edge() as edge:
        witness = await edge.listener("open:a")
        newest = await edge.publish("open:a", 1)
        client = await edge.client()
        await client.connect()
        result = await client.subscribe("open:a", recover=True, offset=newest.offset + 1, epoch=newest.epoch)
        assert result.recovered and result.offset == newest.offset + 1
        seen_elsewhere = await edge.publish("open:a", 2)
        assert seen_elsewhere.offset == newest.offset + 1
        await edge.publish("open:a", 3)
        assert await client.data(1) == [3]
        assert await witness.data(3) == [1, 2, 3]


@on_uvloop
async def test_a_reader_that_stops_disturbs_nobody_and_catches_up() -> None:
    async with live_edge() as edge:
        gateway = edge.gateways[0]
        fast = await edge.listener("open:a")
        slow = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1 << 16)
        await _upgrade(*slow)
        slow[1].write(_text(b'{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"open:a"}}'))
        await edge.until(lambda: gateway.stats()["subscriptions"] == 2)
        transport = cast(asyncio.ReadTransport, slow[1].transport)
        transport.pause_reading()
        payload = "x" * 8_000
        for number in range(700):
            await edge.publish("open:a", [number, payload])
        assert [one[0] for one in await fast.data(700)] == list(range(700))
        await edge.until(lambda: gateway.stats()["behind"] == 1)
        transport.resume_reading()
        received = 0
        while received < 700 * 8_000:
            received += len(await asyncio.wait_for(slow[0].read(1 << 16), 10))
        await edge.until(lambda: gateway.stats()["behind"] == 0)
        await edge.until(lambda: gateway.stats()["pending"] == 0)
        assert gateway.stats()["written"] == 1_400
        assert gateway.stats()["dropped"].get("skipped", 0) == 0
        slow[1].close()


@on_uvloop
async def test_a_fenced_gateway_keeps_its_sessions_and_leases_anew() -> None:
    async with live_edge() as edge:
        gateway = edge.gateways[0]
        listener = await edge.listener("open:a")
        before = gateway.slot
        assert before is not None
        await edge.publish("open:a", 1)
        await listener.data(1)
        await edge.put_chunk(gateway, [], generation=before.generation + 10**9)
        await edge.until(
            lambda: gateway.slot is not None and gateway.slot.generation != before.generation, "a new lease"
        )
        for number in range(2, 6):
            await edge.publish("open:a", number)
        assert await listener.data(4) == [2, 3, 4, 5]


@on_uvloop
async def test_without_log_and_store_sessions_stay_and_everything_works_again_by_itself() -> None:
    async with live_edge() as edge:
        listener = await edge.listener("open:a")
        newest = await edge.publish("open:a", 1)
        await listener.data(1)
        edge.log.available = edge.state.available = False
        assert await listener.error(publish=PublishRequest("open:a", Raw(b"2"))) == (100, True)
        other = await edge.client()
        await other.connect()
        held = await other.subscribe("open:a", recover=True, offset=newest.offset, epoch=newest.epoch)
        assert held.recovered
        assert await other.error(subscribe=SubscribeRequest("open:unknown")) == (100, True)
        edge.log.available = edge.state.available = True
        for attempt in range(100):
            reply = await listener.ask(publish=PublishRequest("open:a", Raw(b"3")))
            if reply.publish is not None:
                break
            await asyncio.sleep(0.1)
            assert attempt < 99
        assert await listener.data(1) == [3]
        assert await other.data(1) == [3]
        assert listener.closed is None


@on_uvloop
async def test_history_and_presence_stats_are_for_those_who_listen() -> None:
    async with live_edge() as edge:
        client = await edge.client()
        await client.connect(edge.token("ann"))
        assert await client.error(history=HistoryRequest("open:a", limit=5)) == (103, False)
        await client.subscribe("open:a")
        published = [await edge.publish("open:a", number) for number in range(5)]
        await client.data(5)
        await asyncio.sleep(0.05)
        top = (await client.ask(history=HistoryRequest("open:a"))).history
        assert top is not None and (top.offset, top.epoch, top.publications) == (
            published[-1].offset,
            published[-1].epoch,
            [],
        )
        page = (await client.ask(history=HistoryRequest("open:a", limit=2))).history
        assert page is not None and [bytes(one.data) for one in page.publications] == [b"0", b"1"]
        since = StreamPosition(published[2].offset, published[2].epoch)
        page = (await client.ask(history=HistoryRequest("open:a", limit=-1, since=since))).history
        assert page is not None and [bytes(one.data) for one in page.publications] == [b"3", b"4"]
        page = (await client.ask(history=HistoryRequest("open:a", limit=2, reverse=True))).history
        assert page is not None and [bytes(one.data) for one in page.publications] == [b"4", b"3"]
        other = StreamPosition(published[2].offset, "other")
        assert await client.error(history=HistoryRequest("open:a", limit=1, since=other)) == (112, False)
        assert await client.error(history=HistoryRequest("open:a", limit=-2)) == (107, False)
        stats = (await client.ask(presence_stats=PresenceStatsRequest("open:a"))).presence_stats
        assert stats is not None and (stats.num_clients, stats.num_users) == (1, 1)
        assert await client.error(presence=PresenceRequest("open:a")) == (108, False)


@on_uvloop
async def test_rpc_publish_returns_what_the_api_returns() -> None:
    async with live_edge() as edge:
        client = await edge.listener("open:a")
        reply = await client.ask(rpc=RPCRequest(Raw(b'{"room":"open:a","data":{"x":1},"id":"k1"}'), "publish"))
        assert reply.rpc is not None, reply.error
        assert b'"offset":' in bytes(reply.rpc.data)
        assert await client.data(1) == [{"x": 1}]
        assert await client.error(rpc=RPCRequest(Raw(b"{}"), "fly")) == (104, False)
        assert await client.error(rpc=RPCRequest(Raw(b'{"room":"open:a"}'), "publish")) == (107, False)
        assert (await client.ask(ping=PingRequest())).ping is not None


@on_uvloop
async def test_leaving_a_room_ends_its_publications() -> None:
    async with live_edge() as edge:
        client = await edge.listener("open:a")
        await client.subscribe("open:b")
        await client.ask(unsubscribe=UnsubscribeRequest("open:a"))
        await client.ask(unsubscribe=UnsubscribeRequest("open:a"))
        await edge.publish("open:a", 1)
        await edge.publish("open:b", 2)
        push = await client.push()
        assert push.channel == "open:b"
        assert await client.error(subscribe=SubscribeRequest("open:b")) == (105, False)


@on_uvloop
async def test_refused_rooms_are_refused_with_the_documented_error() -> None:
    async with live_edge() as edge:
        client = await edge.client()
        await client.connect(edge.token("ann", rooms=["live:*", "open:a"]))
        for room, code in (
            ("", 107),
            ("a b", 107),
            ("open:" + "x" * 200, 107),
            ("open:\u00e4", 107),
            ("#ann", 103),
            ("nowhere:a", 102),
            ("open:b", 103),
            ("dev/open:a", 107),
        ):
            assert (await client.error(subscribe=SubscribeRequest(room)))[0] == code, room
        await client.subscribe("open:a")
        await client.subscribe("live:anything")


@on_uvloop
async def test_groups_are_for_their_members_and_for_subscription_tokens() -> None:
    async with live_edge() as edge:
        key, users = "dev/group:g", ["ann", "bob"]
        members = edge.store.members
        shards = await members.shards(key, 4)
        await members.apply(key, shard_of("ann", shards), [MemberChange("ann", encode_body(Joined(1)))], 1)
        clients = {}
        for user in users:
            clients[user] = await edge.client()
            await clients[user].connect(edge.token(user))
        await clients["ann"].subscribe("group:g")
        assert await clients["bob"].error(subscribe=SubscribeRequest("group:g")) == (100, True)
        partition = partition_of(shard_key(key, shard_of("bob", shards)), edge.log.partitions("members"))
        await members.mark(partition, 1)
        assert await clients["bob"].error(subscribe=SubscribeRequest("group:g")) == (103, False)
        assert await clients["bob"].error(subscribe=SubscribeRequest("group:empty")) == (103, False)
        wrong = edge.token("bob", room="group:other")
        assert await clients["bob"].error(subscribe=SubscribeRequest("group:g", token=wrong)) == (101, False)
        old = edge.token("bob", room="group:g", expires_in_s=-60)
        assert await clients["bob"].error(subscribe=SubscribeRequest("group:g", token=old)) == (109, False)
        result = await clients["bob"].subscribe("group:g", token=edge.token("bob", room="group:g"))
        assert result.expires and 500 < result.ttl <= 600
        published = await edge.publish("group:g", "hi")
        for client in clients.values():
            (publication,) = await client.publications(1)
            assert publication.tags == {"id": published.id}
        guest = await edge.client()
        await guest.connect()
        assert await guest.error(subscribe=SubscribeRequest("group:g")) == (103, False)


@on_uvloop
async def test_server_side_subscriptions_come_with_the_connect_reply_and_are_recovered_there() -> None:
    async with live_edge() as edge:
        client = await edge.client()
        token = edge.token("ann", subs=["open:in"])
        assert list((await client.connect(token)).subs) == ["open:in"]
        position = await edge.publish("open:in", 1)
        await client.data(1)
        await client.leave()
        await edge.publish("open:in", 2)
        back = await edge.client()
        wanted = SubscribeRequest(recover=True, offset=position.offset, epoch=position.epoch)
        result = (await back.connect(token, {"open:in": wanted})).subs["open:in"]
        assert result.recovered
        assert [bytes(one.data) for one in result.publications] == [b"2"]


@on_uvloop
async def test_tokens_are_refreshed_and_only_where_they_expire() -> None:
    async with live_edge() as edge:
        client = await edge.client()
        result = await client.connect(edge.token("ann"))
        assert result.expires and 500 < result.ttl <= 600
        refreshed = (await client.ask(refresh=RefreshRequest(edge.token("ann", expires_in_s=900)))).refresh
        assert refreshed is not None and refreshed.expires and refreshed.ttl > 800
        assert await client.error(refresh=RefreshRequest("")) == (107, False)
        await client.subscribe("open:a", token=edge.token("ann", room="open:a"))
        token = edge.token("ann", room="open:a", expires_in_s=900)
        again = (await client.ask(sub_refresh=SubRefreshRequest("open:a", token))).sub_refresh
        assert again is not None and again.ttl > 800
        await client.subscribe("open:b")
        await client.send_raw(b'{"id":99,"sub_refresh":{"channel":"open:b","token":"x"}}')
        assert await client.end() == 3501
        guest = await edge.client()
        await guest.connect()
        await guest.send_raw(b'{"id":9,"refresh":{"token":"x"}}')
        assert await guest.end() == 3501
        bob = await edge.client()
        await bob.connect(edge.token("bob"))
        await bob.send_raw(b'{"id":9,"refresh":{"token":"%s"}}' % edge.token("ann").encode())
        assert await bob.end() == 3507


@on_uvloop
async def test_bad_tokens_end_the_connection_and_old_ones_are_exchanged() -> None:
    async with live_edge() as edge:
        for token in ("nonsense", "a.b.c", edge.token("ann")[:-3] + "xyz", "x" * 5_000):
            client = await edge.client()
            await client.send_raw(b'{"id":1,"connect":{"token":"%s"}}' % token.encode())
            assert await client.end() == 3500
        client = await edge.client()
        await client.send_raw(b'{"id":1,"connect":{"token":"%s"}}' % edge.token("a", expires_in_s=-60).encode())
        reply = await asyncio.wait_for(client.replies.get(), 5)
        assert reply.error is not None and reply.error.code == 109


BROKEN: list[tuple[bytes, int]] = [
    (b"not json", 3501),
    (b"[]", 3501),
    (b'{"id":2}', 107),
    (b'{"id":2,"fly":{}}', 107),
    (b'{"id":2,"subscribe":{"channel":7}}', 107),
    (b'{"id":2,"subscribe":{"channel":"a","channel":"b"}}', 107),
    (b'{"id":2,"subscribe":{"channel":"open:a"},"ping":{}}', 107),
    (b'{"subscribe":{"channel":"open:a"}}', 3501),
    (b'{"id":-1,"ping":{}}', 3501),
    (b'{"id":2,"publish":{"channel":"open:z","data":' + b"[" * 200 + b"]" * 200 + b"}}", 107),
    (b'{"id":2,"publish":{"channel":"open:z","data":"' + b"x" * 33_000 + b'"}}', 107),
    (b'{"id":2,"publish":{"channel":"open:z"}}', 107),
    (b'{"id":2,"connect":{}}', 3501),
    (b"{}", 3501),
    (b'{"id":2,"publish":{"channel":"open:z","data":"' + b"x" * 70_000 + b'"}}', 1009),
]


@pytest.mark.parametrize(("frame", "code"), BROKEN, ids=[str(number) for number in range(len(BROKEN))])
@on_uvloop
async def test_broken_commands_get_the_documented_answer_and_disturb_nobody(frame: bytes, code: int) -> None:
    async with live_edge() as edge:
        neighbour = await edge.listener("open:a")
        client = await edge.client()
        await client.connect()
        await client.send_raw(frame)
        if code in (107,):
            reply = await asyncio.wait_for(client.replies.get(), 5)
            assert reply.error is not None and reply.error.code == code
            assert (await client.ask(ping=PingRequest())).ping is not None
        else:
            assert await client.end() == code
        await edge.publish("open:a", 1)
        assert await neighbour.data(1) == [1]
        assert edge.gateways[0].stats()["written"] == 1


@on_uvloop
async def test_anything_before_connect_ends_the_connection() -> None:
    async with live_edge() as edge:
        for frame in (b'{"id":1,"subscribe":{"channel":"open:a"}}', b"{}", b'{"id":1,"fly":{}}', b'{"send":{}}'):
            client = await edge.client()
            await client.send_raw(frame)
            assert await client.end() == 3501


@on_uvloop
async def test_broken_protobuf_ends_the_connection() -> None:
    async with live_edge() as edge:
        client = await edge.client(WireFormat.PROTOBUF)
        await client.connect()
        await client.send_raw(b"\xff\xff\xff\xff\xff\xff\xff")
        assert await client.end() == 3501


@on_uvloop
async def test_commands_that_come_too_fast_are_refused_and_then_the_session_is_closed() -> None:
    async with live_edge() as edge:
        client = await edge.client()
        await client.connect()
        command = client.codec.encode_command
        flood = [command(Command(id=number, ping=PingRequest())) for number in range(100, 300)]
        await client.send_raw(client.codec.join(flood))
        codes = []
        for _ in range(200):
            reply = await asyncio.wait_for(client.replies.get(), 5)
            codes.append(reply.error.code if reply.error else 0)
        assert codes.count(0) >= 140
        assert codes.count(111) >= 40
        for _ in range(3):
            await client.send_raw(client.codec.join(flood))
        assert await client.end() == 3013


@on_uvloop
async def test_one_user_has_at_most_twenty_sessions_here() -> None:
    async with live_edge() as edge:
        for _ in range(20):
            client = await edge.client()
            await client.connect(edge.token("ann"))
        client = await edge.client()
        await client.send_raw(b'{"id":1,"connect":{"token":"%s"}}' % edge.token("ann").encode())
        assert await client.end() == 3504
        await edge.clients[0].leave()
        await edge.until(lambda: edge.gateways[0].stats()["sessions"] == 19)
        client = await edge.client()
        await client.connect(edge.token("ann"))


@on_uvloop
async def test_many_commands_in_one_frame_are_answered_in_their_order() -> None:
    async with live_edge() as edge:
        client = await edge.client()
        lines = [b'{"id":1,"connect":{}}']
        lines += [b'{"id":%d,"subscribe":{"channel":"open:r%d"}}' % (number, number) for number in range(2, 102)]
        await client.send_raw(b"\n".join(lines))
        for number in range(1, 102):
            reply = await asyncio.wait_for(client.replies.get(), 10)
            assert reply.id == number and reply.error is None
        assert edge.gateways[0].stats()["rooms"] == 100


@on_uvloop
async def test_sessions_are_pinged_and_closed_when_they_are_silent() -> None:
    async with live_edge(ping_s=0.4, pong_s=0.2) as edge:
        lively, silent = await edge.listener("open:a"), await edge.listener("open:a")
        silent.answers_pings = False
        native = await edge.client(query="?cf_ws_frame_ping_pong=true")
        assert not (await native.connect()).pong
        assert await silent.end() == 3012
        await asyncio.sleep(1.0)
        assert lively.closed is None and lively.pings >= 2
        assert native.closed is None and native.pings == 0


@on_uvloop
async def test_plain_http_on_the_same_port_is_served_with_what_was_read_of_it() -> None:
    @post("/echo")
    async def echo(data: JSONBody[dict[str, Any]]) -> dict[str, Any]:
        return {"echo": data}

    async with live_edge() as edge:
        gateway = await edge.gateway(http_app=Litestar([echo], openapi_config=None))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.port}", trust_env=False) as http:
            for number in range(3):
                answer = await http.post("/echo", json={"n": number})
                assert answer.json() == {"echo": {"n": number}}
            assert (await http.get("/nowhere")).status_code == 404
        listener = await edge.listener("open:a", gateway=gateway)
        await edge.publish("open:a", 1)
        assert await listener.data(1) == [1]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{edge.gateways[0].port}", trust_env=False) as http:
            answer = await http.get("/")
            assert answer.status_code == 404
            assert answer.json()["reason"] == "method_not_found"


@on_uvloop
async def test_upgrades_from_foreign_pages_are_refused() -> None:
    async with live_edge() as edge:
        gateway = edge.gateways[0]
        gateway.services.settings = gateway.services.settings.__class__(
            insecure=False, origins=("https://chat.example",)
        )
        with pytest.raises(InvalidStatus) as refused:
            await edge.client(origin="https://evil.example")
        assert refused.value.response.status_code == 403
        for origin in ("https://chat.example", f"http://127.0.0.1:{gateway.port}", None):
            client = await edge.client(origin=origin)
            await client.connect()


@on_uvloop
async def test_a_drain_sends_everybody_elsewhere_and_gives_everything_back() -> None:
    async with live_edge(gateways=2) as edge:
        listener = await edge.listener("open:a")
        leaving, staying = edge.gateways
        await edge.publish("open:a", 1)
        await listener.data(1)
        await leaving.drain()
        assert await listener.end() == 3001
        assert leaving.readiness() == {"gateway": False, "chunk_slot": False}
        assert leaving.hub.rooms == {}
        assert staying.slot is not None
        assert list(await edge.store.leases.table("slots")) == [staying.slot.number]
        elsewhere = await edge.listener("open:a", gateway=staying)
        await edge.publish("open:a", 2)
        assert await elsewhere.data(1) == [2]


@on_uvloop
async def test_two_gateways_deliver_to_all_their_sessions() -> None:
    async with live_edge(gateways=3) as edge:
        listeners = [
            await edge.listener("live:a", FORMATS[number % 2], gateway=edge.gateways[number % 3])
            for number in range(12)
        ]
        for number in range(50):
            await edge.publish("live:a", number, "high")
        for listener in listeners:
            assert await listener.data(50) == list(range(50))


@on_uvloop
async def test_subscribing_at_full_rate_leaves_no_gap_and_repeats_nothing() -> None:
    async with live_edge() as edge:
        witness = await edge.listener("open:a")
        published, done = 0, False

        async def publish() -> None:
            nonlocal published
            while not done:
                await asyncio.gather(*(edge.publish("open:a", 0) for _ in range(5)))
                published += 5

        async def come_and_go() -> tuple[Client, list[int]]:
            client = await edge.client(FORMATS[len(edge.clients) % 2])
            await client.connect()
            position = await client.subscribe("open:a")
            seen: list[int] = []
            for _ in range(70):  # as fast as a session's rate of commands allows
                await client.ask(unsubscribe=UnsubscribeRequest("open:a"))
                while not client.pushes.empty():
                    push = client.pushes.get_nowait()
                    seen += [push.pub.offset] if push.pub else []
                offset = seen[-1] if seen else position.offset
                result = await client.subscribe("open:a", recover=True, offset=offset, epoch=position.epoch)
                assert result.recovered
                seen += [one.offset for one in result.publications]
            return client, seen

        movers = [asyncio.ensure_future(come_and_go()) for _ in range(5)]
        await edge.until(lambda: edge.gateways[0].stats()["subscriptions"] == 6)
        publishing = asyncio.ensure_future(publish())
        moved = await asyncio.gather(*movers)
        done = True
        await publishing
        everything = [one.offset for one in await witness.publications(published)]
        for client, seen in moved:
            seen += [one.offset for one in await client.publications(published - len(seen))]
            assert seen == everything


@on_uvloop
async def test_apps_never_see_one_another() -> None:
    async with live_edge() as edge:
        secrets = {"one": "1" * 32, "two": "2" * 32}
        apps = Apps([App(name, [], [TokenKey(secret=secret)]) for name, secret in secrets.items()])
        edge.tokens = Tokens(apps, edge.clock)
        gateway = await edge.gateway()
        clients = {}
        for name, secret in secrets.items():
            token = mint(secret, app=name, user="ann", expires_s=edge.clock.wall_ms() // 1_000 + 60)
            clients[name] = await edge.client(gateway=gateway)
            await clients[name].connect(token)
            await clients[name].subscribe("live:a")
        for name in ("one", "two"):
            for room in ("two/live:a", "one/live:a", "../two/live:a", "live:a\x00", "LIVE:a"):
                assert (await clients[name].error(subscribe=SubscribeRequest(room)))[0] in (102, 107)
            reply = await clients[name].ask(publish=PublishRequest("live:a", Raw(b'"%b"' % name.encode())))
            assert reply.publish is not None
        for name, client in clients.items():
            assert await client.data(1) == [name]
            assert client.pushes.empty()
        assert set(gateway.hub.rooms) == {"one/live:a", "two/live:a"}
        wrong = mint(secrets["two"], app="one", user="ann", expires_s=edge.clock.wall_ms() // 1_000 + 60)
        intruder = await edge.client(gateway=gateway)
        await intruder.send_raw(b'{"id":1,"connect":{"token":"%b"}}' % wrong.encode())
        assert await intruder.end() == 3500


async def _upgrade(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    assert raw is not None
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    writer.write(
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert b"101" in await reader.readline()
    while await reader.readline() != b"\r\n":
        pass


def _text(payload: bytes) -> bytes:
    return bytes((0x81, 0x80 | len(payload), 0, 0, 0, 0)) + payload
