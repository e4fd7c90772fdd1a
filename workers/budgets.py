"""Budgets: rooms that grew or shrank get other values, by a record in their partition, once a second at most.

The values are the shared slots of a window, and whether the room is degraded.

A room is looked at when a gateway announced it, when a gateway was lost and when its policy changed; only values that
change are written. What acts is the record at its place in the log, never this calculation: it may be made twice, late
or by an owner that is none any more, and a replay does not need it. A Budget makes no room be looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Final

import structlog

from fanout.core.budget import afforded, next_degraded, next_slots, room_pressure
from fanout.core.limits import BUDGET_ROOMS_MAX
from fanout.core.records import BUDGET, MESSAGES, Budget, encode
from fanout.core.room_state import RoomState
from fanout.runtime import metrics
from workers.partition import Partition
from workers.steady_writer import SteadyWriter

Quota = Callable[[str], int | None]  # app → deliveries a second, None: no quota

_log: Final = structlog.get_logger(__name__)


def no_quota(_app: str) -> int | None:
    """No app has a quota."""
    return None


def changes(partition: Partition, quota: Quota, rooms_max: int = BUDGET_ROOMS_MAX) -> Budget:
    """Take up to ``rooms_max`` resized rooms of a partition; return the record of those with a value to be changed.

    Rooms that are being loaded wait until they are here; those that were forgotten are announced again.
    """
    changed = Budget({}, [])
    for key in list(islice(partition.resized, rooms_max)):
        del partition.resized[key]
        room = partition.rooms.get(key)
        if room is not None and room.profile.thinned:
            members = room.members()
            slots = _next_slots(room, members, partition.pressures, quota)
            degraded = next_degraded(room.values.degraded, room.policy, members)
            if slots != room.shared_slots or degraded != room.values.degraded:
                changed.rooms[room.key] = (slots, members)
                if degraded:
                    changed.degraded.append(room.key)
        elif key in partition.held:
            partition.resized[key] = None
    return changed


def _next_slots(room: RoomState, members: int, pressures: Mapping[int, int], quota: Quota) -> int:
    policy = room.policy
    if not members:
        return policy.shared_slots_max
    stays = room.stays.items()
    pressure = room_pressure((stay.subscriptions, pressures.get(slot, 0)) for slot, stay in stays if stay.gone is None)
    app = room.key.partition("/")[0]
    return next_slots(room.shared_slots, policy, afforded(policy, members, quota(app), pressure))


class Budgets:
    """Writes the Budget records of the partitions that are owned here; ``look`` once a second."""

    def __init__(self, writer: SteadyWriter, quota: Quota) -> None:
        self._writer = writer
        self._quota = quota

    async def look(self, active: Mapping[int, Partition]) -> None:
        """Write what has changed, one record a partition; where the log does not take it the rooms are due again."""
        writes = []
        for partition in list(active.values()):
            # Values that were written and not read back would be written again.
            if partition.resized and partition.next_offset > partition.budget_at:
                changed = changes(partition, self._quota)
                if changed.rooms:
                    writes.append(self._write(partition, changed))
                await asyncio.sleep(0)
        await asyncio.gather(*writes)

    async def _write(self, partition: Partition, changed: Budget) -> None:
        record = (None, encode(BUDGET, changed))
        try:
            placed = await self._writer.append_once(MESSAGES, partition.number, [record])
        except Exception as error:  # a producer in trouble raises whatever its library raises
            _log.warning("budget not on the log", partition=partition.number, error=repr(error))
            partition.resized.update((key.encode(), None) for key in changed.rooms)
            return
        partition.budget_at = placed.offset
        metrics.BUDGET_CHANGES.inc(len(changed.rooms))
        for slots, _ in changed.rooms.values():
            metrics.SHARED_SLOTS.observe(slots)
