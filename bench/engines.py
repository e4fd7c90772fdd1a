"""What several benches share: an engine of their own, in memory or on a real Kafka and Redis, and paced publishing."""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fanout.runtime.launch import EngineProcess


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--servers`` (start a real Kafka and Redis for this run) and ``--log``/``--store`` (use running ones)."""
    parser.add_argument("--servers", action="store_true", help="on a real Kafka and Redis, started for this run")
    parser.add_argument("--log", default="memory")
    parser.add_argument("--store", default="memory")


@contextlib.contextmanager
def servers(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Yield (log, store) URLs as the options wish."""
    if not options.servers:
        yield options.log, options.store
        return
    from scripts.parts import start_kafka, start_redis  # noqa: PLC0415 - only runs on real servers need the parts

    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        kafka = start_kafka(Path(directory) / "kafka")
        stack.callback(kafka.stop)
        redis = start_redis(Path(directory) / "redis")
        stack.callback(redis.stop)
        yield f"kafka://{kafka.address}", f"redis://{redis.address}"


def cores() -> tuple[set[int], set[int]] | None:
    """Return a core for the engine and one for the clients; None where there is only one.

    Left to itself the scheduler now and then wakes both on one core, where the clients measure their own waiting.
    """
    usable = sorted(os.sched_getaffinity(0))
    return ({usable[0]}, {usable[1]}) if len(usable) > 1 else None


@contextlib.contextmanager
def pinned_engine(log: str, store: str, *flags: str) -> Iterator[EngineProcess]:
    """As ``engine``, with the engine on a core of its own and this process on another."""
    chosen = cores()
    before = os.sched_getaffinity(0)
    if chosen:
        os.sched_setaffinity(0, chosen[1])
    try:
        with engine(log, store, *flags, cpus=chosen[0] if chosen else None) as process:
            yield process
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def engine(log: str, store: str, *flags: str, cpus: set[int] | None = None) -> Iterator[EngineProcess]:
    """Yield an insecure engine on these servers; it is drained afterwards."""
    arguments = ["--insecure", "--port", "0", *flags]
    if log != "memory":
        arguments += ["--log", log, "--store", store]
    process = EngineProcess(arguments, cpus=cpus)
    process.start()
    try:
        yield process
    finally:
        process.stop()
