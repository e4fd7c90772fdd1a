"""The ledger of a room: what became of every message and of every delivery. Pure, cumulative, stored with the room.

Messages: accepted = kept + merged + dropped(stage, reason). Deliveries: offered = written + dropped(reason) + pending
+ unreported. Gateways report cumulative counts per stay of a room on a slot (slot, generation, instance); the ledger
keeps the last report of each stay and the sum of those that have ended, so a report that comes twice changes nothing.

Lives here: the counts, their stored form and the check that they add up. Lives elsewhere: when a message is dropped
(``policy``), when a stay begins and ends (``room_state``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from fanout.core.errors import RecordError
from fanout.core.limits import EDGE_REASONS_MAX, REPORT_COUNT_MAX, REPORT_SUBSCRIPTIONS_MAX
from fanout.core.messages import PRIORITIES
from fanout.core.policy import REPEAT, DropReason
from fanout.core.records import Counts, RoomReport, decode_body
from fanout.core.room_log import NONE, Tally, minus, plus, times

CLASSES: Final = len(PRIORITIES)
WORDS: Final = tuple(priority.word for priority in PRIORITIES)
_OTHER: Final = "other"


def zeros() -> Counts:
    """Return counts of nothing, one place per class, to be counted up in place."""
    return [0] * CLASSES


class Edge(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Deliveries by class. ``unreported``: their gateway died before it said what became of them (an upper bound)."""

    offered: Tally = NONE
    written: Tally = NONE
    dropped: dict[str, Tally] = {}
    pending: Tally = NONE
    unreported: Tally = NONE
    unconfirmed: Tally = NONE


NOTHING: Final = Edge()  # one object for all stays without a report: a room has up to one stay per slot


class Ledger(msgspec.Struct, array_like=True, gc=False):
    """Messages by class, and in ``edge`` the deliveries of the stays that have ended.

    ``folds`` are the publications that merged messages became: sent like those of ``kept``, but no messages.
    """

    accepted: Counts = msgspec.field(default_factory=zeros)
    kept: Counts = msgspec.field(default_factory=zeros)
    merged: Counts = msgspec.field(default_factory=zeros)
    dropped: dict[str, dict[str, Counts]] = {}
    edge: Edge = NOTHING
    folds: Counts = msgspec.field(default_factory=zeros)

    @property
    def sent(self) -> Tally:
        """Publications by class that went to the routes of their time: what stays are measured by."""
        return plus(tally_of(self.kept), tally_of(self.folds))


class Stay(msgspec.Struct, array_like=True, gc=False):
    """One stay of a room on a slot: the route while it lasts, and what its gateway reported last.

    ``kept_before`` is what the room had sent (kept messages, and folds) when the stay began: what it sent since went to
    the slot, and ``taken`` of it had come there by the last report. ``gone`` is the rest (``sent_since``) when the
    slot's lease was given up for lost, None while it holds; ``gone_ms`` the record clock then.
    """

    generation: int
    instance: int
    kept_before: Tally
    subscriptions: int = 0
    users: int = 0
    head: int = 0
    edge: Edge = NOTHING
    gone: Tally | None = None
    gone_ms: int = 0
    taken: Tally = NONE


class _Counted(msgspec.Struct, array_like=True, gc=False):
    """The first places of a room's stored state: all that the ledger needs of it."""

    ledger: Ledger
    stays: dict[int, Stay]


def drop(ledger: Ledger, reason: DropReason, class_: int, messages: int = 1) -> None:
    """Count messages of one class (its header byte) that are not kept."""
    counts = ledger.dropped.get(reason.stage, {}).get(reason.word)
    if counts is None:
        # In order of their names, so that equal counts are equal bytes, whatever was dropped first.
        stage = ledger.dropped.get(reason.stage, {})
        counts = stage[reason.word] = zeros()
        ledger.dropped[reason.stage] = dict(sorted(stage.items()))
        ledger.dropped = dict(sorted(ledger.dropped.items()))
    counts[class_] += messages


