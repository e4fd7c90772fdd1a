"""A room on this gateway: its log, its subscriptions by where their cursors stand, its ledger. No I/O, no clock.

A subscription is in exactly one place: *in step* (the sweep brings it forward with its neighbours), *behind* (its
socket is full, or it is being brought up from its own cursor), or *ahead* (the client has seen more on another gateway;
nothing is due to it until the head passes its offset).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from fanout.core.errors import CloseCode
from fanout.core.messages import split_key
from fanout.core.profiles import Profile
from fanout.core.records import Entry
from fanout.core.room_log import NONE, SOURCE_MESSAGES, Position, RoomLog, Tally, minus, plus, tally, times
from fanout.core.thinned_marks import ThinnedMarks
from fanout.gateway.edge_ledger import DropReason, EdgeLedger
from fanout.gateway.step import NOWHERE, InStep, Sink
from fanout.gateway.wires import WIRES, Encoders, Frame, SharedFrames, build_frame, encoders
from fanout.runtime.metrics import SUBSCRIPTIONS_BEHIND

if TYPE_CHECKING:
    from fanout.gateway.holes import Hole

_NOT_ATTACHED: Final = 1 << 62  # above every offset: nothing is sent to a stay that nobody has answered for
_COUNTED_EACH_TIME_MAX: Final = 1_000
_COUNT_AGE_MS: Final = 2_000


class Listener(Protocol):
    """What a room needs of a session."""

    wire: int
    paused: bool

    @property
    def user(self) -> str:
        """The user, empty for a guest."""

    @property
    def sink(self) -> Sink:
        """The socket; when it cannot take more, ``paused`` becomes True, and the sweep is told (``stalled``)."""

    def write(self, frame: bytes) -> None:
        """Hand a frame to the socket."""

    def close(self, code: CloseCode) -> None:
        """End the session."""

    def end_subscription(self, subscription: Subscription, code: CloseCode, reason: DropReason) -> None:
        """End one subscription from the server's side, or the session where its client could not come back."""


class Behind:
    """What a subscription needs while it is not in step.

    ``counts`` are the log's cumulative counts at its cursor (which may have left the ring), ``offset`` the client's
    position there. ``from_history``: what follows is not in the ring. ``queued``: the sweep knows about it.
    """

    __slots__ = ("counts", "from_history", "offset", "queued", "tries")

    def __init__(self, counts: Tally, offset: int) -> None:
        self.counts = counts
        self.offset = offset
        self.from_history = False
        self.queued = False
        self.tries = 0


class Subscription:
    """Session × room: a cursor. ``place`` is its index among those in step of its wire, who know its cursor there; for
    all others ``sent`` is the cursor. ``expires_s`` 0 = never."""

    __slots__ = ("behind", "expires_s", "place", "room", "sent", "server_side", "session")

    def __init__(self, session: Listener, room: Room, *, server_side: bool = False, expires_s: int = 0) -> None:
        self.session = session
        self.room = room
        self.sent = 0
        self.place = NOWHERE
        self.behind: Behind | None = None
        self.server_side = server_side
        self.expires_s = expires_s

    @property
    def is_in_step(self) -> bool:
        """True where the sweep brings it forward: neither behind nor ahead."""
        return self.place != NOWHERE


