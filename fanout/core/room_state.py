"""What the room worker holds of a room, and its stored form: the room's past as far as later decisions need it.

Stored at ``applied`` (the log offset of the last record it contains + 1) together with the history, in one step: a new
owner loads it, skips the records below ``applied`` and decides as the old one would have.

Stored form: a msgpack array with fixed places ``[ledger, stays, thinning, values, folds, spans]``; later versions
append places, older readers ignore them. Bounded: ≤ 256 stays (one per slot), reasons are closed sets, a window names
at most ``shared_slots`` senders. Keyed ids stand beside it in the store, because they grow by themselves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

import msgspec

from fanout.core.ledger import (
    NOTHING,
    Ledger,
    Stay,
    add,
    drop,
    ended,
    sent_since,
    take_report,
    tally_of,
    thinned,
    zeros,
)
from fanout.core.ledger_spans import Opening, Spans, opening, span_of
from fanout.core.limits import IDEMPOTENCY_S, KEYED_IDS_MAX, LEDGER_SPAN_MS, SHARED_TARGETS_MAX, STAY_REMEMBERED_MS
from fanout.core.merge import Fold, Folds
from fanout.core.messages import PRIORITIES
from fanout.core.policy import REPEAT, DropReason, Thinning, take_slot
from fanout.core.profiles import Policy, Profile
from fanout.core.records import Attached, Message, RoomReport, decode_body
from fanout.core.room_log import NONE, Tally, minus

Target = tuple[int, int]  # (slot, its generation): where chunks go

_ENCODER: Final = msgspec.msgpack.Encoder()
_KEYED_MS: Final = IDEMPOTENCY_S * 1_000
_NO_FOLDS: Final[list[Fold]] = []
_NO_TYPES: Final[frozenset[str]] = frozenset()
_SHARED: Final[dict[tuple[Target, ...], tuple[Target, ...]]] = {}


def shared_targets(targets: tuple[Target, ...]) -> tuple[Target, ...]:
    """Return one object for equal targets, so that rooms on the same gateways are recognised by identity."""
    if len(_SHARED) >= SHARED_TARGETS_MAX:
        _SHARED.clear()  # objects in use stay what they are; new ones are shared among themselves
    return _SHARED.setdefault(targets, targets)


class Values(msgspec.Struct, array_like=True, gc=False):
    """Values that Budget records put in force; slots and members 0 = none has: the policy's most holds."""

    shared_slots: int = 0
    members: int = 0
    degraded: bool = False


class StoredState(msgspec.Struct, array_like=True, gc=False):
    """The stored form, decoded. ``folds``: publications of merged messages whose window is still open."""

    ledger: Ledger = msgspec.field(default_factory=Ledger)
    stays: dict[int, Stay] = {}
    thinning: Thinning = msgspec.field(default_factory=Thinning)
    values: Values = msgspec.field(default_factory=Values)
    folds: list[Fold] = []
    spans: Spans = msgspec.field(default_factory=Spans)


class _Packed(msgspec.Struct, array_like=True, gc=False):
    """StoredState on its way out; the stays are encoded only when one of them has changed."""

    ledger: Ledger
    stays: msgspec.Raw
    thinning: Thinning
    values: Values
    folds: list[Fold]
    spans: Spans


class Keyed:
    """Message ids that came with an idempotency key: ten minutes of record time, at most ``KEYED_IDS_MAX``."""

    __slots__ = ("_at", "_order")

    def __init__(self, ids: Iterable[tuple[int, int, int]] = ()) -> None:
        self._at: dict[int, tuple[int, int]] = {}
        self._order: deque[int] = deque()
        for id_, offset, at_ms in ids:
            self.add(id_, offset, at_ms)

    def __len__(self) -> int:
        return len(self._at)

    def is_repeat(self, id_: int, offset: int, now_ms: int) -> bool:
        """True where the id stands at a lower position (log offset + 1), not longer than ten minutes ago."""
        held = self._at.get(id_)
        return held is not None and held[0] < offset and held[1] >= now_ms - _KEYED_MS

    def add(self, id_: int, offset: int, at_ms: int) -> None:
        """Note an id; the oldest leave beyond the bounds."""
        at = self._at
        if id_ not in at:
            self._order.append(id_)
        at[id_] = (offset, at_ms)
        order = self._order
        while order and (len(order) > KEYED_IDS_MAX or at[order[0]][1] < at_ms - _KEYED_MS):
            del at[order.popleft()]


