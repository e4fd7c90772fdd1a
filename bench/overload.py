"""A live room under more than it can take: what is kept, how long the important takes, and whether the ledger adds up.

Real viewers on WebSocket, messages over HTTP in batches as they fall due, one engine with all roles on a core of its
own. By default ten times what a window has shared slots for, for 30 s; ``--trace FILE --speed N`` replays arrivals of a
CSV (``t_ms,sender,bytes``) N times faster instead. One message in fifty is ``high``, the others ``normal``.

``high_p99_ms`` is publish → received over all viewers, ``high_lost`` what of the accepted ``high`` messages did not
reach every viewer, ``ledger_error`` how many identities of the ledger do not hold, viewers and publisher being
witnesses. Exit status 1 unless both are 0.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop

from bench.engines import add_server_options, pinned_engine, servers
from fanout.cli import reconcile
from fanout.cli.api_client import ApiClient
from fanout.cli.arrivals import Arrival, compress, read_trace
from fanout.core.limits import ANNOUNCE_S, PUBLISH_BATCH_MAX
from fanout.core.policy import WINDOW_MS
from fanout.core.profiles import LIVE
from fanout.protocol.centrifuge import Publication
from fanout.viewers import Viewers

ROOM: Final = "live:overload"
TICK_S: Final = 0.01
HIGH_EVERY: Final = 50
SENDERS: Final = 5_000
BYTES: Final = 90
OVERLOAD: Final = 10
SETTLE_S: Final = 2 * ANNOUNCE_S + 20.0


class Said(msgspec.Struct):
    """Payload: when it was due (Unix seconds), whether it must arrive, a text of the wished length."""

    at: float
    high: bool
    text: str


def main(arguments: Sequence[str]) -> int:
    """Print the ledger and the figures as one JSON object; exit status 1 where something does not add up."""
    options = _parser().parse_args(arguments)
    arrivals = _arrivals(options)
    with servers(options) as (log, store), pinned_engine(log, store) as process:
        figures = uvloop.run(_measure(process.url, process.websocket_url, arrivals, options.viewers))
    where = "kafka+redis" if log != "memory" else "memory"
    print(json.dumps({"bench": "overload", "on": where, "viewers": options.viewers, **figures}))
    return 1 if figures["high_lost"] or figures["ledger_error"] or figures["misordered"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="overload", description=__doc__)
    add_server_options(parser)
    parser.add_argument("--viewers", type=int, default=2_000)
    parser.add_argument("--seconds", type=float, default=30.0, help="of overload; of a trace: at most (0 = all of it)")
    parser.add_argument("--rate", type=float, default=0.0, help="messages a second (0: ten times the shared slots)")
    parser.add_argument("--trace", type=Path, help="CSV of arrivals: t_ms,sender,bytes")
    parser.add_argument("--speed", type=float, default=1.0, help="how many times faster than recorded")
    return parser


def _arrivals(options: argparse.Namespace) -> list[Arrival]:
    if options.trace is not None:
        arrivals = compress(read_trace(options.trace), options.speed)
        until_ms = options.seconds * 1_000 or float("inf")
        return [arrival for arrival in arrivals if arrival.at_ms <= until_ms]
    kept_per_s = LIVE.policy.shared_slots_max * 1_000 / WINDOW_MS
    rate = options.rate or OVERLOAD * kept_per_s
    return [
        Arrival(int(number * 1_000 / rate), number % SENDERS, BYTES) for number in range(int(rate * options.seconds))
    ]


def high_times(publications: Sequence[Publication]) -> list[float]:
    """Return when each message that must arrive was due; the others are not timed."""
    said = (msgspec.json.decode(publication.data, type=Said) for publication in publications)
    return [one.at for one in said if one.high]


async def _measure(url: str, websocket_url: str, arrivals: Sequence[Arrival], viewers: int) -> dict[str, Any]:
    crew = Viewers(websocket_url, ROOM, viewers, on_frame=high_times)
    await crew.open()
    try:
        with ApiClient(url) as api:
            begun_s = time.monotonic()
            accepted, refused = await _publish(api, arrivals)
            took_s = time.monotonic() - begun_s
            ledger, witness = await _settle(api, crew, accepted)
    finally:
        await crew.close()
    found = reconcile.errors(ledger, witness)
    high = ledger["accepted"]["high"]
    latencies = crew.latencies
    return {
        "messages_per_s": round(len(arrivals) / took_s),
        "seconds": round(took_s, 1),
        "accepted": accepted,
        "refused": refused,
        "kept": ledger["kept"],
        "merged": reconcile.total(ledger["merged"]),
        "dropped": reconcile.dropped_before(ledger),
        "deliveries": witness.received,
        "dropped_at_edge": reconcile.dropped_at_edge(ledger),
        "high": high,
        "high_lost": high * viewers - latencies.samples,
        "high_p50_ms": round(latencies.quantile(0.5) * 1_000, 1),
        "high_p99_ms": round(latencies.quantile(0.99) * 1_000, 1),
        "misordered": crew.counts.misordered,
        "ledger_error": len(found),
        **({"wrong": found} if found else {}),
    }


async def _publish(api: ApiClient, arrivals: Sequence[Arrival]) -> tuple[int, int]:
    """Publish everything when it is due; return how many were accepted and refused."""
    begun_s, wall_s = time.monotonic(), time.time()
    accepted = at = 0
    while at < len(arrivals):
        now_ms = (time.monotonic() - begun_s) * 1_000
        due = at
        while due < len(arrivals) and arrivals[due].at_ms <= now_ms and due - at < PUBLISH_BATCH_MAX:
            due += 1
        if due == at:
            await asyncio.sleep(TICK_S)
            continue
        messages = list(_messages(enumerate(arrivals[at:due], at), wall_s))
        answer = await asyncio.to_thread(api.post, "/v1/publish/batch", {"messages": messages})
        accepted += sum("offset" in result for result in answer["results"])
        at = due
    return accepted, len(arrivals) - accepted


def _messages(arrivals: Iterable[tuple[int, Arrival]], wall_s: float) -> Iterable[dict[str, Any]]:
    for number, arrival in arrivals:
        is_high = number % HIGH_EVERY == 0
        yield {
            "room": ROOM,
            "sender": f"viewer-{arrival.sender}",
            "priority": "high" if is_high else "normal",
            "data": Said(wall_s + arrival.at_ms / 1_000, is_high, "x" * arrival.size),
        }


async def _settle(api: ApiClient, crew: Viewers, accepted: int) -> tuple[Any, reconcile.Witness]:
    """Wait until everything kept has arrived and been reported; return the ledger and what was counted beside it."""
    deadline_s = time.monotonic() + SETTLE_S
    while True:
        ledger = await asyncio.to_thread(api.ledger, ROOM)
        witness = reconcile.Witness(accepted, len(crew.viewers), crew.deliveries)
        is_done = not reconcile.errors(ledger, witness) and reconcile.reported(ledger, witness)
        if is_done or time.monotonic() > deadline_s:
            return ledger, witness
        await asyncio.sleep(0.25)
