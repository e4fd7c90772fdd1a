"""The stock Python SDK behind a pipe; see ``driver.mjs``, whose commands and events it shares."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from centrifuge import (
    CentrifugeError,
    Client,
    ClientEventHandler,
    ReplyError,
    SubscriptionEventHandler,
)

SETTINGS: dict[str, str] = json.loads(sys.argv[1])
PROTOBUF = SETTINGS["protocol"] == "protobuf"


def decoded(data: Any) -> Any:
    return json.loads(data) if isinstance(data, bytes) else data


def encoded(data: Any) -> Any:
    return json.dumps(data).encode() if PROTOBUF else data


def tell(event: str, **fields: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def publication_of(publication: Any) -> dict[str, Any]:
    return {
        "data": decoded(publication.data),
        "offset": publication.offset or 0,
        "tags": publication.tags or {},
        "user": publication.info.user if publication.info else "",
    }


def join_of(ctx: Any) -> dict[str, Any]:
    position = ctx.stream_position
    return {
        "recovered": ctx.recovered,
        "was_recovering": ctx.was_recovering,
        "offset": position.offset if position else 0,
        "epoch": position.epoch if position else "",
    }


class OfClient(ClientEventHandler):  # type: ignore[misc]  # the SDK comes without types
    """Tells what the client reports."""

    async def on_connecting(self, ctx: Any) -> None:
        tell("connecting", code=ctx.code)

    async def on_connected(self, ctx: Any) -> None:
        tell("connected", client=ctx.client)

    async def on_disconnected(self, ctx: Any) -> None:
        tell("disconnected", code=ctx.code)

    async def on_error(self, ctx: Any) -> None:
        tell("error", code=ctx.code, message=str(ctx.error))

    async def on_subscribed(self, ctx: Any) -> None:
        tell("server_subscribed", room=ctx.channel, **join_of(ctx))

    async def on_publication(self, ctx: Any) -> None:
        tell("server_publication", room=ctx.channel, **publication_of(ctx.pub))


class OfSubscription(SubscriptionEventHandler):  # type: ignore[misc]
    """Tells what the subscription reports."""

    async def on_subscribing(self, ctx: Any) -> None:
        tell("subscribing", code=ctx.code)

    async def on_subscribed(self, ctx: Any) -> None:
        tell("subscribed", **join_of(ctx))

    async def on_unsubscribed(self, ctx: Any) -> None:
        tell("unsubscribed", code=ctx.code)

    async def on_error(self, ctx: Any) -> None:
        tell("subscription_error", code=ctx.code)

    async def on_publication(self, ctx: Any) -> None:
        tell("publication", **publication_of(ctx.pub))


async def act(client: Any, subscription: Any, command: dict[str, Any]) -> Any:
    """Do what a command says; return what it gives."""
    match command["do"]:
        case "publish":
            await subscription.publish(encoded(command["data"]))
        case "history":
            page = await subscription.history(limit=command["limit"])
            publications = [publication_of(publication) for publication in page.publications]
            return {"publications": publications, "offset": page.offset, "epoch": page.epoch}
        case "presence_stats":
            stats = await subscription.presence_stats()
            return {"clients": stats.num_clients, "users": stats.num_users}
        case "rpc":
            return decoded((await client.rpc(command["method"], encoded(command["data"]))).data)
        case "close":
            await client.disconnect()
    return None


async def main() -> None:
    """Connect, and serve the pipe until it closes."""
    client = Client(
        SETTINGS["url"],
        events=OfClient(),
        token=SETTINGS.get("token") or "",
        use_protobuf=PROTOBUF,
        min_reconnect_delay=0.05,
        max_reconnect_delay=0.5,
        proxy=None,
    )
    subscription = None
    if SETTINGS.get("room"):
        subscription = client.new_subscription(
            SETTINGS["room"], events=OfSubscription(), min_resubscribe_delay=0.05, max_resubscribe_delay=0.5
        )
    await client.connect()
    if subscription is not None:
        await subscription.subscribe()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        command = json.loads(line)
        try:
            tell("answer", number=command["number"], result=await act(client, subscription, command))
        except ReplyError as error:
            tell("answer", number=command["number"], error={"code": error.code, "message": error.message})
        except CentrifugeError as error:
            tell("answer", number=command["number"], error={"code": 0, "message": str(error)})


asyncio.run(main())
