"""A sender over the twins, in virtual time, with its API: what unit tests of the way in share."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, cast

import httpx
import msgspec

from fanout.adapters.memory import MemoryLog, MemoryState, memory_store
from fanout.control.ops import build_ops
from fanout.core.profiles import Policy, Profiles
from fanout.core.publish import Publish
from fanout.core.records import MESSAGES, Header, Message, body, header
from fanout.ports import Clock, Store, Topics
from fanout.runtime.apps import App, Apps
from fanout.sender.admission import Rates
from fanout.sender.api import build_api
from fanout.sender.config import PolicyConfig
from fanout.sender.config_api import config_handlers
from fanout.sender.http import ApiKeys
from fanout.sender.sender import Sender

API_KEY = "a-key-of-enough-bytes"
OTHER_KEY = "another-key-of-enough-bytes"


def publish(room: str = "open:r", data: Any = 1, **fields: Any) -> Publish:
    """Return a publish body."""
    return Publish(room=room, data=msgspec.Raw(msgspec.json.encode(data)), **fields)


@dataclass
class Sending:
    """The parts of one sender."""

    clock: Clock
    log: MemoryLog
    state: MemoryState
    store: Store
    sender: Sender

    async def records(self, room: str = "open:r", app: str = "dev") -> list[tuple[Header, Message]]:
        """Return the message records of a room, in log order."""
        found: list[tuple[Header, Message]] = []
        reader = await self.log.reader(MESSAGES, range(self.log.partitions(MESSAGES)))
        for partition in range(self.log.partitions(MESSAGES)):
            reader.seek(partition, 0)
        while polled := await reader.poll(10_000, 0.001):
            for batch in polled.values():
                for record in batch:
                    if record.key == f"{app}/{room}".encode():
                        assert record.value is not None
                        found.append((header(record.value), body(record.value, Message)))
        await reader.close()
        return found


@contextlib.asynccontextmanager
async def sending(
    clock: Clock, *, rates: Rates | None = None, profiles: Profiles | None = None, policy: Policy | None = None
) -> AsyncIterator[Sending]:
    """Yield a started sender on twins of its own; ``policy`` holds in all rooms, without it the profile's."""
    log = MemoryLog(Topics(), clock)
    state = MemoryState()
    store = memory_store(clock, state)
    sender = Sender(
        log=log,
        store=store,
        profiles=profiles or Profiles(insecure=True),
        clock=clock,
        holder="test:1",
        rates=rates,
        policy_of=(lambda app, room: policy) if policy is not None else None,
    )
    await sender.start()
    try:
        yield Sending(clock, log, state, store, sender)
    finally:
        state.available = log.available = True
        await sender.drain()
        await sender.close()
        await log.close()


def whole_bodies(app: Any) -> Any:
    """Return an ASGI application that gets bodies whole, as a server hands small ones over; httpx cuts them."""

    async def joined(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Any:
            return messages.pop() if messages else {"type": "http.disconnect"}

        await app(scope, again, send)

    return joined


@contextlib.asynccontextmanager
async def api(
    parts: Sending, apps: Apps | None = None, *, whole: bool = True, config: PolicyConfig | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """Yield an HTTP client of the sender's API; ``whole``: bodies come in one piece."""
    apps = apps or Apps.insecure()

    async def readiness() -> dict[str, bool]:
        return parts.sender.readiness()

    app = build_api(
        sender=parts.sender,
        store=parts.store,
        log=parts.log,
        apps=apps,
        profiles=Profiles(insecure=True),
        clock=parts.clock,
        extra_handlers=[*build_ops(readiness), *(config_handlers(config, ApiKeys(apps)) if config else ())],
    )
    served = whole_bodies(app) if whole else cast(Any, app)  # two spellings of ASGI's types
    transport = httpx.ASGITransport(served, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
        yield client


def two_apps() -> Apps:
    """Return the apps ``shop`` and ``news``."""
    return Apps([App("shop", [API_KEY]), App("news", [OTHER_KEY])])
