"""Send messages into a room straight through Kafka, with aiokafka. No API call in between.

    python examples/foreign_aiokafka.py --bootstrap 127.0.0.1:9092 --app default --room live:studio hello world

aiokafka's default partitioner hashes keys as Java's does (murmur2), so nothing has to be set for that.
What a record must look like, and what becomes of a wrong one: docs/topics/records.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json

from aiokafka import AIOKafkaProducer


async def send(bootstrap: str, topic: str, app: str, room: str, texts: list[str]) -> None:
    """Append one record per text, in order; done when Kafka has them all."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True)
    await producer.start()
    try:
        key = f"{app}/{room}".encode()
        for text in texts:
            body = {"room": room, "data": {"text": text}, "sender": "kafka-bridge"}
            placed = await producer.send_and_wait(topic, json.dumps(body).encode(), key=key)
            print(f"{room}: offset {placed.offset + 1} in partition {placed.partition}")
    finally:
        await producer.stop()


def main() -> None:
    """Read the options and send."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bootstrap", default="127.0.0.1:9092")
    parser.add_argument("--topic", default="fanout.messages")
    parser.add_argument("--app", default="default", help="dev on an engine that runs --insecure")
    parser.add_argument("--room", required=True)
    parser.add_argument("texts", nargs="+")
    options = parser.parse_args()
    asyncio.run(send(options.bootstrap, options.topic, options.app, options.room, options.texts))


if __name__ == "__main__":
    main()
