"""An asyncio client of the engine: connect, subscribe with recovery, publish, call.

    async with Client("ws://127.0.0.1:8000/connection/websocket") as client:
        await client.subscribe("open:lobby", lambda publication: print(bytes(publication.data)))
        await client.publish("open:lobby", {"text": "hello"})

It speaks the JSON form of the Centrifuge protocol. Each subscription has one task that joins, handles publications one
after the other and comes back by itself: its position is that of the last publication whose handler has *returned*, so
what is asked for after a cut is exactly what was not processed. Nothing is queued without bound: a handler that falls
1,024 publications behind makes its subscription leave, and return from its position once it has caught up.
"""

from __future__ import annotations

from fanout.client.session import Client, Token
from fanout.client.subscription import OnPublication, OnSubscribed, Subscription
from fanout.client.wire import Disconnected, Rejected
from fanout.protocol.centrifuge import HistoryResult, Publication, StreamPosition, SubscribeResult

__all__ = [
    "Client",
    "Disconnected",
    "HistoryResult",
    "OnPublication",
    "OnSubscribed",
    "Publication",
    "Rejected",
    "StreamPosition",
    "SubscribeResult",
    "Subscription",
    "Token",
]
