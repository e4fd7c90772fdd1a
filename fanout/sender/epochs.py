"""Epoch of each partition as the sender answers it: asked at most every EPOCH_CACHE_S, by one task a partition."""

from __future__ import annotations

import asyncio
from typing import Final

from fanout.core.errors import Unavailable
from fanout.core.limits import EPOCH_CACHE_S
from fanout.ports import Clock, Epochs

_ASK_AGAIN_S: Final = 0.5  # after no answer, or before the first owner has come


class EpochCache:
    """Epochs by partition. Bounded by the number of partitions."""

    def __init__(self, epochs: Epochs, clock: Clock) -> None:
        self._epochs = epochs
        self._clock = clock
        self._known: dict[int, str] = {}
        self._fresh_until_s: dict[int, float] = {}
        self._asking: dict[int, asyncio.Task[None]] = {}

    def cached(self, partition: int) -> str | None:
        """Return the epoch where it was asked for lately, else None: then ``get`` asks."""
        if self._clock.monotonic_s() < self._fresh_until_s.get(partition, -1.0):
            return self._known.get(partition, "")
        return None

    async def get(self, partition: int) -> str:
        """Return the epoch, empty before the first owner. With the store away, the last that was known: a new one
        comes only through the store."""
        cached = self.cached(partition)
        if cached is not None:
            return cached
        task = self._asking.get(partition)
        if task is None:
            task = self._asking[partition] = asyncio.create_task(self._ask(partition))
        await asyncio.shield(task)  # one caller that goes away must not take the answer from the others
        return self._known.get(partition, "")

    async def close(self) -> None:
        """Stop asking."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, partition: int) -> None:
        try:
            epoch = await self._epochs.current(partition)
        except Unavailable:
            epoch = None
        finally:
            self._asking.pop(partition, None)
        if epoch is not None:
            self._known[partition] = epoch
        self._fresh_until_s[partition] = self._clock.monotonic_s() + (_ASK_AGAIN_S if epoch is None else EPOCH_CACHE_S)
