"""How long a message takes from a publish over HTTP to 500 real viewers, at 50 messages a second.

One engine process with all roles on one core, viewers and publisher in this process on another. ``--servers`` starts a
real Kafka and Redis.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import uvloop

from bench.engines import add_server_options, pinned_engine, servers
from fanout.cli.api_client import ApiClient
from fanout.cli.demo import Said, sent_times
from fanout.viewers import Viewers

ROOM: Final = "open:bench"
WARM_UP_S: Final = 2.0
TEXT: Final = "x" * 90
CATCH_UP_S: Final = 10.0

Send = Callable[[bytes], None]


def main(arguments: Sequence[str]) -> int:
    """Print p50 and p99 in ms; exit status 1 when a delivery is missing, doubled or out of order."""
    parser = argparse.ArgumentParser(prog="publish_to_delivery", description=__doc__)
    add_options(parser)
    options = parser.parse_args(arguments)
    with servers(options) as (log, store), pinned_engine(log, store) as process, ApiClient(process.url) as api:

        def send(data: bytes) -> None:
            api.post("/v1/publish", {"room": ROOM, "data": msgspec.Raw(data)})

        figures = uvloop.run(measure(process.websocket_url, send, options))
    where = "kafka+redis" if log != "memory" else "memory"
    return report({"bench": "publish_to_delivery", "on": where, **figures})


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the size of the run."""
    add_server_options(parser)
    parser.add_argument("--viewers", type=int, default=500)
    parser.add_argument("--rate", type=float, default=50.0, help="messages a second")
    parser.add_argument("--seconds", type=float, default=20.0)


def report(figures: dict[str, Any]) -> int:
    """Print the figures; return 1 when something is missing or out of order."""
    print(json.dumps(figures))
    return 1 if figures["lost"] or figures["misordered"] else 0


async def measure(url: str, send: Send, options: argparse.Namespace) -> dict[str, Any]:
    """Open the viewers, send at the rate, wait until all has arrived; return the figures."""
    crew = Viewers(url, ROOM, options.viewers)
    await crew.open()
    try:
        await pace(send, options.rate, WARM_UP_S)
        await asyncio.sleep(0.5)
        warm = crew.deliveries
        crew.memo.clear()
        crew.on_frame = sent_times
        sent = await pace(send, options.rate, options.seconds)
        due = warm + sent * options.viewers
        await crew.caught_up(due, CATCH_UP_S)
        latencies = crew.latencies
        return {
            "viewers": options.viewers,
            "messages": sent,
            "rate": options.rate,
            "p50_ms": round(latencies.quantile(0.5) * 1000, 2),
            "p99_ms": round(latencies.quantile(0.99) * 1000, 2),
            "deliveries": latencies.samples,
            "lost": due - crew.deliveries,
            "misordered": crew.counts.misordered,
        }
    finally:
        await crew.close()


async def pace(send: Send, rate: float, seconds: float) -> int:
    """Send messages at an even rate, in a thread so that viewers read meanwhile; return how many."""
    begin = time.monotonic()
    count = int(rate * seconds)
    for index in range(count):
        ahead = begin + index / rate - time.monotonic()
        if ahead > 0:
            await asyncio.sleep(ahead)
        await asyncio.to_thread(send, msgspec.json.encode(Said(time.time(), TEXT)))
    return count
