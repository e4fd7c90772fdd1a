"""What a gateway does when its memory runs short, step by step and back: a process that is killed loses everybody.

From 80 % of its memory on it takes no more connections. From 90 % on rooms keep a quarter of their rings and droppable
publications are not shown any more, each of them counted. From 97 % on those who lag longest are sent away, some at
each look; they come back elsewhere. A step is taken back once the memory is 3 % below it (FAULTS 32).

Sessions that have left give their memory to those that come, not always to the kernel: while there are 5 % fewer than
when the process became full, it takes connections again.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from heapq import nlargest
from typing import Final, Protocol

import structlog

from fanout.core.errors import SLOW
from fanout.gateway.admission import Admission
from fanout.gateway.hub import Hub
from fanout.gateway.room import Subscription
from fanout.runtime.metrics import MEMORY_CLOSED, MEMORY_STEP

logger = structlog.get_logger(__name__)

_STEP_BACK: Final = 0.03
_ROOM_AGAIN: Final = 0.95  # of the sessions that made the process full
_GIVE_BACK_LOOKS: Final = 10  # between two calls that may take 50 ms
_CLOSED_AT_ONCE_MAX: Final = 100


class MemoryStep(Enum):
    """The value is the share of the memory from which on the step is taken."""

    ROOMY = 0.0
    FULL = 0.80
    TIGHT = 0.90
    SHORT = 0.97


_STEPS: Final = tuple(MemoryStep)


def step_of(share: float, before: MemoryStep) -> MemoryStep:
    """Return the step to be at with ``share`` of the memory in use, having been at ``before``."""
    held = max(step.value for step in _STEPS if share >= step.value)
    kept = max(step.value for step in _STEPS if share >= step.value - _STEP_BACK and step.value <= before.value)
    return MemoryStep(max(held, kept))


class Memory(Protocol):
    """This process's memory."""

    def share(self) -> float:
        """Return what is in use over what may be."""

    def give_back(self) -> None:
        """Return what is free to the system."""


class MemoryGuard:
    """Looks once a second, and sets what follows from it."""

    def __init__(self, memory: Memory, hub: Hub, admission: Admission, sessions: Callable[[], int]) -> None:
        self._memory, self._hub, self._admission, self._sessions = memory, hub, admission, sessions
        self._sessions_max = 0.0  # from which on the process is full
        self._looks = 0
        self.step = MemoryStep.ROOMY

    def look(self) -> None:
        """Take the step that the memory asks for."""
        share = self._memory.share()
        step = step_of(share, self.step)
        if step is not self.step:
            logger.warning("memory", step=step.name.lower(), share=round(share, 3))
            if self.step is MemoryStep.ROOMY:
                self._sessions_max = _ROOM_AGAIN * self._sessions()
            self.step = step
            MEMORY_STEP.set(_STEPS.index(step))
        has_room = step is MemoryStep.ROOMY or (step is MemoryStep.FULL and self._sessions() < self._sessions_max)
        self._admission.is_full = not has_room
        self._hub.is_shedding = step.value >= MemoryStep.TIGHT.value
        if step is MemoryStep.SHORT:
            self._close_laggards()
        if step is not MemoryStep.ROOMY:
            self._looks += 1
            if self._looks % _GIVE_BACK_LOOKS == 1:
                self._memory.give_back()

    def _close_laggards(self) -> None:
        behind = [subscription for room in self._hub.rooms.values() for subscription in room.behind]
        for subscription in nlargest(_CLOSED_AT_ONCE_MAX, behind, key=_pending):
            subscription.session.close(SLOW)
            MEMORY_CLOSED.inc()


def _pending(subscription: Subscription) -> int:
    return sum(subscription.room.pending_of(subscription))
