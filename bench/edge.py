"""What the edge delivers on one core: one room, thousands of sessions, 1, 4 and 128 messages in flight.

The whole engine runs on the twins on one core. On the other runs a draining client in C (``bench/edge_client``, built
on demand): it connects the sessions, publishes, counts every message of every session and checks every byte of it. In
the same run a bare C ``send()`` loop serves the same client with the same frames: the floor.

A message is in flight from its publish until the last session has it. The client publishes as many as are missing, in
one request of ``POST /v1/publish[/batch]`` on one kept connection; that runs on the client's core. A product has no
other way in, so what a publish costs the engine (HTTP, admission, log, room worker, history) is in the figures;
``publish_share`` says how much of the engine's CPU time it was, as measured with one session and as many in flight.

A message is a chat line of 123 bytes of JSON with its number and the time of its publish. Latency is publish → read, at
500 sessions spread over all; at a fixed rate it counts from when the publish was due, so a late publisher hides
nothing. ``cpu_us_per_delivery``: CPU time of the engine, the receivers' TCP on loopback included. ``kb_per_session``:
growth of the engine's resident memory while the sessions connected and subscribed. ``*_busy``: the share of its core
that each side used; a client at 1.0 was the limit, and both far below it shared the cores with somebody.

``--behind N``: N of the sessions never read. Printed are the others' deliveries beside those and without them (before
they came and after they left), and the growth of the engine's memory beside them once their sockets were full. Exit
status 1 where a message was lost, doubled, out of order or changed. ``slower_by`` is by the clock, ``dearer_by`` by the
engine's CPU time, which a busy machine disturbs less.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from bench._edge_client import DrainingClient, Floor, build, resident_bytes, settled_bytes
from bench.engines import cores, pinned_engine

ROOM: Final = "open:edge"
JOINED: Final = (1, 32, 128)
FIXED_DELIVERIES_PER_S: Final = 300_000
WRONG: Final = ("lost", "doubled", "changed", "unsubscribed", "closed", "refused")

Figures = dict[str, Any]


def main(arguments: Sequence[str]) -> int:
    """Print a JSON object for each measurement and the aims last; exit status 1 where something was lost."""
    options = _parser().parse_args(arguments)
    build()
    lines: list[Figures] = []
    for sessions in options.sessions:
        for line in _measure_behind(sessions, options) if options.behind else _measure_all(sessions, options):
            print(json.dumps(line), flush=True)
            lines.append(line)
    print(json.dumps({"bench": "edge", **aims(lines)}), flush=True)
    return 1 if any(line[what] for line in lines for what in WRONG) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="edge", description=__doc__)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 4, 128])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--warm-s", type=float, default=1.0, help="before each measurement")
    parser.add_argument("--behind", type=int, default=0, help="measure only what so many sessions that never read cost")
    parser.add_argument("--only", choices=("engine", "deflate", "paced", "floor"), nargs="+", help="parts of the run")
    return parser


def _measure_all(sessions: int, options: argparse.Namespace) -> Iterator[Figures]:
    parts = options.only or ("engine", "deflate", "paced", "floor")
    if "engine" in parts or "paced" in parts:
        yield from _measure_engine(sessions, options, deflate=False, paced="paced" in parts)
    if "deflate" in parts:
        yield from _measure_engine(sessions, options, deflate=True, paced=False)
    if "floor" in parts:
        yield from _measure_floor(sessions, options)


# --- the engine -------------------------------------------------------------------------------------------------------


@contextmanager
def _connected(sessions: int, *, deflate: bool) -> Iterator[tuple[DrainingClient, int, Figures]]:
    """Yield a client with its sessions on an engine of their own, the engine's pid, and what all lines have."""
    with pinned_engine("memory", "memory") as engine:
        before = settled_bytes(engine.pid)
        port = urlsplit(engine.url).port or 0
        with DrainingClient(port, ROOM, pid=engine.pid, sessions=sessions, deflate=deflate) as client:
            opened = client.ask("open", sessions)
            grown = settled_bytes(engine.pid) - before
            yield (
                client,
                engine.pid,
                {
                    "bench": "edge",
                    "sessions": sessions,
                    "wire": "json",
                    "deflate": opened["deflated"] == sessions,
                    "kb_per_session": round(grown / 1_024 / sessions, 2),
                },
            )


def _measure_engine(sessions: int, options: argparse.Namespace, *, deflate: bool, paced: bool) -> Iterator[Figures]:
    with _connected(sessions, deflate=deflate) as (client, _, same):
        if deflate and not same["deflate"]:
            return  # the engine does not negotiate it
        flows = [max(options.in_flight)] if deflate else options.in_flight
        measured = {in_flight: client.flow(in_flight, options.warm_s, options.seconds) for in_flight in flows}
        rates: dict[str, Figures] = {}
        if paced:
            highest = max(map(_deliveries_per_s, measured.values()))
            for load, deliveries_per_s in (("half", highest / 2), ("fixed", float(FIXED_DELIVERIES_PER_S))):
                found = client.pace(deliveries_per_s / sessions, options.warm_s, options.seconds)
                rates[load] = {"rate": round(deliveries_per_s), **found}
        client.ask("keep", 1)
        time.sleep(1.0)  # closing thousands of sessions is no publishing
        for in_flight, found in measured.items():
            alone = client.flow(in_flight, 0.2, min(1.0, options.seconds))
            share = _publish_us(alone) / _publish_us(found)
            yield same | {"in_flight": in_flight} | figures(found) | {"publish_share": round(share, 3)}
        for load, found in rates.items():
            yield same | {"in_flight": None, "load": load, "rate": found["rate"]} | figures(found)


