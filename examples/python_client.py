"""A room in a terminal: prints what is said there, and says what it is given.

    fanout serve --insecure                                     (in another terminal)
    python examples/python_client.py open:lobby                 prints until interrupted
    python examples/python_client.py open:lobby hello everybody publishes, and ends when the message came back

Cuts are survived: the client comes back by itself and asks for exactly what it has not handled yet.
"""

from __future__ import annotations

import argparse
import asyncio
from contextlib import suppress

import msgspec

from fanout.client import Client, Publication, SubscribeResult

URL = "ws://127.0.0.1:8000/connection/websocket"


async def talk(url: str, token: str, room: str, text: str) -> None:
    """Join the room, publish ``text`` where there is one, print what comes."""
    said = asyncio.Event()

    async def on_publication(publication: Publication) -> None:
        message = msgspec.json.decode(bytes(publication.data))
        sender = publication.info.user if publication.info is not None else "somebody"
        print(
            f"{sender}: {message['text'] if isinstance(message, dict) and 'text' in message else message}", flush=True
        )
        if text and isinstance(message, dict) and message.get("text") == text:
            said.set()

    def on_subscribed(joined: SubscribeResult) -> None:
        if joined.was_recovering and not joined.recovered:
            print("(some messages are missing here: the room's history does not reach back so far)", flush=True)

    async with Client(url, token or None, name="example") as client:
        subscription = await client.subscribe(room, on_publication, on_subscribed=on_subscribed)
        print(f"in {room}", flush=True)
        if text:
            await client.publish(room, {"text": text})
            await said.wait()
        else:
            await subscription.ended()  # raises where the server ends it for good


def main() -> None:
    """Read the command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("room")
    options.add_argument("text", nargs="*", help="what to say; without it, listen")
    options.add_argument("--url", default=URL)
    options.add_argument("--token", default="", help="a JWT of your backend; none = guest")
    chosen = options.parse_args()
    with suppress(KeyboardInterrupt):
        asyncio.run(talk(chosen.url, chosen.token, chosen.room, " ".join(chosen.text)))


if __name__ == "__main__":
    main()
