"""Those in step of one wire format of a room, side by side: a sweep is a bare loop over their sockets. Pure.

All stand at the room's step; nothing is noted of anybody alone. While a frame is being handed out the first ``given``
of them have it already and stand at its end. Who leaves meanwhile leaves no gap, and nobody is given a frame twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from fanout.gateway.room import Subscription

NOWHERE: Final = -1  # place of a subscription that is not in step
EARLY: Final = -2  # place of one whose cursor is above the step: the step comes to it


class Sink(Protocol):
    """Where bytes for a session go: its transport. Never waits; what it cannot take it keeps, and says so."""

    def write(self, data: bytes) -> None:
        """Take bytes."""


class InStep:
    """Members and their sinks, at the same places; a member's ``place`` is its index in both."""

    __slots__ = ("_members", "_sinks", "given")

    def __init__(self) -> None:
        self._members: list[Subscription] = []
        self._sinks: list[Sink] = []
        self.given = 0

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Subscription]:
        return iter(list(self._members))

    def add(self, subscription: Subscription) -> None:
        """Add one that stands at the step; no frame is being handed out."""
        subscription.place = len(self._members)
        self._members.append(subscription)
        self._sinks.append(subscription.session.sink)

    def remove(self, subscription: Subscription) -> None:
        """Remove a member; the place is taken by others, in the same time in any room."""
        free = subscription.place
        if free < self.given:
            self.given -= 1
            self._move(self.given, free)  # the last one of those that have the frame
            free = self.given
        self._move(len(self._members) - 1, free)
        self._members.pop()
        self._sinks.pop()
        subscription.place = NOWHERE

    def give(self, data: bytes, sessions: int) -> int:
        """Hand a frame to the next ``sessions`` members that do not have it; return how many there were.

        A socket that is full says so while it is written to; its session leaves the step afterwards, with the frame.
        """
        sinks = self._sinks[self.given : self.given + sessions]
        for sink in sinks:
            sink.write(data)
        self.given += len(sinks)
        return len(sinks)

    def pass_over(self) -> int:
        """A frame shows nothing in this format: everybody has it; return how many did not."""
        passed = len(self._members) - self.given
        self.given = len(self._members)
        return passed

    def _move(self, place: int, to: int) -> None:
        if place != to:
            member = self._members[to] = self._members[place]
            self._sinks[to] = self._sinks[place]
            member.place = to
