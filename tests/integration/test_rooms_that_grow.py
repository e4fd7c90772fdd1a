"""Sessions come and go, and their room is thinned by its size: gateway, worker and sender together, in virtual time."""

from __future__ import annotations

import asyncio

from fanout.core.policies import encode_policies
from fanout.core.profiles import Policy
from fanout.core.records import MESSAGES, POLICY, PolicyChange, encode
from fanout.runtime.apps import DEV_APP
from sharding.placement import partition_of
from tests.support.fake_line import FakeLine
from tests.support.live_edge import LiveEdge
from tests.support.virtual_time import LoopClock, run

ROOM = "live:stage"
PARTITION = partition_of(f"{DEV_APP}/{ROOM}".encode(), 64)
# 100 deliveries a second are 20 a window: twenty messages for one, two for ten.
TIGHT = Policy(room_deliveries_per_s=100, shared_slots_min=1, shared_slots_max=20)
ANNOUNCED_S = 15.0


async def session(edge: LiveEdge) -> FakeLine:
    """Return a session that listens to the room."""
    line = FakeLine(edge.gateways[0])
    await line.connect(edge.token("ann"))
    reply = await line.ask(b'{"id":2,"subscribe":{"channel":"%b"}}' % ROOM.encode())
    assert reply.subscribe is not None, reply.error
    return line


async def shown(edge: LiveEdge, lines: list[FakeLine]) -> set[int]:
    """Publish a loud moment; return how many messages of it the sessions were shown (each as many as the others)."""
    await asyncio.sleep(1)
    for line in lines:
        line.pushes.clear()
    await asyncio.gather(*(edge.publish(ROOM, number) for number in range(60)))
    await asyncio.sleep(1)
    return {sum(push.pub is not None for push in line.pushes) for line in lines}


async def grow_and_shrink() -> None:
    edge = LiveEdge(LoopClock())
    await edge.worker.start()
    await edge.sender.start()
    await edge.gateway()
    try:
        said = PolicyChange(DEV_APP, 1, encode_policies({"live": TIGHT}))
        await edge.sender.writer.append(MESSAGES, PARTITION, None, encode(POLICY, said))
        first = await session(edge)
        assert await shown(edge, [first]) == {20}
        others = [await session(edge) for _ in range(9)]
        await asyncio.sleep(ANNOUNCED_S)
        assert await shown(edge, [first, *others]) == {2}
        for line in others:
            line.transport.close()
        await asyncio.sleep(ANNOUNCED_S)
        assert await shown(edge, [first]) == {20}
    finally:
        await edge.close()


def test_a_room_that_grows_is_thinned_and_one_that_empties_is_not() -> None:
    run(grow_and_shrink())
