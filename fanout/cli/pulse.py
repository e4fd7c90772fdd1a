"""What every process tells about itself, whatever its roles: how late its loop runs, what it uses, if it is ready."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import structlog

from fanout.runtime.descriptors import free_descriptors
from fanout.runtime.metrics import CPU_SECONDS, DESCRIPTORS_FREE, LOOP_LAG, READY, RESIDENT_BYTES

logger = structlog.get_logger(__name__)

LOOK_S: Final = 0.5
_STATM: Final = Path("/proc/self/statm")
READY_EVERY: Final = 10  # looks: nobody may probe this process, and its metrics must not keep an old answer


async def pulse(readiness: Callable[[], Awaitable[Mapping[str, bool]]]) -> None:
    """Observe until cancelled."""
    loop = asyncio.get_running_loop()
    looks = 0
    while True:
        due_s = loop.time() + LOOK_S
        await asyncio.sleep(LOOK_S)
        LOOP_LAG.observe(max(0.0, loop.time() - due_s))
        looks += 1
        if looks % READY_EVERY == 0:
            try:
                ready = await readiness()
            except Exception:
                logger.exception("readiness could not be told")
                continue
            for name, state in ready.items():
                READY.labels(name).set(state)
            observe_process()


def observe_process() -> None:
    """Note CPU time, memory, descriptors; Prometheus' own ``process_*`` do not exist where processes share a port."""
    CPU_SECONDS.set(time.process_time())
    DESCRIPTORS_FREE.set(max(0, free_descriptors()))
    with contextlib.suppress(OSError):  # not Linux
        RESIDENT_BYTES.set(int(_STATM.read_text().split()[1]) * resource.getpagesize())