class Room:
    """One room. ``log`` is None until the position is known.

    ``frames`` are those that a sweep is handing out. ``instance`` tells two stays of a room on this gateway apart.
    ``degraded``: None, or how many publications a history call gets at most (0: as many as ever).
    ``queued``: it waits for a sweep; ``round``: cursor and monotonic time (s) at which the round under way began.
    """

    __slots__ = (
        "_ahead_from",
        "_not_taken",
        "_stay_from",
        "_users_counted",
        "ahead",
        "app",
        "attached",
        "behind",
        "counted_bytes",
        "counted_unswept",
        "degraded",
        "encoders",
        "frames",
        "hole",
        "in_step",
        "instance",
        "key",
        "ledger",
        "log",
        "name",
        "partition",
        "queued",
        "round",
        "thinned",
        "touched",
        "turn",
    )

    def __init__(self, key: str, profile: Profile, partition: int, instance: int) -> None:
        self.key = key
        self.app, self.name = split_key(key)
        self.partition = partition
        self.instance = instance
        self.log: RoomLog | None = None
        self.ledger = EdgeLedger()
        self.in_step: tuple[InStep, ...] = tuple(InStep() for _ in WIRES)
        self.behind: set[Subscription] = set()
        self.ahead: dict[Subscription, int] = {}
        self._ahead_from = 0  # none of them is below: an offset that nobody reaches costs nothing per publication
        self.encoders: Encoders = encoders(self.name, id_tag=profile.id_tag)
        self.attached = False
        self._stay_from = _NOT_ATTACHED  # offset after which publications are sent to this stay
        self._not_taken = NONE  # of the log's cumulative counts: what came before the stay, or beside it
        self.thinned = ThinnedMarks()
        self.degraded: int | None = None
        self.hole: Hole | None = None
        self.queued = False
        self.frames = SharedFrames(self.encoders)
        self.round: tuple[int, float] | None = None
        self.touched = True
        self.counted_bytes = 0
        self.counted_unswept = 0
        self.turn: asyncio.Semaphore | None = None  # of resumes that need the history
        self._users_counted = (0, 0)  # until when (ms) the count is good, the count

    # --- subscriptions ------------------------------------------------------------------------------------------------

    @property
    def listeners(self) -> int:
        """Subscriptions to which every new publication is offered: all but those ahead."""
        return sum(map(len, self.in_step)) + len(self.behind)

    @property
    def subscriptions(self) -> int:
        """All subscriptions of the room here."""
        return self.listeners + len(self.ahead)

    @property
    def users(self) -> int:
        """Distinct users among the subscriptions; all guests together count as none."""
        return len({subscription.session.user for subscription in self} - {""})

    def users_at(self, now_ms: int) -> int:
        """Return ``users``, in a large room ≤ 2 s old: a client may ask 50 times a second, and counting costs."""
        if self.subscriptions <= _COUNTED_EACH_TIME_MAX:
            return self.users
        if self._users_counted[0] <= now_ms:
            self._users_counted = (now_ms + _COUNT_AGE_MS, self.users)
        return self._users_counted[1]

    def __iter__(self) -> Iterator[Subscription]:
        for group in self.in_step:
            yield from group
        yield from list(self.behind)
        yield from list(self.ahead)

    @property
    def known_log(self) -> RoomLog:
        """The log of a room whose position is known."""
        assert self.log is not None, "a room is subscribed to only once its position is known"
        return self.log

    def begin(self, position: Position) -> None:
        """Start the log at a position."""
        self.log = RoomLog(position)
        self.thinned = ThinnedMarks()

    def attach(self, head: int) -> None:
        """Note the answer to the room's Attach: publications after ``head`` are sent to this stay."""
        if not self.attached:
            log = self.known_log
            self.attached, self._stay_from = True, head
            self._not_taken = log.counts_at(log.sequence_at(head) if log.covers(head) else log.end)

    def restart(self, instance: int) -> None:
        """Begin a new stay on another slot: nobody has answered for it, and it counts from here."""
        self.instance, self.attached, self.touched = instance, False, True
        self._stay_from = _NOT_ATTACHED
        self.ledger.restart()

    @property
    def taken(self) -> Tally:
        """Publications per class that were sent to this stay and have come; others come from the history as well."""
        log = self.log
        if log is None or not self.attached:
            return NONE
        return minus(log.counts_at(log.end), self._not_taken)

    def join(self, subscription: Subscription, sent: int) -> bool:
        """Add a subscription whose cursor stands at ``sent`` (in the ring); what lies above is offered to it.

        Returns True where it is behind the step, so that somebody must bring it up.
        """
        log = self.known_log
        subscription.sent = sent
        self.ledger.offer(log.counts_between(sent, log.end))
        self.touched = True
        if sent == log.end and not subscription.session.paused:
            self._enter_step(subscription)
            return False
        self._enter_behind(subscription, Behind(log.counts_at(sent), log.offset_at(sent)))
        return True

    def join_ahead(self, subscription: Subscription, offset: int) -> None:
        """Add a subscription whose client has everything up to ``offset``, which is above the head."""
        self._ahead_from = min(self._ahead_from, offset) if self.ahead else offset
        self.ahead[subscription] = offset
        self.touched = True

    def join_from_history(self, subscription: Subscription, offset: int) -> None:
        """Add a subscription whose client is at ``offset``, below the ring: the history brings it up."""
        log = self.known_log
        subscription.sent = log.end
        behind = Behind(log.counts_at(log.end), offset)
        behind.from_history = True
        self._enter_behind(subscription, behind)
        self.touched = True

    def leave(self, subscription: Subscription, reason: DropReason) -> None:
        """Remove a subscription; what was pending for it is dropped for that reason."""
        self.touched = True
        if self.ahead.pop(subscription, None) is not None:
            return
        self.ledger.drop(reason, self.pending_of(subscription))
        if subscription.behind is not None:
            self._leave_behind(subscription)
        else:
            self.in_step[subscription.session.wire].remove(subscription)

    def pending_of(self, subscription: Subscription) -> Tally:
        """Return what has been offered to a subscription and not been written or dropped."""
        log = self.log
        if log is None or subscription in self.ahead:
            return NONE
        at = subscription.behind.counts if subscription.behind else log.counts_at(self.cursor(subscription))
        return minus(log.counts_at(log.end), at)

    def fall_behind(self, subscription: Subscription) -> None:
        """Its socket is full: leave the step; nothing is copied for it."""
        log = self.known_log
        sent = subscription.sent = self.cursor(subscription)
        self.in_step[subscription.session.wire].remove(subscription)
        self._enter_behind(subscription, Behind(log.counts_at(sent), log.offset_at(sent)))

    def catch_up(self, subscription: Subscription) -> bool:
        """Put a behind subscription in step if its cursor has come to the end; return whether it has."""
        if subscription.sent < self.known_log.end:
            return False
        self._leave_behind(subscription)
        self._enter_step(subscription)
        return True

    def leave_ring(self, subscription: Subscription, behind: Behind) -> None:
        """History serves what left the ring: it is dropped here, and offered anew when it is replayed."""
        log = self.known_log
        behind.from_history = True
        if log.is_behind_ring(subscription.sent):
            base = log.first - 1
            self.ledger.drop(DropReason.BEHIND_RING, minus(log.counts_at(base), behind.counts))
            subscription.sent, behind.counts = base, log.counts_at(base)

    def enter_ring(self, subscription: Subscription, behind: Behind) -> None:
        """History has brought the client to ``behind.offset``, from where the ring goes on: set the cursor there."""
        log = self.known_log
        self.leave_ring(subscription, behind)
        sent = log.sequence_at(behind.offset) if behind.offset > log.oldest_offset else log.first - 1
        counts = log.counts_at(sent)
        if sent > subscription.sent:
            self.ledger.drop(DropReason.BEHIND_RING, minus(counts, behind.counts))
        else:
            self.ledger.offer(minus(behind.counts, counts))
        subscription.sent, behind.counts, behind.from_history = sent, counts, False
        self.touched = True

    def advance(self, subscription: Subscription, behind: Behind, frame: Frame) -> None:
        """A behind subscription has been given a frame of its own."""
        log = self.known_log
        self.ledger.write(frame.written)
        self.ledger.drop(DropReason.SKIPPED, frame.skipped)
        self.ledger.drop(DropReason.BINARY, frame.binary)
        subscription.sent = frame.sent
        behind.counts = log.counts_at(frame.sent)
        behind.offset = max(behind.offset, log.offset_at(frame.sent))

    # --- publications -------------------------------------------------------------------------------------------------

    def take(self, entries: list[Entry], source: int, partition: int, now_ms: int) -> list[Subscription]:
        """Append entries that are no repeats and leave no hole; return the subscriptions that were ahead until now."""
        log = self.known_log
        start = log.end
        passed: list[Subscription] = []
        for entry in entries:
            if self.ahead and source == SOURCE_MESSAGES and entry.offset > self._ahead_from:
                self._offer(log, start)
                start = log.end
                passed += self._join_passed(log, entry.offset)
            log.append(entry, source, partition, now_ms)
        if source != SOURCE_MESSAGES or entries[0].offset <= self._stay_from:
            beside = (one for one in entries if source != SOURCE_MESSAGES or one.offset <= self._stay_from)
            self._not_taken = plus(self._not_taken, tally(beside))
        self._offer(log, start)
        self.touched = True
        return passed

    def _offer(self, log: RoomLog, start: int) -> None:
        listeners = self.listeners
        if listeners and log.end > start:
            self.ledger.offer(times(log.counts_between(start, log.end), listeners))

    def _join_passed(self, log: RoomLog, passing: int) -> list[Subscription]:
        """The head has come to where clients were: they go on from their own offset, behind until they are in step."""
        passed = [(one, offset) for one, offset in self.ahead.items() if passing > offset]
        for subscription, offset in passed:
            del self.ahead[subscription]
            subscription.sent = log.end
            self._enter_behind(subscription, Behind(log.counts_at(log.end), offset))
        self._ahead_from = min(self.ahead.values(), default=0)
        return [subscription for subscription, _ in passed]

    def warm(self, entries: Sequence[Entry], after: int, now_ms: int) -> None:
        """Put what the history has stored after ``after`` in front of the ring."""
        log = self.known_log
        for subscription in self.behind:
            # Sequences below the ring are about to mean other publications: those who stand there go by their offset.
            if subscription.behind is not None and log.is_behind_ring(subscription.sent):
                self.leave_ring(subscription, subscription.behind)
        log.prepend(entries, after, now_ms=now_ms)

    def frame(self, sent: int, wire: int, *, stop: int | None = None, droppable_since_ms: int = 0) -> Frame:
        """Return the next frame after a cursor, in a wire's format, not compressed."""
        return build_frame(
            self.known_log, sent, wire, self.encoders[wire], stop=stop, droppable_since_ms=droppable_since_ms
        )

    # --- the step -----------------------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """The lowest cursor of those in step; where nobody is, the end of the log."""
        sent = self.log.end if self.log is not None else 0
        for group in self.in_step:
            sent = group.lowest(sent)
        return sent

    def cursor(self, subscription: Subscription) -> int:
        """Return the sequence of the last publication that a subscription was given."""
        if subscription.is_in_step:
            return self.in_step[subscription.session.wire].cursor(subscription)
        return subscription.sent

    def due(self) -> int | None:
        """Return the wire whose members in step wait for the oldest publication; None where all have everything."""
        sent, due = self.known_log.end, None
        for wire, group in enumerate(self.in_step):
            lowest = group.lowest(sent)
            if lowest < sent:
                sent, due = lowest, wire
        return due

    def skip_to_end(self) -> None:
        """Set all those in step to the end of the log, whatever lies between; the caller accounts for it."""
        for group in self.in_step:
            group.stand_at(self.known_log.end)
        self.frames.clear()
        self.round = None

    # --- places -------------------------------------------------------------------------------------------------------

    def _enter_step(self, subscription: Subscription) -> None:
        """Its cursor is at the end of the log."""
        self.in_step[subscription.session.wire].add(subscription, subscription.sent)

    def _enter_behind(self, subscription: Subscription, behind: Behind) -> None:
        subscription.behind = behind
        self.behind.add(subscription)
        SUBSCRIPTIONS_BEHIND.inc()

    def _leave_behind(self, subscription: Subscription) -> None:
        subscription.behind = None
        self.behind.discard(subscription)
        SUBSCRIPTIONS_BEHIND.dec()