def _publish_us(found: Figures) -> float:
    return float(found["server_cpu_s"] / max(1, found["publications"]) * 1e6)


def _deliveries_per_s(found: Figures) -> float:
    return float(found["deliveries"] / found["wall_s"])


def _delivery_us(found: Figures) -> float:
    return float(found["server_cpu_s"] / max(1, found["deliveries"]) * 1e6)


def figures(found: Figures) -> Figures:
    """Return the figures of a measurement as they are printed."""
    deliveries, wall_s = max(1, found["deliveries"]), found["wall_s"]
    return {
        "deliveries_per_s": round(_deliveries_per_s(found)),
        "frames_per_s": round(found["frames"] / wall_s),
        "messages_per_frame": round(found["deliveries"] / max(1, found["frames"]), 1),
        "cpu_us_per_delivery": round(_delivery_us(found), 3),
        "p50_ms": round(found["p50_ms"], 2),
        "p99_ms": round(found["p99_ms"], 2),
        "bytes_per_delivery": round(found["bytes"] / deliveries, 1),
        "server_busy": round(found["server_cpu_s"] / wall_s, 2),
        "client_busy": round(found["client_cpu_s"] / wall_s, 2),
        **{what: found[what] for what in WRONG},
    }


# --- the floor --------------------------------------------------------------------------------------------------------


def _measure_floor(sessions: int, options: argparse.Namespace) -> Iterator[Figures]:
    """Measure the bare loop: sending all the time, and one message at a time as the engine is asked to."""
    chosen = cores()
    before = os.sched_getaffinity(0)
    if chosen:
        os.sched_setaffinity(0, chosen[1])
    try:
        with (
            Floor(ROOM, chosen[0] if chosen else None) as floor,
            DrainingClient(floor.port, ROOM, pid=floor.pid, sessions=sessions) as client,
        ):
            client.ask("open", sessions)
            same = {"bench": "edge_floor", "sessions": sessions, "wire": "json", "deflate": False}
            found = client.flow(1, options.warm_s, options.seconds)
            yield same | {"in_flight": 1, "joined": 1} | figures(found)
            for joined in JOINED:
                floor.send(joined)
                client.drain(options.warm_s, options.seconds)
                floor.stop()
                yield same | {"in_flight": None, "joined": joined} | figures(client.settle())
    finally:
        os.sched_setaffinity(0, before)


# --- sessions that never read -----------------------------------------------------------------------------------------


def _measure_behind(sessions: int, options: argparse.Namespace) -> Iterator[Figures]:
    in_flight, seconds = max(options.in_flight), options.seconds
    readers = sessions - options.behind
    with _connected(readers, deflate=False) as (client, pid, same):
        before = client.flow(in_flight, options.warm_s, seconds)
        client.ask("mute", options.behind)
        client.flow(in_flight, options.warm_s, seconds)  # until their sockets are full
        memory = resident_bytes(pid)
        beside = client.flow(in_flight, 0.0, seconds)
        grown = resident_bytes(pid) - memory
        client.ask("keep", readers)
        time.sleep(1.0)
        after = client.flow(in_flight, options.warm_s, seconds)
    without = (_deliveries_per_s(before) + _deliveries_per_s(after)) / 2
    without_us = (_delivery_us(before) + _delivery_us(after)) / 2
    yield {
        **same,
        "sessions": sessions,
        "behind": options.behind,
        "in_flight": in_flight,
        **figures(beside),
        "deliveries_per_s_without": round(without),
        "slower_by": round(1 - _deliveries_per_s(beside) / without, 4),
        "cpu_us_per_delivery_without": round(without_us, 3),
        "dearer_by": round(_delivery_us(beside) / without_us - 1, 4) if without_us else None,
        "grown_mb": round(grown / 1e6, 2),
    }


# --- aims -------------------------------------------------------------------------------------------------------------


def aims(lines: Sequence[Figures]) -> Figures:
    """Return what the bench is asked for, at the most sessions measured; None where that was not measured."""
    sessions = max(line["sessions"] for line in lines)

    def figure(key: str, **wanted: Any) -> Any:
        wanted |= {"sessions": sessions}
        found = (line[key] for line in lines if all(line.get(name) == value for name, value in wanted.items()))
        return next(found, None)

    alone = figure("deliveries_per_s", bench="edge", in_flight=1)
    floor = figure("deliveries_per_s", bench="edge_floor", in_flight=1)
    alone_us = figure("cpu_us_per_delivery", bench="edge", in_flight=1)
    floor_us = figure("cpu_us_per_delivery", bench="edge_floor", in_flight=1)
    flat_out = figure("deliveries_per_s", bench="edge_floor", in_flight=None, joined=1)
    return {
        "sessions": sessions,
        "deliveries_per_s_at_128": figure("deliveries_per_s", bench="edge", in_flight=128, deflate=False),
        "deliveries_per_s_deflated": figure("deliveries_per_s", bench="edge", in_flight=128, deflate=True),
        "one_at_a_time_of_floor": round(alone / floor, 3) if alone and floor else None,
        "one_at_a_time_of_free_floor": round(alone / flat_out, 3) if alone and flat_out else None,
        "one_at_a_time_of_floor_by_cpu": round(floor_us / alone_us, 3) if floor_us and alone_us else None,
        "half_load_p99_ms": figure("p99_ms", bench="edge", load="half"),
        "fixed_rate_p99_ms": figure("p99_ms", bench="edge", load="fixed"),
        "lost": sum(line["lost"] for line in lines),
    }
