"""How long a record of a foreign Kafka producer takes to 500 viewers: JSON on the topic, no API in between."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import uvloop
from confluent_kafka import Producer

from bench.engines import pinned_engine, servers
from bench.publish_to_delivery import ROOM, add_options, measure, report


def main(arguments: Sequence[str]) -> int:
    """Print p50 and p99 in ms; exit status 1 when a delivery is missing, doubled or out of order."""
    parser = argparse.ArgumentParser(prog="foreign_record", description=__doc__)
    add_options(parser)
    options = parser.parse_args(arguments)
    options.servers = options.log == "memory"
    with servers(options) as (log, store), pinned_engine(log, store) as process:
        producer = Producer(
            {
                "bootstrap.servers": log.removeprefix("kafka://"),
                "partitioner": "murmur2_random",
                "linger.ms": 0,
                "acks": "all",
                "enable.idempotence": True,
            }
        )

        def send(data: bytes) -> None:
            body = b'{"room":"%s","data":%s}' % (ROOM.encode(), data)
            producer.produce("fanout.messages", key=f"dev/{ROOM}", value=body)
            producer.flush(10)

        figures = uvloop.run(measure(process.websocket_url, send, options))
    return report({"bench": "foreign_record", **figures})
