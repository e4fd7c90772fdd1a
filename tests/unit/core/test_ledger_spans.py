"""Counts of a while: differences of cumulative ledgers that add up, whatever was pending, lost or silent."""

from __future__ import annotations

import pytest

from fanout.core import ledger
from fanout.core.errors import RecordError, Refused
from fanout.core.ledger import Edge, Ledger
from fanout.core.ledger_spans import Opening, difference, opening, since_ms, span_of, sum_of, view
from fanout.core.limits import LEDGER_SPAN_MS, LEDGER_SPANS
from fanout.core.policy import DropReason
from fanout.core.profiles import LIVE
from fanout.core.room_state import RoomState
from tests.support.rooms import ROOM, report

SPAN = LEDGER_SPAN_MS
BEGIN = 6_000 * SPAN  # a record time at which a span begins


class Counted:
    """A room whose counts a test sets by hand, and the openings of its spans."""

    def __init__(self) -> None:
        self.room = RoomState.fresh(ROOM, LIVE, 0)
        self.openings: list[Opening] = []

    def at(self, at_ms: int) -> RoomState:
        """Return the room as a record of this time finds it."""
        if at_ms >= self.room.spans.end_ms:
            self.openings.append(self.room.opening(at_ms))
            self.room.open_span(at_ms)
        self.room.thinning.clock_ms = at_ms
        return self.room

    def keep(self, at_ms: int, normal: int) -> None:
        """Count messages of this time."""
        room = self.at(at_ms)
        room.ledger.accepted[2] += normal
        room.ledger.kept[2] += normal


@pytest.fixture
def counted() -> Counted:
    return Counted()


def test_everything_is_counted_since_the_rooms_first_record(counted: Counted) -> None:
    counted.keep(BEGIN + 7, 3)
    counted.keep(BEGIN + 2 * SPAN, 4)
    found = view(counted.room.encode(), counted.openings, None)
    assert (found.from_ms, found.as_of_ms) == (BEGIN + 7, BEGIN + 2 * SPAN)
    assert found.ledger.accepted == [0, 0, 7, 0]


def test_a_room_without_a_past_has_counted_nothing() -> None:
    assert view(b"", (), None) == (Ledger(), 0, 0)
    found = view(b"", (), BEGIN + 1)
    assert ledger.differences(ledger.shown(found.ledger)) == []
    assert found.from_ms == BEGIN


def test_the_last_while_begins_with_the_span_that_its_beginning_lies_in(counted: Counted) -> None:
    for span in range(4):
        counted.keep(BEGIN + span * SPAN + 5, 10**span)
    for from_ms, kept in ((BEGIN, 1_111), (BEGIN + SPAN + 1, 1_110), (BEGIN + 3 * SPAN - 1, 1_100)):
        found = view(counted.room.encode(), counted.openings, from_ms)
        assert (found.from_ms, found.ledger.kept[2]) == (span_of(from_ms), kept)


def test_spans_in_which_nothing_came_count_nothing(counted: Counted) -> None:
    counted.keep(BEGIN, 1)
    counted.keep(BEGIN + 5 * SPAN, 2)
    assert view(counted.room.encode(), counted.openings, BEGIN + 2 * SPAN).ledger.kept[2] == 2
    assert view(counted.room.encode(), counted.openings, BEGIN + 6 * SPAN).ledger.kept[2] == 0


def test_further_back_than_the_store_remembers_the_answer_says_where_it_begins(counted: Counted) -> None:
    for span in range(LEDGER_SPANS + 3):
        counted.keep(BEGIN + span * SPAN, 1)
    found = view(counted.room.encode(), counted.openings[-LEDGER_SPANS:], BEGIN)
    assert (found.from_ms, found.ledger.kept[2]) == (BEGIN + 3 * SPAN, LEDGER_SPANS)


def test_what_was_pending_at_the_beginning_is_offered_anew(counted: Counted) -> None:
    room = counted.at(BEGIN)
    room.attach(1, 1, 1)
    said = report(subscriptions=2, offered=[0, 0, 8, 0], written=[0, 0, 5, 0], pending=[0, 0, 3, 0])
    room.announce(1, 1, said)
    room = counted.at(BEGIN + SPAN)
    room.announce(1, 1, report(subscriptions=2, offered=[0, 0, 9, 0], written=[0, 0, 7, 0], pending=[0, 0, 2, 0]))
    edge = view(room.encode(), counted.openings, BEGIN + SPAN).ledger.edge
    assert edge == Edge((0, 0, 4, 0), (0, 0, 2, 0), {}, (0, 0, 2, 0))


