"""Send messages into a room straight through Kafka, with confluent-kafka (librdkafka). No API call in between.

    python examples/foreign_confluent.py --bootstrap 127.0.0.1:9092 --app default --room live:studio hello world

librdkafka's default partitioner is CRC32, not Java's murmur2: without the setting below most records would land in
another partition than the room's, and the engine parks those. The same holds for every librdkafka binding
(Go, .NET, Node, Rust, PHP). What a record must look like: docs/topics/records.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from confluent_kafka import Producer


def send(bootstrap: str, topic: str, app: str, room: str, texts: list[str], partitioner: str) -> int:
    """Append one record per text, in order; return how many Kafka did not take."""
    failed: list[str] = []

    def placed(error: Any, message: Any) -> None:
        if error is not None:
            failed.append(str(error))
        else:
            print(f"{room}: offset {message.offset() + 1} in partition {message.partition()}")

    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "partitioner": partitioner,  # the one line that must not be forgotten
            "acks": "all",
            "enable.idempotence": True,
        }
    )
    for text in texts:
        body = {"room": room, "data": {"text": text}, "sender": "kafka-bridge"}
        producer.produce(topic, key=f"{app}/{room}", value=json.dumps(body), on_delivery=placed)
    waiting = producer.flush(30)
    for error in failed:
        print(error, file=sys.stderr)
    return len(failed) + waiting


def main() -> int:
    """Read the options and send."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bootstrap", default="127.0.0.1:9092")
    parser.add_argument("--topic", default="fanout.messages")
    parser.add_argument("--app", default="default", help="dev on an engine that runs --insecure")
    parser.add_argument("--room", required=True)
    parser.add_argument("--partitioner", default="murmur2_random", help="to see what happens with another one")
    parser.add_argument("texts", nargs="+")
    options = parser.parse_args()
    failed = send(options.bootstrap, options.topic, options.app, options.room, options.texts, options.partitioner)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
