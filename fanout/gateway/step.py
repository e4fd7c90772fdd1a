"""Those in step of one wire of a room, in a circle: a sweep goes round it and brings each to the head. Pure.

Neighbours with the same cursor form a *run*. A sweep hands one frame to members of the run whose turn it is and takes
them into the run behind all others, so nothing is noted of anybody alone: a cursor is that of the run in which its
member's place lies. What is published while the circle is gone round reaches those who are still to come at once, and
the others on the next round: nobody waits for longer than one round, whatever the rate.

A circle in an array: the member at ``_next`` is next, the one before it was last. Whoever leaves or comes moves one
member of each run at most, and nobody is given a frame twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from fanout.gateway.room import Subscription

NOWHERE: Final = -1  # place of a subscription that is not in step


class Sink(Protocol):
    """Where bytes for a session go: its transport. Never waits; what it cannot take it keeps, and says so."""

    def write(self, data: bytes) -> None:
        """Take bytes."""


class _Run:
    """Neighbours in the circle that stand at the same cursor (``sent``)."""

    __slots__ = ("members", "sent")

    def __init__(self, sent: int, members: int) -> None:
        self.sent = sent
        self.members = members


class InStep:
    """Members and their sinks, at the same places; a member's ``place`` is its index in both."""

    __slots__ = ("_members", "_next", "_runs", "_sinks")

    def __init__(self) -> None:
        self._members: list[Subscription] = []
        self._sinks: list[Sink] = []
        self._next = 0
        self._runs: list[_Run] = []  # from the one whose turn it is; few, and an empty deque takes 600 bytes a room

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Subscription]:
        return iter(list(self._members))

    def lowest(self, sent: int) -> int:
        """Return the lowest cursor among the members, ``sent`` where nobody is below that."""
        for run in self._runs:
            sent = min(sent, run.sent)
        return sent

    @property
    def at_turn(self) -> int:
        """The cursor of those who are next; there is a member."""
        return self._runs[0].sent

    def cursor(self, subscription: Subscription) -> int:
        """Return the cursor of a member."""
        return self._run_at(subscription.place).sent

    # --- who is here --------------------------------------------------------------------------------------------------

    def add(self, subscription: Subscription, sent: int) -> None:
        """Add a member with its cursor, as the last one whose turn it will be."""
        free = len(self._members)
        sink = subscription.session.sink
        self._members.append(subscription)
        self._sinks.append(sink)
        if self._next:
            for start in sorted((one for one in self._starts() if one >= self._next), reverse=True):
                self._move(start, free)
                free = start
            self._next += 1
        self._members[free], self._sinks[free] = subscription, sink
        subscription.place = free
        self._behind_all(sent, 1)

    def remove(self, subscription: Subscription) -> None:
        """Remove a member; its place is taken by others."""
        free = subscription.place
        run = self._run_at(free)
        for start in sorted(one for one in self._starts() if one > free):
            self._move(start - 1, free)
            free = start - 1
        self._move(len(self._members) - 1, free)
        self._members.pop()
        self._sinks.pop()
        self._next -= subscription.place < self._next
        if self._next == len(self._members):
            self._next = 0
        run.members -= 1
        if not run.members:
            self._runs.remove(run)
        subscription.place = NOWHERE

    def stand_at(self, sent: int) -> None:
        """Put everybody at one cursor."""
        self._runs.clear()
        self._next = 0
        if self._members:
            self._runs.append(_Run(sent, len(self._members)))

    # --- the round ----------------------------------------------------------------------------------------------------

    def give(self, data: bytes, sent: int, sessions: int) -> int:
        """Hand a frame to at most ``sessions`` of those whose turn it is; they stand at ``sent`` then. Return how many.

        A socket that is full says so while it is written to; its session leaves the step afterwards, with the frame.
        """
        taken = min(sessions, self._runs[0].members)
        sinks = self._sinks[self._next : self._next + taken]
        for sink in sinks:
            sink.write(data)
        return self._pass(sent, len(sinks))  # fewer where the array ends

    def pass_over(self, sent: int) -> int:
        """Bring those whose turn it is to ``sent`` without a frame: it would show them nothing. Return how many."""
        return self._pass(sent, self._runs[0].members)

    def _pass(self, sent: int, members: int) -> int:
        run = self._runs[0]
        self._next = (self._next + members) % len(self._members)
        run.members -= members
        if not run.members:
            del self._runs[0]
        self._behind_all(sent, members)
        return members

    def _behind_all(self, sent: int, members: int) -> None:
        runs = self._runs
        if runs and runs[-1].sent == sent:
            runs[-1].members += members
        else:
            runs.append(_Run(sent, members))

    # --- places -------------------------------------------------------------------------------------------------------

    def _starts(self) -> list[int]:
        """Places where runs begin, in the order of their turns."""
        counts = [run.members for run in self._runs]
        size = sum(counts)
        return [(self._next + before) % size for before in accumulate(counts[:-1], initial=0)] if size else []

    def _run_at(self, place: int) -> _Run:
        """Return the run in which a place lies."""
        distance = (place - self._next) % len(self._members)
        for run in self._runs:
            distance -= run.members
            if distance < 0:
                return run
        raise AssertionError("every member is in a run")

    def _move(self, place: int, to: int) -> None:
        if place != to:
            member = self._members[to] = self._members[place]
            self._sinks[to] = self._sinks[place]
            member.place = to