def test_a_gateway_lost_in_the_while_is_unreported_in_it(counted: Counted) -> None:
    room = counted.at(BEGIN)
    room.attach(1, 1, 1)
    room.announce(1, 1, report(subscriptions=2, offered=[0, 0, 8, 0], written=[0, 0, 8, 0], taken=[0, 0, 4, 0]))
    counted.keep(BEGIN + 1, 4)
    counted.keep(BEGIN + SPAN, 3)
    found = view(counted.room.encode(), counted.openings, BEGIN + SPAN, leased={})
    assert found.ledger.edge.unreported == (0, 0, 6, 0)
    assert found.ledger.edge.written == (0, 0, 0, 0)
    assert ledger.differences(ledger.shown(found.ledger)) == []
    silent = view(counted.room.encode(), counted.openings, BEGIN + 2 * SPAN, leased={})
    assert silent.ledger.edge.unreported == (0, 0, 6, 0)
    assert ledger.differences(ledger.shown(silent.ledger)) == []


def test_a_gateway_that_was_given_up_and_comes_back_makes_nothing_negative(counted: Counted) -> None:
    room = counted.at(BEGIN)
    room.attach(1, 1, 1)
    room.announce(1, 1, report(subscriptions=2, offered=[0, 0, 2, 0], written=[0, 0, 2, 0], taken=[0, 0, 1, 0]))
    counted.keep(BEGIN + 1, 3)
    room.expire(1, 1)
    room = counted.at(BEGIN + SPAN)
    room.announce(1, 1, report(subscriptions=2, offered=[0, 0, 6, 0], written=[0, 0, 6, 0], taken=[0, 0, 3, 0]))
    shown = ledger.shown(view(room.encode(), counted.openings, BEGIN + SPAN).ledger)
    assert shown["edge"]["written"]["normal"] == 4
    assert min(counts["normal"] for name, counts in shown["edge"].items() if name != "dropped") >= 0
    assert ledger.differences(shown) == []


def test_reasons_that_did_not_occur_in_the_while_are_left_out(counted: Counted) -> None:
    ledger.drop(counted.at(BEGIN).ledger, DropReason.KEYED, 2)
    counted.room.ledger.accepted[2] += 1
    room = counted.at(BEGIN + SPAN)
    ledger.drop(room.ledger, DropReason.WINDOW_FULL, 3)
    room.ledger.accepted[3] += 1
    found = view(room.encode(), counted.openings, BEGIN + SPAN).ledger
    assert found.dropped == {"policy": {"window_full": [0, 0, 0, 1]}}


def test_an_opening_is_not_changed_by_what_comes_later(counted: Counted) -> None:
    counted.keep(BEGIN, 1)
    before = opening(BEGIN + SPAN, counted.room.ledger, counted.room.stays)
    counted.keep(BEGIN + 1, 5)
    assert before.at_ms == BEGIN + SPAN
    assert before != opening(BEGIN + SPAN, counted.room.ledger, counted.room.stays)


def test_the_sum_of_rooms_is_the_sum_of_every_place() -> None:
    one = Ledger([0, 1, 2, 3], [0, 1, 1, 3], [0, 0, 1, 0], {}, Edge((1, 1, 1, 1), (1, 1, 1, 1)))
    other = Ledger([0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0], {"policy": {"window_full": [0, 0, 1, 1]}})
    found = sum_of([one, other, other])
    assert found.accepted == [0, 1, 4, 5]
    assert found.dropped == {"policy": {"window_full": [0, 0, 2, 2]}}
    assert ledger.differences(ledger.shown(found)) == []
    assert one.accepted == [0, 1, 2, 3] and other.dropped == {"policy": {"window_full": [0, 0, 1, 1]}}
    assert sum_of([]) == Ledger()


def test_nothing_is_left_of_a_ledger_without_itself() -> None:
    one = Ledger([1, 1, 2, 3], [1, 1, 1, 3], [0, 0, 0, 0], {"policy": {"window_full": [0, 0, 1, 0]}})
    assert difference(one, one) == Ledger()


@pytest.mark.parametrize(("text", "ms"), [("1h", 3_600_000), ("60m", 3_600_000), ("5m", 300_000), ("1m", 60_000)])
def test_a_while_is_an_hour_or_minutes(text: str, ms: int) -> None:
    assert since_ms(text) == ms


@pytest.mark.parametrize("text", ["2h", "61m", "0m", "0h", "90s", "h", "5", "-5m", "5m ", "٥m", "1h30m", "1000m"])
def test_every_other_while_is_refused_with_what_would_do(text: str) -> None:
    with pytest.raises(Refused, match="since: 1m to 60m"):
        since_ms(text)


def test_a_state_that_cannot_be_read_is_told_apart_from_none() -> None:
    with pytest.raises(RecordError):
        view(b"\xc1", (), None)
