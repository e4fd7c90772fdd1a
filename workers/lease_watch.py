"""Which gateways are gone for good: slots whose lease stayed away long enough, by the store's own answers. Pure.

Time counts only between answered polls of the lease table, and at most two seconds for each: while the store does not
answer, nobody is lost. What follows from a loss (``unreported`` in the ledger) is decided per room.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from fanout.core.limits import LEASE_TABLE_POLL_S, ROUTE_EXPIRES_AFTER_S
from fanout.core.room_state import Target
from fanout.ports import Lease

_STEP_S_MAX: Final = 2 * LEASE_TABLE_POLL_S


class LeaseWatch:
    """Follows the slot generations that rooms are routed to; at most as many as were in use at once."""

    def __init__(self, missing_s_max: float = ROUTE_EXPIRES_AFTER_S) -> None:
        self._missing_s_max = missing_s_max
        self._missing_s: dict[Target, float] = {}
        self._gone: dict[int, int] = {}
        self._answered_s: float | None = None

    def note(self, targets: Iterable[Target]) -> None:
        """Follow these (slot, generation) from now on; known ones go on as they are."""
        for target in targets:
            self._missing_s.setdefault(target, 0.0)

    def is_gone(self, target: Target) -> bool:
        """True where the slot's lease was given up for lost, in this generation or a later one."""
        slot, generation = target
        return generation <= self._gone.get(slot, -1)

    def answered(self, table: Mapping[int, Lease], now_s: float) -> list[Target]:
        """Take an answer in (``now_s`` monotonic); return those that are now given up for lost.

        A lease that comes back in the same generation (nobody took the slot) is followed anew.
        """
        step_s = 0.0 if self._answered_s is None else min(now_s - self._answered_s, _STEP_S_MAX)
        self._answered_s = now_s
        lost: list[Target] = []
        for target in list(self._missing_s):
            slot, generation = target
            lease = table.get(slot)
            if lease is not None and lease.generation == generation:
                self._missing_s[target] = 0.0
                continue
            self._missing_s[target] += step_s
            if self._missing_s[target] >= self._missing_s_max:
                del self._missing_s[target]
                self._gone[slot] = max(generation, self._gone.get(slot, -1))
                lost.append(target)
        for slot, lease in table.items():
            if self._gone.get(slot) == lease.generation:
                del self._gone[slot]
        return lost

    def unanswered(self) -> None:
        """The store did not answer: what passes until the next answer does not count."""
        self._answered_s = None