def thinned(ledger: Ledger) -> Counts:
    """Return by class what was dropped and does not stand elsewhere: all drops but repeats."""
    found = zeros()
    for stage, reasons in ledger.dropped.items():
        for counts in reasons.values() if stage != REPEAT else ():
            found = [a + b for a, b in zip(found, counts, strict=True)]
    return found


def check_report(report: RoomReport) -> None:
    """Raise RecordError ``bad_report`` where counts have not one place per class, or one is negative or absurd."""
    rows = (report.offered, report.written, report.pending, report.unconfirmed, report.taken, *report.dropped.values())
    is_bad = any(len(row) != CLASSES or min(row) < 0 or max(row) > REPORT_COUNT_MAX for row in rows)
    if is_bad or not 0 <= report.subscriptions <= REPORT_SUBSCRIPTIONS_MAX:
        raise RecordError("bad_report", f"room {report.key!r}: {CLASSES} counts from 0 up are needed in each place")


def take_report(stay: Stay, report: RoomReport) -> bool:
    """Put a cumulative report in the place of the stay's last one; False where it says nothing new."""
    edge = Edge(
        tally_of(report.offered),
        tally_of(report.written),
        {reason: tally_of(counts) for reason, counts in _bounded(report.dropped).items()},
        tally_of(report.pending),
        NONE,
        tally_of(report.unconfirmed),
    )
    said = (edge, tally_of(report.taken), report.subscriptions, report.users, report.head)
    if said == (stay.edge, stay.taken, stay.subscriptions, stay.users, stay.head):
        return False
    stay.edge, stay.taken, stay.subscriptions, stay.users, stay.head = said
    return True


def sent_since(stay: Stay, sent: Tally) -> Tally:
    """Return the publications by class that were sent to the slot and had not come there by its last report.

    ``sent`` is the room's (``Ledger.sent``). Never below zero: a gateway that filled a hole from the history has taken
    what was never sent to it.
    """
    if stay.gone is not None:
        return stay.gone
    return tally_of([max(0, under_way) for under_way in minus(minus(sent, stay.kept_before), stay.taken)])


def ended(stay: Stay, sent: Tally) -> Edge:
    """Return what a stay leaves behind when nobody will report on it any more.

    What had not come by its last report reached at most the subscriptions of that report; what was pending then may
    have been written or not. Both are unreported: the identity holds and nothing is claimed.
    """
    edge = stay.edge
    unknown = times(sent, stay.subscriptions)
    return Edge(
        plus(edge.offered, unknown),
        edge.written,
        edge.dropped,
        NONE,
        plus(unknown, edge.pending),
        edge.unconfirmed,
    )


def add(one: Edge, other: Edge) -> Edge:
    """Return the sum of both."""
    dropped = dict(one.dropped)
    for reason, counts in other.dropped.items():
        dropped[reason] = plus(dropped.get(reason, NONE), counts)
    return Edge(
        plus(one.offered, other.offered),
        plus(one.written, other.written),
        dropped,
        plus(one.pending, other.pending),
        plus(one.unreported, other.unreported),
        plus(one.unconfirmed, other.unconfirmed),
    )


def edge_total(ledger: Ledger, stays: Mapping[int, Stay], leased: Mapping[int, int] | None = None) -> Edge:
    """Return the deliveries of a room: stays that ended, that go on, and that were lost with their gateway.

    ``leased``: generation by slot of the gateways that live (None: not known). The owner of a room that nobody speaks
    in or of has no reason to load it, so that a loss may show here before the state knows of it.
    """
    total, sent = ledger.edge, ledger.sent
    for slot, stay in stays.items():
        is_lost = stay.gone is not None or (leased is not None and leased.get(slot) != stay.generation)
        total = add(total, ended(stay, sent_since(stay, sent)) if is_lost else stay.edge)
    return total


