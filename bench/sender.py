"""What the way in takes: publishes a second of one core, singly and in batches, over HTTP on loopback.

The sender runs in a process of its own; the load comes from this one, over raw keep-alive connections, so that its cost
is not counted. Figures: ``*_per_s`` by the wall clock, ``*_per_cpu_s`` = messages per second of the sender's CPU time,
which is what one core takes however busy the machine is. Exit status 1 where the log has more or fewer messages than
were answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, Final

import uvloop

from bench.engines import add_server_options, servers
from fanout.adapters import apply_topics, open_log, open_store
from fanout.cli.http_server import HttpServer
from fanout.core.profiles import Profiles
from fanout.core.records import MESSAGES
from fanout.ports import Log, Topics
from fanout.runtime.apps import Apps
from fanout.runtime.clock import SystemClock
from fanout.sender.api import build_api
from fanout.sender.sender import Sender

ROOMS: Final = 64
_DATA: Final = {"text": "what a message of a busy room looks like, with some words and a number", "n": 12_345}


class _Meter:
    """The sender's CPU time and the messages on its log, asked over a pipe between two runs."""

    def __init__(self, log: Log, pipe: Connection) -> None:
        self._log, self._pipe = log, pipe

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        asked = asyncio.Event()
        loop.add_reader(self._pipe.fileno(), asked.set)
        while True:
            await asked.wait()
            asked.clear()
            while self._pipe.poll():
                if self._pipe.recv() == "stop":
                    loop.remove_reader(self._pipe.fileno())
                    return
                ends = await self._log.ends(MESSAGES, range(self._log.partitions(MESSAGES)))
                self._pipe.send((time.process_time(), sum(end for _, end in ends.values())))


async def _serve(log_url: str, store_url: str, pipe: Connection) -> None:
    clock = SystemClock()
    if log_url != "memory":
        await apply_topics(log_url, Topics(), replication=1)
    log = await open_log(log_url, topics=Topics(), clock=clock)
    store = await open_store(store_url, prefix="fanout", clock=clock)
    profiles = Profiles(insecure=True)
    sender = Sender(log=log, store=store, profiles=profiles, clock=clock, holder=f"bench:{os.getpid()}")
    await sender.start()
    app = build_api(sender=sender, store=store, log=log, apps=Apps.insecure(), profiles=profiles, clock=clock)
    server = HttpServer(app, "127.0.0.1", 0, reuse_port=False)
    await server.start()
    pipe.send(server.port)
    await _Meter(log, pipe).serve()
    await server.close()
    await sender.drain()
    await sender.close()
    await store.backend.close()
    await log.close()


def _run_sender(log_url: str, store_url: str, pipe: Connection) -> None:
    uvloop.run(_serve(log_url, store_url, pipe))


def _request(path: str, body: object) -> bytes:
    encoded = json.dumps(body, separators=(",", ":")).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(encoded)}\r\n\r\n"
    return head.encode() + encoded


async def _connection(port: int, requests: Sequence[bytes], until_s: float) -> tuple[int, int]:
    """Send requests one after the other until the time is over; return (answers, answers other than 200)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answers = failed = 0
    while time.monotonic() < until_s:
        writer.write(requests[answers % len(requests)])
        head = await reader.readuntil(b"\r\n\r\n")
        at = head.index(b"content-length: ") + 16
        await reader.readexactly(int(head[at : head.index(b"\r\n", at)]))
        failed += not head.startswith(b"HTTP/1.1 200 ")
        answers += 1
    writer.close()
    return answers, failed


async def _load(port: int, requests: Sequence[Sequence[bytes]], seconds: float) -> tuple[int, int]:
    until_s = time.monotonic() + seconds
    outcomes = await asyncio.gather(*(_connection(port, own, until_s) for own in requests))
    return sum(answers for answers, _ in outcomes), sum(failed for _, failed in outcomes)


def _measure(
    pipe: Connection, port: int, name: str, requests: Sequence[Sequence[bytes]], messages: int, seconds: float
) -> dict[str, Any]:
    """Run one load; ``messages`` is how many each request carries."""
    cpu_before_s, before = _figures(pipe)
    began_s = time.monotonic()
    answers, failed = uvloop.run(_load(port, requests, seconds))
    took_s = time.monotonic() - began_s
    cpu_after_s, after = _figures(pipe)
    answered = (answers - failed) * messages
    return {
        f"{name}_per_s": round(answered / took_s),
        f"{name}_per_cpu_s": round(answered / (cpu_after_s - cpu_before_s)),
        f"{name}_failed": failed,
        f"{name}_missing": answered - (after - before),
    }


def _figures(pipe: Connection) -> tuple[float, int]:
    """Return the sender's CPU seconds and the number of messages on the log."""
    pipe.send("figures")
    cpu_s, messages = pipe.recv()
    return cpu_s, messages


def main(arguments: Sequence[str]) -> int:
    """Print the figures as one JSON object; exit status 1 where the log and the answers differ."""
    parser = argparse.ArgumentParser(prog="sender", description=__doc__)
    add_server_options(parser)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each of the two runs")
    parser.add_argument("--connections", type=int, default=32, help="of the single publishes; batches use 4")
    options = parser.parse_args(arguments)
    singles = [
        [_request("/v1/publish", {"room": f"open:bench-{number % ROOMS}", "data": _DATA})]
        for number in range(options.connections)
    ]
    batches = [
        [_request("/v1/publish/batch", {"messages": [{"room": f"open:bench-{room % ROOMS}", "data": _DATA}
                                                     for room in range(1_000)]})]
        for _ in range(4)
    ]  # fmt: skip
    with servers(options) as (log_url, store_url):
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=_run_sender, args=(log_url, store_url, theirs), daemon=True
        )
        process.start()
        port = ours.recv()
        _measure(ours, port, "warm", singles, 1, 0.5)
        figures = {
            "bench": "sender",
            "log": log_url.partition(":")[0],
            **_measure(ours, port, "single", singles, 1, options.seconds),
            **_measure(ours, port, "batched", batches, 1_000, options.seconds),
        }
        ours.send("stop")
        process.join(10)
    print(json.dumps(figures))
    return (
        1 if any(figures[f"{name}_{what}"] for name in ("single", "batched") for what in ("failed", "missing")) else 0
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
