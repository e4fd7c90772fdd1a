"""Two senders, two workers, three gateways, a real Kafka and Redis; some of them are killed, one becomes a zombie.

Every accepted message reaches every session that stayed or came back, in order, once; the ledger is exact.
"""

from __future__ import annotations

import asyncio
import signal
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from fanout.cli.api_client import ApiClient
from fanout.cli.reconcile import total
from fanout.client import Client, Publication, SubscribeResult
from fanout.core.errors import FanoutError
from fanout.core.ledger import differences
from fanout.runtime.launch import EngineProcess
from tests.support.parts import freeze

ROOMS = 50
SESSIONS_PER_ROOM = 20
PUBLISHES_PER_S = 200
SECONDS = 20
ZOMBIE_S = 20.0
ARRIVE_S = 60.0
REPORT_S = 45.0


@dataclass
class World:
    """The processes of one engine on one log and one store."""

    servers: list[str]
    senders: list[EngineProcess] = field(default_factory=list)
    workers: list[EngineProcess] = field(default_factory=list)
    gateways: list[EngineProcess] = field(default_factory=list)

    def launch(self, role: str) -> EngineProcess:
        return EngineProcess(["--insecure", "--port", "0", "--roles", role, *self.servers]).spawn()

    def start(self) -> None:
        self.senders = [self.launch("sender") for _ in range(2)]
        self.workers = [self.launch("worker") for _ in range(2)]
        self.gateways = [self.launch("gateway") for _ in range(3)]
        for engine in (*self.senders, *self.workers, *self.gateways):
            engine.wait_listening()

    def end(self) -> None:
        for engine in (*self.gateways, *self.workers, *self.senders):
            if engine.alive():
                engine.signal(signal.SIGCONT)
                engine.kill()


@pytest.fixture
def world(kafka_url: str, redis_url: str) -> Iterator[World]:
    built = World(["--log", kafka_url, "--store", redis_url, "--prefix", f"p{uuid.uuid4().hex[:8]}"])
    try:
        built.start()
        yield built
    finally:
        built.end()


class Listener:
    """One session: what it was shown, in order, and whether it was told of a gap."""

    def __init__(self, urls: list[str], room: str) -> None:
        self.client = Client(urls)
        self.room = room
        self.offsets: list[int] = []
        self.start = 0
        self.joins = 0
        self.gaps = 0

    async def open(self) -> None:
        await self.client.connect()
        await self.client.subscribe(self.room, self.show, on_subscribed=self.joined)

    def show(self, publication: Publication) -> None:
        self.offsets.append(publication.offset)

    def joined(self, result: SubscribeResult) -> None:
        if not self.joins:
            self.start = result.offset
        elif not result.recovered:
            self.gaps += 1
        self.joins += 1


class Publisher:
    """Publishes round the rooms through both senders and notes what was accepted."""

    def __init__(self, senders: list[EngineProcess]) -> None:
        self.apis = [ApiClient(sender.url) for sender in senders]
        self.accepted: dict[str, list[int]] = {room_name(number): [] for number in range(ROOMS)}
        self.refused = 0

    def publish(self, number: int) -> None:
        room = room_name(number % ROOMS)
        try:
            # keyed, so that a repeat after an ambiguous answer is one message
            body = {"room": room, "data": {"n": number}, "id": f"message-{number}"}
            self.accepted[room].append(self.apis[number % 2].post("/v1/publish", body)["offset"])
        except FanoutError:
            self.refused += 1

    def close(self) -> None:
        for api in self.apis:
            api.close()

    async def run(self) -> None:
        begin = time.monotonic()
        for number in range(PUBLISHES_PER_S * SECONDS):
            ahead = begin + number / PUBLISHES_PER_S - time.monotonic()
            if ahead > 0:
                await asyncio.sleep(ahead)
            await asyncio.to_thread(self.publish, number)


def room_name(number: int) -> str:
    return f"open:room-{number}"


async def faults(world: World) -> None:
    """Kill a worker and replace it, stop the other one for 20 s and let it go on; meanwhile kill a gateway."""
    await asyncio.sleep(4)
    world.workers[0].kill()
    world.workers.append(world.launch("worker"))
    await asyncio.sleep(3)
    freeze(world.workers[1].pid)
    await asyncio.sleep(7)
    world.gateways[0].kill()
    await asyncio.sleep(ZOMBIE_S - 7)
    world.workers[1].signal(signal.SIGCONT)


async def wait_until_all_arrived(listeners: list[Listener], publisher: Publisher) -> None:
    deadline = time.monotonic() + ARRIVE_S
    while time.monotonic() < deadline:
        if all(set(publisher.accepted[one.room]) <= set(one.offsets) for one in listeners):
            return
        await asyncio.sleep(0.2)


@pytest.mark.real
@pytest.mark.timeout(300)
async def test_every_accepted_message_reaches_every_session_once_and_in_order_across_kills(world: World) -> None:
    urls = [gateway.websocket_url for gateway in world.gateways]
    listeners = [
        Listener(urls[index % 3 :] + urls[: index % 3], room_name(number))
        for number in range(ROOMS)
        for index in range(SESSIONS_PER_ROOM)
    ]
    for begin in range(0, len(listeners), 50):
        await asyncio.gather(*(listener.open() for listener in listeners[begin : begin + 50]))
    publisher = Publisher(world.senders)
    await asyncio.gather(publisher.run(), faults(world))
    await wait_until_all_arrived(listeners, publisher)
    try:
        assert publisher.refused == 0
        for listener in listeners:
            accepted = sorted(publisher.accepted[listener.room])
            assert listener.gaps == 0, f"{listener.room}: told of a gap"
            assert listener.offsets == accepted, f"{listener.room}: {len(listener.offsets)} of {len(accepted)}"
        received = {room: sum(len(one.offsets) for one in listeners if one.room == room) for room in publisher.accepted}
        await asyncio.to_thread(ledgers_are_exact, world, publisher, received)
    finally:
        publisher.close()
        await asyncio.gather(*(listener.client.close() for listener in listeners))


def ledgers_are_exact(world: World, publisher: Publisher, received: dict[str, int]) -> None:
    """Accepted is what the senders were answered, nothing was dropped, and every delivery has its one fate.

    What the killed gateway did after its last report is not in the ledger: that is ``unreported``, a bound from above.
    """
    with ApiClient(world.senders[0].url) as api:
        for room, offsets in publisher.accepted.items():
            ledger = reported_ledger(api, room, received[room])
            assert differences(ledger) == []
            assert total(ledger["accepted"]) == len(offsets)
            assert total(ledger["kept"]) == len(offsets)
            assert ledger["dropped"] == {}
            hour = api.ledger(room, "1h")
            assert differences(hour) == []
            assert (hour["accepted"], hour["kept"]) == (ledger["accepted"], ledger["kept"])
        app = api.get("/v1/ledger")
        assert differences(app) == []
        assert app["rooms"] == len(publisher.accepted)
        assert total(app["accepted"]) == sum(len(offsets) for offsets in publisher.accepted.values())


def reported_ledger(api: ApiClient, room: str, received: int) -> Any:
    """Return the ledger once the gateways have reported all that the sessions received."""
    deadline = time.monotonic() + REPORT_S
    while True:
        ledger = api.ledger(room)
        edge = ledger["edge"]
        written, unreported = total(edge["written"]), total(edge["unreported"])
        if total(edge["pending"]) == 0 and written <= received <= written + unreported:
            return ledger
        assert time.monotonic() < deadline, f"{room}: {received} received, {ledger}"
        time.sleep(0.5)
