"""``rpc skipped`` between real clients, a gateway and a worker on the twins: what a client did not get is told."""

from __future__ import annotations

import json
from typing import Any

from msgspec import Raw

from fanout.core.publish import Publish
from fanout.protocol.centrifuge import RPCRequest
from fanout.runtime.apps import DEV_APP
from tests.support.live_edge import Client, live_edge
from tests.support.loops import on_uvloop

ROOM = "live:a"


def asking(**fields: Any) -> RPCRequest:
    """Return the call."""
    return RPCRequest(Raw(json.dumps(fields).encode()), "skipped")


async def told(client: Client, room: str, after: int, to: int, **fields: Any) -> dict[str, Any]:
    """Return the answer to the call."""
    reply = await client.ask(rpc=asking(room=room, to=to, **{"from": after}, **fields))
    assert reply.rpc is not None, reply.error
    answer: dict[str, Any] = json.loads(bytes(reply.rpc.data))
    return answer


@on_uvloop
async def test_what_was_thinned_between_two_offsets_is_told_with_its_range() -> None:
    async with live_edge() as edge:
        client = await edge.listener(ROOM)
        first = await edge.publish(ROOM, 0, "high")
        await client.data(1)
        chat = [Publish(room=ROOM, data=Raw(b"%d" % n)) for n in range(1, 121)]
        sent = await edge.sender.publish_batch(DEV_APP, chat)  # one append: all of them are of one record time
        last = await edge.publish(ROOM, 121, "high")
        received: list[int] = []
        while 121 not in received:
            received += await client.data(1)
        answer = await told(client, ROOM, first.offset, last.offset, epoch=last.epoch)
        missed = 120 - (len(received) - 1)
        assert missed > 0, "this room is thinned"
        thinned = answer["thinned"]
        assert thinned["from"] <= first.offset
        assert thinned["to"] >= last.offset
        assert thinned["counts"] == {"system": 0, "high": 0, "normal": missed, "low": 0}
        assert answer["droppable"] == {
            "from": first.offset,
            "to": last.offset,
            "counts": {"system": 0, "high": 0, "normal": 120 - missed, "low": 0},
        }
        assert answer["high"]["items"] == [{"id": last.id, "offset": last.offset, "priority": "high"}]
        assert (answer["from"], answer["to"], answer["room"]) == (first.offset, last.offset, ROOM)
        assert answer["epoch"] == last.epoch
        assert len(sent) == 120


@on_uvloop
async def test_high_that_has_left_the_ring_comes_from_the_history() -> None:
    async with live_edge() as edge:
        published = [await edge.publish(ROOM, n, "high" if n % 2 else "low") for n in range(10)]
        client = await edge.listener(ROOM)  # its gateway knows nothing of what was before
        answer = await told(client, ROOM, published[1].offset, published[9].offset)
        assert [item["id"] for item in answer["high"]["items"]] == [published[n].id for n in (3, 5, 7, 9)]
        assert (answer["high"]["from"], answer["high"]["next"]) == (published[1].offset, None)
        newest = answer["to"]
        assert answer["droppable"]["from"] == answer["thinned"]["from"] == newest, "known from there on"


@on_uvloop
async def test_a_room_that_is_not_thinned_says_so_with_zeros() -> None:
    async with live_edge() as edge:
        client = await edge.listener("open:a")
        published = [await edge.publish("open:a", n) for n in range(3)]
        await client.data(3)
        answer = await told(client, "open:a", 0, published[2].offset + 1_000)
        assert (answer["to"], set(answer["thinned"]["counts"].values())) == (published[2].offset, {0})
        assert answer["thinned"]["from"] == 0


@on_uvloop
async def test_a_history_that_does_not_answer_is_a_temporary_error() -> None:
    async with live_edge() as edge:
        published = [await edge.publish(ROOM, n, "high") for n in range(2)]
        client = await edge.listener(ROOM)
        edge.state.available = False
        asked = asking(room=ROOM, to=published[1].offset, **{"from": 0})
        assert await client.error(rpc=asked) == (100, True)
        edge.state.available = True


BAD = [
    (b'{"room":"live:a","from":5,"to":4}', 107),
    (b'{"room":"live:a","from":-1,"to":4}', 107),
    (b'{"room":"live:a","from":0,"to":9007199254740993}', 107),
    (b'{"room":"live:a","from":"0","to":1}', 107),
    (b'{"room":"live:a","from":0}', 107),
    (b'{"room":"live:a","from":0,"to":1,"more":1}', 107),
    (b'{"room":"live:a","from":0,"to":1,"epoch":"another"}', 112),
    (b'{"room":"live:elsewhere","from":0,"to":1}', 103),
    (b'{"room":"nope:x","from":0,"to":1}', 103),
    (b"[]", 107),
    (b"null", 107),
]


@on_uvloop
async def test_calls_that_cannot_be_answered_are_refused_for_good() -> None:
    async with live_edge() as edge:
        client = await edge.listener(ROOM)
        for data, code in BAD:
            assert await client.error(rpc=RPCRequest(Raw(data), "skipped")) == (code, False), data
        assert await told(client, ROOM, 0, 0)
