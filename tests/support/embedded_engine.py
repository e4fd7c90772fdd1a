"""An engine on its twins inside the test's own process, so that the test can do to its store what faults do."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

import httpx

from fanout.adapters import open_store
from fanout.adapters.memory_store import MemoryEpochs
from fanout.cli.engine import Engine
from fanout.core.messages import room_key
from fanout.core.records import MESSAGES, PARTITIONS
from fanout.ports import Store
from fanout.runtime.apps import DEV_APP, DEV_SECRET, Apps
from fanout.runtime.clock import SystemClock
from fanout.runtime.settings import ServeSettings
from fanout.runtime.tokens import mint
from sharding.placement import partition_of

_NUMBERS = itertools.count()


class EmbeddedEngine:
    """A running engine with all roles; ``port`` serves HTTP and WebSocket."""

    def __init__(self, engine: Engine, store: Store) -> None:
        self._store = store
        self._clock = SystemClock()
        self.port = engine.port
        self.ws_url = f"ws://127.0.0.1:{engine.port}/connection/websocket"
        self._http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{engine.port}", trust_env=False)

    async def publish(self, room: str, data: object) -> None:
        """Publish over HTTP; fails unless it was accepted."""
        answer = await self._http.post("/v1/publish", json={"room": room, "data": data})
        assert answer.status_code in (200, 201), answer.text

    async def publish_all(self, room: str, payloads: Iterable[object]) -> None:
        """Publish up to 1,000 messages in one call; fails unless all were accepted."""
        messages = [{"room": room, "data": data} for data in payloads]
        answer = await self._http.post("/v1/publish/batch", json={"messages": messages})
        assert answer.status_code in (200, 201), answer.text
        assert all("offset" in result for result in answer.json()["results"]), answer.text

    def lose_epoch_of(self, room: str) -> None:
        """Let the store lose the epoch of the room's partition, as a Redis does that comes back from an old snapshot.

        The owner notices when it next tells the store how far the log was seen, claims again and begins a new epoch.
        """
        partition = partition_of(room_key(DEV_APP, room).encode(), PARTITIONS[MESSAGES])
        assert isinstance(self._store.epochs, MemoryEpochs)
        self._store.epochs.lose(partition)

    def token(self, user: str, subs: Sequence[str] = ()) -> str:
        """Return a connection token of the app ``dev``."""
        expires_s = self._clock.wall_ms() // 1_000 + 600
        return mint(DEV_SECRET, app=DEV_APP, user=user, expires_s=expires_s, subs=subs)

    async def close(self) -> None:
        """Let go of the HTTP connections."""
        await self._http.aclose()


@asynccontextmanager
async def embedded_engine() -> AsyncIterator[EmbeddedEngine]:
    """Start an engine on twins of its own on a free loopback port, and stop it at the end."""
    twins = f"memory://{os.getpid()}-{next(_NUMBERS)}"
    settings = ServeSettings(log=twins, store=twins, port=0, insecure=True)
    engine = Engine(settings, apps=Apps.insecure())
    await engine.start()
    store = await open_store(twins, prefix=settings.prefix, clock=engine.clock)
    embedded = EmbeddedEngine(engine, store)
    try:
        yield embedded
    finally:
        await embedded.close()
        await engine.close()
