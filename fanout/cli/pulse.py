"""What every process tells about itself, whatever its roles: how late its loop runs, and whether it is ready."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog

from fanout.runtime.metrics import LOOP_LAG, READY

logger = structlog.get_logger(__name__)

LOOK_S: Final = 0.5
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
