"""The small commands: publish, watch, token, topics apply."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any
from urllib.parse import urlsplit

import msgspec

from fanout.cli.api_client import ApiClient
from fanout.cli.terminal import say
from fanout.client import Client, Publication
from fanout.core.errors import ConfigError


def as_data(text: str) -> Any:
    """Return what is published for a text: its JSON value, or the text wrapped as ``{"text": …}``."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return {"text": text}


def publish_one(url: str, key: str, room: str, text: str, priority: str, sender: str) -> int:
    """Publish and print ``{id, room, offset, epoch, priority}``; raises FanoutError with the engine's sentence."""
    body = {"room": room, "data": as_data(text), "priority": priority}
    if sender:
        body["sender"] = sender
    with ApiClient(url, key) as api:
        say(msgspec.json.encode(api.post("/v1/publish", body)).decode())
    return 0


def websocket_url(url: str) -> str:
    """Return the WebSocket address beside an HTTP one."""
    parts = urlsplit(url if "//" in url else f"http://{url}")
    scheme = "wss" if parts.scheme in ("https", "wss") else "ws"
    return f"{scheme}://{parts.netloc}/connection/websocket"


def watch_room(url: str, token: str, room: str, count: int) -> int:
    """Print publications until ``count`` of them came, or until interrupted; raises FanoutError on an end for good."""
    try:
        return asyncio.run(_watch(url, token, room, count))
    except KeyboardInterrupt:
        return 0


def as_line(publication: Publication) -> str:
    """Return a publication as one line of JSON: data, and where it has them offset, sender and tags."""
    line: dict[str, Any] = {"data": msgspec.Raw(bytes(publication.data))}
    if publication.offset:
        line = {"offset": publication.offset, **line}
    if publication.info is not None and publication.info.user:
        line["sender"] = publication.info.user
    if publication.tags:
        line["tags"] = publication.tags
    return msgspec.json.encode(line).decode()


async def _watch(url: str, token: str, room: str, count: int) -> int:
    seen = 0
    done = asyncio.Event()

    async def show(publication: Publication) -> None:
        nonlocal seen
        say(as_line(publication))
        seen += 1
        if seen == count:
            done.set()

    async with Client(websocket_url(url), token=token or None, name="fanout-watch") as client:
        subscription = await client.subscribe(room, show)
        sys.stderr.write(f"watching {room}\n")
        ends = [asyncio.ensure_future(done.wait()), asyncio.ensure_future(subscription.ended())]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not done.is_set():
                await ends[1]  # the engine has ended it for good: say why
        finally:
            for end in ends:
                end.cancel()
    return 0


def sign_token(app: str, user: str, ttl_s: int, rooms: list[str]) -> int:
    """Print a connection token; raises ConfigError where the secret is missing."""
    from fanout.runtime.clock import SystemClock
    from fanout.runtime.tokens import mint

    secret = os.environ.get("FANOUT_TOKEN_SECRET", "")
    if not secret:
        raise ConfigError("FANOUT_TOKEN_SECRET is not set: it is the secret that fanout serve was started with")
    say(mint(secret, app=app, user=user, expires_s=SystemClock().wall_ms() // 1000 + ttl_s, rooms=rooms))
    return 0


def apply_all_topics(log: str, prefix: str, replication: int) -> int:
    """Create what is missing and print a line a topic; exit status 1 where an existing topic cannot be used."""
    from fanout.adapters import apply_topics
    from fanout.ports import Topics

    if not log.startswith("kafka://"):
        raise ConfigError(f"--log {log}: topics are applied to Kafka, give --log kafka://host:port")
    lines = asyncio.run(apply_topics(log, Topics(prefix=prefix), replication=replication))
    for line in lines:
        say(line)
    return 1 if any("differs" in line for line in lines) else 0
