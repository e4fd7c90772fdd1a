"""A drain loses nothing: publishes stop, what was accepted is delivered, clients are sent away, the process ends."""

from __future__ import annotations

import asyncio
import signal

from fanout.cli.api_client import ApiClient
from fanout.core.errors import FanoutError
from fanout.gateway.drain import WAVE_MIN, WAVE_S
from fanout.runtime.launch import EngineProcess
from fanout.viewers import Viewers

ROOM = "open:drain"
VIEWERS = 50


async def test_everything_accepted_before_a_drain_is_delivered_before_the_clients_are_sent_away() -> None:
    engine = await asyncio.to_thread(EngineProcess(["--insecure", "--port", "0"]).start)
    crew = Viewers(engine.websocket_url, ROOM, VIEWERS)
    try:
        await crew.open()
        with ApiClient(engine.url) as api:
            accepted = await asyncio.to_thread(publish_until_refused, api, engine)
        for viewer in crew.viewers:
            viewer.wanted = False  # nobody serves this address any more
        assert await asyncio.to_thread(engine.wait) == 0
        assert accepted > 50
        assert await crew.caught_up(accepted * VIEWERS, 5)
        assert crew.deliveries == accepted * VIEWERS
        assert crew.counts.misordered == 0
        assert crew.counts.closes[3001] == VIEWERS
    finally:
        await crew.close()
        engine.kill()


async def test_sessions_are_sent_away_in_waves_within_the_time_that_was_set() -> None:
    engine = await asyncio.to_thread(EngineProcess(["--insecure", "--port", "0", "--drain-s", "2"]).start)
    crew = Viewers(engine.websocket_url, ROOM, 4 * WAVE_MIN)
    try:
        await crew.open()
        for viewer in crew.viewers:
            viewer.wanted = False  # there is no other gateway
        engine.signal(signal.SIGTERM)
        seen: list[int] = []
        while sum(seen[-1:]) < len(crew.viewers):
            await asyncio.sleep(WAVE_S / 4)
            seen.append(crew.counts.closes[3001])
        waves = sorted({gone for gone in seen if gone})
        assert len(waves) >= 3, "not all at once"
        assert crew.counts.closes.keys() == {3001}
        assert await asyncio.to_thread(engine.wait) == 0
    finally:
        await crew.close()
        engine.kill()


def publish_until_refused(api: ApiClient, engine: EngineProcess) -> int:
    """Publish as fast as one connection allows, ask for the drain on the way; return how many were accepted."""
    accepted = 0
    try:
        for number in range(5_000):
            if number == 100:
                engine.signal(signal.SIGTERM)
            api.post("/v1/publish", {"room": ROOM, "data": number})
            accepted += 1
    except FanoutError:
        pass
    return accepted
