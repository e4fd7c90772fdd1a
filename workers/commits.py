"""Which log offset may be committed: the lowest one below which everything is finished. Pure.

Work is taken in ranges (a *ticket* each: the records of one turn and partition) and finished in any order, in parts:
a record whose room is still being loaded finishes later than its neighbours. Tied to one assignment: a partition that
comes back gets new commits, and tickets of the old ones change nothing any more.
"""

from __future__ import annotations

from collections import deque


class Ticket:
    """A range of records in work; ``next_offset`` is where the following range begins."""

    __slots__ = ("next_offset", "parts")

    def __init__(self, next_offset: int, parts: int) -> None:
        self.next_offset = next_offset
        self.parts = parts


class Commits:
    """Finished ranges of one partition under one assignment. ``next_offset`` may be committed at any time."""

    __slots__ = ("_is_over", "_tickets", "committed", "next_offset")

    def __init__(self, start: int) -> None:
        self._tickets: deque[Ticket] = deque()
        self._is_over = False
        self.next_offset = start
        self.committed = start

    def __len__(self) -> int:
        return len(self._tickets)

    def take(self, next_offset: int, parts: int) -> Ticket:
        """Note that everything up to ``next_offset`` is in work, to be finished in ``parts`` (≥ 1) parts."""
        assert parts > 0, "a range nobody finishes would block the partition"
        ticket = Ticket(next_offset, parts)
        self._tickets.append(ticket)
        return ticket

    def finish(self, ticket: Ticket) -> None:
        """Finish one part of a range; move ``next_offset`` over all ranges that are finished without a gap."""
        if self._is_over:
            return  # what ends now was given up, not finished
        ticket.parts -= 1
        assert ticket.parts >= 0, "a part was finished twice"
        tickets = self._tickets
        while tickets and not tickets[0].parts:
            self.next_offset = tickets.popleft().next_offset

    def end(self) -> None:
        """End with the assignment: nothing more is finished, nothing more is due."""
        self._is_over = True
        self._tickets.clear()

    @property
    def is_due(self) -> bool:
        """True where ``next_offset`` has moved beyond what was committed."""
        return self.next_offset > self.committed and not self._is_over
