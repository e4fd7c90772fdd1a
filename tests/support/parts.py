"""Real parts in tests: what cannot run here is skipped with its reason, and fails where CI is set."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from redis import Redis

from scripts.parts import PartMissing, Running, free_ports, start_redis

T = TypeVar("T")


def need(part: Callable[[], T]) -> T:
    """Return what ``part`` returns (a started part, the path of a tool); without it the test cannot run.

    Skips the test with the reason, so that pytest's summary lists it; under CI it fails instead.
    """
    try:
        return part()
    except PartMissing as missing:
        if os.environ.get("CI"):
            pytest.fail(f"cannot run under CI: {missing}", pytrace=False)
        pytest.skip(str(missing))


def freeze(pid: int) -> None:
    """Stop a process as a hang would, and return when none of its threads runs any more (SIGCONT lets it go on).

    A signal is on its way for a while: a broker that got it may still answer what has just come in.
    """
    os.kill(pid, signal.SIGSTOP)
    deadline_s = time.monotonic() + 10
    while any(_state(task) != "T" for task in Path(f"/proc/{pid}/task").iterdir()):
        assert time.monotonic() < deadline_s, f"process {pid} does not stop"
        time.sleep(0.001)


def _state(task: Path) -> str:
    return (task / "stat").read_text().rpartition(")")[2].split()[0]


def start_redis_cluster(directory: Path) -> Running:
    """Start a Redis Cluster of one node that holds all slots: same protocol, same rules about keys."""
    (bus,) = free_ports(1)  # by default 10,000 above the port, which a free port may not allow
    part = start_redis(directory, options=["--cluster-enabled", "yes", "--cluster-port", str(bus)])
    port = int(part.address.rpartition(":")[2])
    with Redis(port=port) as node:
        node.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        deadline_s = time.monotonic() + 10
        while node.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
            if time.monotonic() > deadline_s:
                part.stop()
                raise PartMissing("the Redis Cluster did not come up")
            time.sleep(0.02)
    return part
