"""The ledger of a while: what became of messages and deliveries since a span of five minutes began. Pure.

The ledger itself is cumulative. When the first record of a span (five minutes of record time) comes to a room, the
counts so far are noted as the span's *opening*; the counts since then are a difference of two cumulative ledgers, so
they are as exact as those, whoever counted, in whatever batches. A room keeps the openings of the last hour.

What is pending is a level, not a sum. What was pending when the while began is offered anew in it, so that offered =
written + dropped + pending + unreported holds of the difference as well. A gateway that is given up for lost counts as
``unreported`` where it is settled; an opening knows only what gateways have said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from fanout.core.errors import BAD_REQUEST, Refused
from fanout.core.ledger import Edge, Ledger, Stay, add, total
from fanout.core.limits import LEDGER_SPAN_MS, LEDGER_SPANS
from fanout.core.messages import PRIORITIES
from fanout.core.records import Counts, decode_body
from fanout.core.room_log import NONE, Tally, minus, plus

_SINCE: Final = re.compile(r"([0-9]{1,3})(m|h)", re.ASCII)
_MINUTE_MS: Final = 60_000
_HOUR_MS: Final = 3_600_000
_ENCODER: Final = msgspec.msgpack.Encoder()
_PLACES: Final = tuple(range(len(PRIORITIES)))


class Opening(NamedTuple):
    """The counts of a room when the span that begins at ``at_ms`` (record time) was opened, encoded."""

    at_ms: int
    counts: bytes


class Spans(msgspec.Struct, array_like=True, gc=False):
    """Where a room stands in its spans; part of its stored state. ``began_ms``: record time of its first record.

    ``end_ms``: from this record time on the next span is due; 0 = none was opened yet.
    """

    began_ms: int = 0
    end_ms: int = 0


class _Clock(msgspec.Struct, array_like=True, gc=False):
    clock_ms: int = 0


class _Timed(msgspec.Struct, array_like=True, gc=False):
    """The places of a room's stored state that say which time its counts are of."""

    ledger: msgspec.Raw = msgspec.Raw()
    stays: msgspec.Raw = msgspec.Raw()
    thinning: _Clock = msgspec.field(default_factory=_Clock)
    values: msgspec.Raw = msgspec.Raw()
    folds: msgspec.Raw = msgspec.Raw()
    spans: Spans = msgspec.field(default_factory=Spans)


class View(NamedTuple):
    """The counts since ``from_ms``; ``as_of_ms`` is the record time of the newest message among them (0: none)."""

    ledger: Ledger
    from_ms: int
    as_of_ms: int


def span_of(at_ms: int) -> int:
    """Return the beginning of the span of a record time."""
    return at_ms - at_ms % LEDGER_SPAN_MS


def opening(at_ms: int, ledger: Ledger, stays: Mapping[int, Stay]) -> Opening:
    """Return the opening of the span that a record of ``at_ms`` begins, from the counts before that record."""
    edge = ledger.edge
    for stay in stays.values():
        edge = add(edge, stay.edge)
    before = Ledger(ledger.accepted, ledger.kept, ledger.merged, ledger.dropped, edge, ledger.folds)
    return Opening(span_of(at_ms), _ENCODER.encode(before))


def since_ms(text: str) -> int:
    """Return the milliseconds of ``1h`` or of minutes like ``30m``; raises Refused ``bad_request``."""
    found = _SINCE.fullmatch(text)
    asked = int(found[1]) * (_MINUTE_MS if found[2] == "m" else _HOUR_MS) if found else 0
    if not 0 < asked <= _HOUR_MS:
        raise Refused(
            BAD_REQUEST, "since: 1m to 60m, or 1h; leave it out for the counts since the room's first message"
        )
    return asked


def view(
    state: bytes, openings: Sequence[Opening], from_ms: int | None, leased: Mapping[int, int] | None = None
) -> View:
    """Return the counts of a room since ``from_ms`` (rounded down to its span), None = since its first record.

    ``from_ms`` must not lie more than an hour before the newest record: further back the counts begin an hour before
    it, and ``View.from_ms`` says so. ``leased`` as in ``ledger.edge_total``. Raises RecordError.
    """
    now = total(state, leased)
    timed = decode_body(state, _Timed) if state else _Timed()
    as_of_ms, began_ms = timed.thinning.clock_ms, timed.spans.began_ms
    if from_ms is None:
        return View(now, began_ms, as_of_ms)
    newest_ms = max((one.at_ms for one in openings), default=0)
    from_ms = max(span_of(from_ms), newest_ms - (LEDGER_SPANS - 1) * LEDGER_SPAN_MS)
    # Nothing came between the asked time and the first opening behind it; without one nothing has come since.
    base = min((one for one in openings if one.at_ms >= from_ms), default=None)
    if base is None:
        # With a gateway lost since, even the counts of a silent room differ from what its gateways have said.
        base = opening(from_ms, *_as_said(state))
    return View(difference(now, decode_body(base.counts, Ledger)), from_ms, as_of_ms)


class _Said(msgspec.Struct, array_like=True, gc=False):
    ledger: Ledger
    stays: dict[int, Stay]


def _as_said(state: bytes) -> tuple[Ledger, Mapping[int, Stay]]:
    said = decode_body(state, _Said) if state else _Said(Ledger(), {})
    return said.ledger, said.stays


def difference(now: Ledger, base: Ledger) -> Ledger:
    """Return the counts since ``base``, an earlier total of the same room."""
    dropped = {}
    for stage, reasons in now.dropped.items():
        before = base.dropped.get(stage, {})
        left = {reason: _minus(counts, before.get(reason, NONE)) for reason, counts in reasons.items()}
        dropped[stage] = {reason: counts for reason, counts in left.items() if any(counts)}
    return Ledger(
        _minus(now.accepted, base.accepted),
        _minus(now.kept, base.kept),
        _minus(now.merged, base.merged),
        {stage: reasons for stage, reasons in dropped.items() if reasons},
        _edge_difference(now.edge, base.edge),
        _minus(now.folds, base.folds),
    )


def _edge_difference(now: Edge, base: Edge) -> Edge:
    dropped = {reason: minus(counts, base.dropped.get(reason, NONE)) for reason, counts in now.dropped.items()}
    return Edge(
        plus(minus(now.offered, base.offered), base.pending),
        minus(now.written, base.written),
        {reason: counts for reason, counts in dropped.items() if any(counts)},
        now.pending,
        minus(now.unreported, base.unreported),
        minus(now.unconfirmed, base.unconfirmed),
    )


def sum_of(ledgers: Iterable[Ledger]) -> Ledger:
    """Return the sum of the ledgers of several rooms."""
    found = Ledger()
    for one in ledgers:
        _add_to(found, one)
    return found


def _add_to(found: Ledger, one: Ledger) -> None:
    for place in _PLACES:
        found.accepted[place] += one.accepted[place]
        found.kept[place] += one.kept[place]
        found.merged[place] += one.merged[place]
        found.folds[place] += one.folds[place]
    for stage, reasons in one.dropped.items():
        counted = found.dropped.setdefault(stage, {})
        for reason, counts in reasons.items():
            counted[reason] = [a + b for a, b in zip(counted.get(reason, NONE), counts, strict=True)]
    found.edge = add(found.edge, one.edge)


def _minus(counts: Counts, before: Counts | Tally) -> Counts:
    return [a - b for a, b in zip(counts, before, strict=True)]