class RoomState:
    """One room in memory. Touched by the owner of its partition only.

    Positions: ``head`` newest stored offset, ``last`` newest reliable one, ``floor`` from here on the chain was whole
    when the room was loaded (the store moves it on), ``n`` reliable publications ever, ``applied`` log offset of the
    last record applied + 1. ``parts`` is how many publications the record at log offset ``closed_at`` has brought by
    closing folds: they come before its own. ``targets`` are the live routes. ``off_types`` are the types of NORMAL and
    LOW messages that are dropped because the room is degraded, ``merged_types`` those that are folded. ``loans`` counts
    turns whose history is not stored yet: such a room may not be forgotten.
    """

    __slots__ = (
        "_stays_packed",
        "applied",
        "closed_at",
        "degraded",
        "floor",
        "folds",
        "head",
        "is_changed",
        "key",
        "keyed",
        "kinds",
        "last",
        "ledger",
        "loans",
        "merged_types",
        "n",
        "off_types",
        "parts",
        "policy",
        "profile",
        "shared_slots",
        "spans",
        "stays",
        "targets",
        "thinned",
        "thinning",
        "touched",
        "values",
    )

    def __init__(self, key: str, profile: Profile, *, head: int, last: int, floor: int, n: int, applied: int) -> None:
        self.key = key
        self.profile = profile
        self.policy = profile.policy  # in force
        self.kinds = tuple(kind.value for kind in profile.kinds)
        self.head, self.last, self.floor, self.n, self.applied = head, last, floor, n, applied
        self.ledger = Ledger()
        self.thinned = zeros()  # of the ledger's drops: what clients do not get because of policy or lateness
        self.stays: dict[int, Stay] = {}
        self.thinning = Thinning()
        self.put_in_force(Values())
        self.folds: Folds | None = None  # none are open
        self.closed_at = -1
        self.parts = 0
        self.spans = Spans()
        self.keyed: Keyed | None = None
        self.targets: tuple[Target, ...] = ()
        self.is_changed = False  # something to store, besides what a draft says
        self.loans = 0
        self.touched = 0
        self._stays_packed: msgspec.Raw | None = None

    @classmethod
    def fresh(cls, key: str, profile: Profile, log_offset: int) -> RoomState:
        """Return a room without a past, whose first record stands at ``log_offset``."""
        return cls(key, profile, head=log_offset, last=log_offset, floor=log_offset, n=0, applied=log_offset)

    def restore(self, state: bytes, keyed: Iterable[tuple[int, int, int]]) -> None:
        """Take over the stored state; raises RecordError ``undecodable``."""
        stored = decode_body(state, StoredState) if state else StoredState()
        self.ledger, self.stays, self.thinning = stored.ledger, stored.stays, stored.thinning
        self.thinned = thinned(stored.ledger)
        self.put_in_force(stored.values)
        self.folds = Folds(stored.folds) if stored.folds else None
        self.spans = stored.spans
        for stay in self.stays.values():  # as small in memory as they were before
            if stay.edge == NOTHING:
                stay.edge = NOTHING
            if stay.kept_before == NONE:
                stay.kept_before = NONE
            if stay.taken == NONE:
                stay.taken = NONE
        ids = Keyed(keyed)
        self.keyed = ids if len(ids) else None
        self._routes_changed()
        self.is_changed = False

    def encode(self) -> bytes:
        """Return the stored form of what this room is now."""
        stays = self._stays_packed
        if stays is None:
            stays = self._stays_packed = msgspec.Raw(_ENCODER.encode(self.stays))
        folds = _NO_FOLDS if self.folds is None else self.folds.stored()
        return _ENCODER.encode(_Packed(self.ledger, stays, self.thinning, self.values, folds, self.spans))

    def put_in_force(self, values: Values) -> None:
        """Decide by these values from here on; ``shared_slots`` and ``degraded`` are in force as the policy allows."""
        self.values = values
        policy = self.policy
        slots = values.shared_slots if values.shared_slots or values.members else policy.shared_slots_max
        self.shared_slots = min(max(slots, policy.shared_slots_min), policy.shared_slots_max)
        self.degraded = values.degraded and policy.degrade_members > 0 and self.profile.thinned
        self.off_types = policy.degrade_off_types if self.degraded else _NO_TYPES
        self.merged_types = policy.degrade_merged_types if self.degraded else _NO_TYPES

    def use(self, policy: Policy) -> None:
        """Decide by this policy from here on; the values that a Budget brought hold within its bounds."""
        self.policy = policy
        self.put_in_force(self.values)

    def members(self) -> int:
        """Return how many subscriptions the gateways that live have announced."""
        return sum(stay.subscriptions for stay in self.stays.values() if stay.gone is None)

    def take_slot(self, class_: int, message: Message) -> DropReason | None:
        """Take a slot for a merged publication; return why there is none, or None. No sender's share counts it."""
        if not self.profile.thinned:
            return None
        return take_slot(self.thinning, self.policy, self.shared_slots, PRIORITIES[class_], "", message.type)

    def drop(self, reason: DropReason, class_: int, messages: int = 1) -> None:
        """Count messages that are not kept."""
        drop(self.ledger, reason, class_, messages)
        if reason.stage != REPEAT:
            self.thinned[class_] += messages

    def opening(self, at_ms: int) -> Opening:
        """Return the counts so far as the opening of the span that a record of ``at_ms`` begins."""
        return opening(at_ms, self.ledger, self.stays)

    def open_span(self, at_ms: int) -> None:
        """A record of ``at_ms``, which is at or behind the end of the last span, begins its own."""
        self.spans.began_ms = self.spans.began_ms or at_ms
        self.spans.end_ms = span_of(at_ms) + LEDGER_SPAN_MS

    def attached(self, instance: int) -> Attached:
        """Return the answer to an Attach, or to an Announce whose head differs: where the room stands now."""
        return Attached(instance, self.head, self.last, self.floor, self.n)

    # --- routes ---

    def attach(self, slot: int, generation: int, instance: int) -> bool:
        """Add the route; False where a newer generation of the slot holds it (nothing is changed then).

        Within a generation the later record in the log wins. The stay that it replaces ends here; what nobody
        reported of it is accounted.
        """
        stay = self.stays.get(slot)
        if stay is not None:
            if generation < stay.generation:
                return False
            if (generation, instance) == (stay.generation, stay.instance):
                if stay.gone is not None:
                    stay.gone, stay.gone_ms = None, 0
                    self._routes_changed()
                return True
            self._end(slot, stay, sent_since(stay, self.ledger.sent))
        self.stays[slot] = Stay(generation, instance, self.ledger.sent, head=self.head)
        self._routes_changed()
        return True

    def detach(self, slot: int, generation: int, instance: int, report: RoomReport | None) -> bool:
        """End the stay with its last report; False where it is not the stay that the room knows."""
        stay = self.stays.get(slot)
        if stay is None or (stay.generation, stay.instance) != (generation, instance):
            return False
        stay.gone = None
        if report is not None:
            take_report(stay, report)
        # A gateway that leaves in words takes nothing more of this stay: what is under way to it is offered to nobody.
        self._end(slot, stay, NONE if report is not None else sent_since(stay, self.ledger.sent))
        self._routes_changed()
        return True

    def announce(self, slot: int, generation: int, report: RoomReport) -> bool:
        """Take a report, healing a lost route; False where a newer generation of the slot holds the room."""
        known = self.stays.get(slot)
        if not self.attach(slot, generation, report.instance):
            return False
        stay = self.stays[slot]
        if stay is not known:  # the route had been lost, the gateway counts on
            stay.kept_before = minus(self.ledger.sent, tally_of(report.taken))
        if take_report(stay, report):
            self._stays_packed = None
            self.is_changed = True
        return True

    def expire(self, slot: int, generation: int) -> bool:
        """Stop sending to a slot whose lease (up to ``generation``) is gone; False where there is no such route."""
        stay = self.stays.get(slot)
        if stay is None or stay.generation > generation or stay.gone is not None:
            return False
        stay.gone = sent_since(stay, self.ledger.sent)
        stay.gone_ms = self.thinning.clock_ms
        self._routes_changed()
        return True

    def settle_gone(self) -> None:
        """Move the counts of gateways that were lost long ago to the stays that have ended."""
        before_ms = self.thinning.clock_ms - STAY_REMEMBERED_MS
        for slot, stay in list(self.stays.items()):
            if stay.gone is not None and stay.gone_ms < before_ms:
                self._end(slot, stay, stay.gone)
                self._routes_changed()

    def _end(self, slot: int, stay: Stay, sent: Tally) -> None:
        self.ledger.edge = add(self.ledger.edge, ended(stay, sent))
        del self.stays[slot]

    def _routes_changed(self) -> None:
        self.targets = shared_targets(
            tuple(sorted((slot, stay.generation) for slot, stay in self.stays.items() if stay.gone is None))
        )
        self._stays_packed = None
        self.is_changed = True