def total(state: bytes, leased: Mapping[int, int] | None = None) -> Ledger:
    """Return the counts in a room's stored state, its live and lost stays summed up in ``edge``; raises RecordError.

    ``leased`` as in ``edge_total``; empty ``state`` = a room of which nothing was counted yet.
    """
    counted = decode_body(state, _Counted) if state else _Counted(Ledger(), {})
    ledger = counted.ledger
    ledger.edge = edge_total(ledger, counted.stays, leased)
    return ledger


def report(state: bytes, leased: Mapping[int, int] | None = None) -> dict[str, Any]:
    """Return the ledger in a room's stored state as ``shown``; arguments and errors as in ``total``."""
    return shown(total(state, leased))


def shown(ledger: Ledger) -> dict[str, Any]:
    """Return a total JSON-able, counts as {class: n}.

    ``{accepted, kept, merged, dropped: {stage: {reason: {class: n}}}, edge: {offered, written, dropped: {reason:
    {class: n}}, pending, unreported, unconfirmed}}``.
    """
    edge = ledger.edge
    return {
        "accepted": _by_class(ledger.accepted),
        "kept": _by_class(ledger.kept),
        "merged": _by_class(ledger.merged),
        "folds": _by_class(ledger.folds),
        "dropped": {
            stage: {reason: _by_class(counts) for reason, counts in reasons.items()}
            for stage, reasons in ledger.dropped.items()
        },
        "edge": {
            "offered": _by_class(edge.offered),
            "written": _by_class(edge.written),
            "dropped": {reason: _by_class(counts) for reason, counts in edge.dropped.items()},
            "pending": _by_class(edge.pending),
            "unreported": _by_class(edge.unreported),
            "unconfirmed": _by_class(edge.unconfirmed),
        },
    }


def listening(state: bytes, *, without_slot: int) -> tuple[int, int]:
    """Return (subscriptions, users) that the gateways of a room last reported, one slot left out; raises RecordError.

    A user with sessions on several gateways counts once on each.
    """
    stays = decode_body(state, _Counted).stays if state else {}
    here = [stay for slot, stay in stays.items() if slot != without_slot and stay.gone is None]
    return sum(stay.subscriptions for stay in here), sum(stay.users for stay in here)


def differences(ledger: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each class whose counts in a ``report`` do not add up; empty: it reconciles."""
    edge = ledger["edge"]
    found = []
    for word in WORDS:
        fates = ledger["kept"][word] + ledger["merged"][word]
        fates += sum(counts[word] for reasons in ledger["dropped"].values() for counts in reasons.values())
        if ledger["accepted"][word] != fates:
            found.append(f"{word}: accepted {ledger['accepted'][word]}, kept + merged + dropped {fates}")
        fates = edge["written"][word] + edge["pending"][word] + edge["unreported"][word]
        fates += sum(counts[word] for counts in edge["dropped"].values())
        if edge["offered"][word] != fates:
            found.append(f"{word}: offered {edge['offered'][word]}, written + dropped + pending + unreported {fates}")
    return found


def _by_class(counts: Counts | Tally) -> dict[str, int]:
    return dict(zip(WORDS, counts, strict=True))


def tally_of(counts: Counts | Tally) -> Tally:
    """Return counts as a tuple; of nothing, one shared object."""
    system, high, normal, low = counts
    if not (system or high or normal or low):
        return NONE  # one object: most places of most stays are zero
    return (system, high, normal, low)


def _bounded(dropped: dict[str, Counts]) -> dict[str, Counts]:
    if len(dropped) <= EDGE_REASONS_MAX:
        return dropped
    named = [reason for reason in dropped if reason != _OTHER][: EDGE_REASONS_MAX - 1]
    bounded = {reason: dropped[reason] for reason in named}
    bounded[_OTHER] = [sum(counts) for counts in zip(*(dropped[r] for r in dropped if r not in bounded), strict=True)]
    return bounded
