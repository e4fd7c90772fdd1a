"""Merged publications at the gateway: what clients of both wire formats see, and what the room worker is told of it."""

from __future__ import annotations

import msgspec

from fanout.core.publish import AskedMerge, Publish
from fanout.protocol.centrifuge import WireFormat
from fanout.runtime.apps import DEV_APP
from tests.support.live_edge import LiveEdge, live_edge

ROOM = "live:stage"
KEY = f"{DEV_APP}/{ROOM}"


async def say(edge: LiveEdge, data: int, merge: AskedMerge | None = None, priority: str = "low") -> None:
    """Publish one message, merged or not."""
    raw = msgspec.Raw(msgspec.json.encode(data))
    await edge.sender.publish(DEV_APP, Publish(room=ROOM, data=raw, priority=priority, merge=merge))


async def test_every_client_sees_the_same_folds_and_gateways_take_what_the_worker_counts_as_sent() -> None:
    async with live_edge(2) as edge:
        listeners = [
            await edge.listener(ROOM, wire_format, gateway=gateway)
            for gateway in edge.gateways
            for wire_format in WireFormat
        ]
        for number in range(300):
            await say(edge, number, AskedMerge("likes", "sum"))
            await say(edge, number, AskedMerge("bids", "top", float(number % 7), 2))
            if number % 50 == 49:
                await say(edge, -number, priority="high")
        (room,) = (one.rooms[KEY.encode()] for one in edge.worker._partitions.active.values() if one.rooms)
        await edge.until(lambda: sum(room.ledger.accepted) == 606 and room.folds is None, "everything sent")
        sent = sum(room.ledger.sent)
        seen = []
        for listener in listeners:
            publications = await listener.publications(sent)
            seen.append([(bytes(one.data), one.offset, one.tags) for one in publications])
            assert listener.pushes.empty()
        assert seen[1:] == seen[:1] * (len(seen) - 1)
        likes = [tags for _, _, tags in seen[0] if tags and tags["merge_key"] == "likes"]
        assert sum(int(tags["merge_value"]) for tags in likes) == 300
        assert [data for data, offset, _ in seen[0] if offset] == [b"%d" % -number for number in range(49, 300, 50)]
        assert all((offset == 0) == bool(tags) for _, offset, tags in seen[0])
        assert room.ledger.merged == [0, 0, 0, 600]
        twice = tuple(2 * count for count in room.ledger.sent)
        for gateway in edge.gateways:
            held = gateway.hub.rooms[KEY]
            assert held.taken == room.ledger.sent
            assert held.ledger.offered == held.ledger.written == twice
