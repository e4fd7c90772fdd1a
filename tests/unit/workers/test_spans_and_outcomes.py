"""Which counts a turn notes when a span of the ledger begins, and of which messages it notes the outcome."""

from __future__ import annotations

from fanout.core.ledger import Ledger
from fanout.core.ledger_spans import Opening
from fanout.core.limits import LEDGER_SPAN_MS, OUTCOME_SAMPLE
from fanout.core.messages import Priority
from fanout.core.outcome import Outcome
from fanout.core.policy import DropReason
from fanout.core.profiles import GROUP, LIVE
from fanout.core.records import ANNOUNCE, KEYED, TRACKED, Announce, RoomReport, decode_body, encode
from tests.support.rooms import DecidedRoom, Rec, attach, detach, message, records, report
from workers import decide
from workers.turn import Turn

BEGIN = 4_000 * LEDGER_SPAN_MS


def openings(decided: DecidedRoom) -> list[Opening]:
    return [one for batch in decided.stored for one in batch.openings]


def counts(opening: Opening) -> Ledger:
    return decode_body(opening.counts, Ledger)


def outcomes(decided: DecidedRoom) -> dict[int, Outcome]:
    noted = [one for batch in decided.stored for one in batch.outcomes]
    assert all(one.at_ms == decode_body(one.encoded, Outcome).at_ms for one in noted)
    return {one.id: decode_body(one.encoded, Outcome) for one in noted}


def announced(decided: DecidedRoom, offset: int, said: RoomReport, at_ms: int) -> None:
    """Apply an Announce of slot 1 at a record time."""
    turn = Turn(len(decided.turns) + 1, 0.0)
    whole = decode_body(encode(ANNOUNCE, Announce(1, 1, 0, [said]))[12:], Announce)
    decide.announce(turn, decided.ownership, decided.room, offset, whole, said, at_ms)
    decided.close(turn)


def test_the_first_record_of_a_room_opens_its_first_span_with_nothing() -> None:
    decided = DecidedRoom(LIVE)
    decided.turn(records([message()], at_ms=BEGIN + 9))
    (first,) = openings(decided)
    assert (first.at_ms, counts(first)) == (BEGIN, Ledger())
    assert decided.room.spans.began_ms == BEGIN + 9


def test_a_span_that_begins_within_a_turn_is_opened_with_the_counts_before_it() -> None:
    decided = DecidedRoom(GROUP)
    decided.turn(records([message()] * 10, at_ms=BEGIN - 30, step_ms=10))
    assert [(one.at_ms, counts(one).accepted[2]) for one in openings(decided)] == [
        (BEGIN - LEDGER_SPAN_MS, 0),
        (BEGIN, 3),
    ]


def test_a_span_is_opened_once_however_the_brokers_clock_steps() -> None:
    decided = DecidedRoom(GROUP)
    times = [BEGIN, BEGIN - 50, BEGIN + 1, BEGIN - 1, BEGIN + LEDGER_SPAN_MS - 1]
    decided.turn([Rec(offset, message(), timestamp=at_ms) for offset, at_ms in enumerate(times)])
    assert [one.at_ms for one in openings(decided)] == [BEGIN]


def test_spans_in_which_nothing_came_are_passed_over() -> None:
    decided = DecidedRoom(GROUP)
    decided.turn(records([message()] * 2, at_ms=BEGIN, step_ms=5 * LEDGER_SPAN_MS))
    assert [(one.at_ms - BEGIN) // LEDGER_SPAN_MS for one in openings(decided)] == [0, 5]


def test_attaches_and_detaches_open_spans_as_well() -> None:
    decided = DecidedRoom(GROUP)
    decided.turn(records([attach(1), detach(1)], at_ms=BEGIN, step_ms=LEDGER_SPAN_MS))
    assert [(one.at_ms - BEGIN) // LEDGER_SPAN_MS for one in openings(decided)] == [0, 1]


def test_a_report_opens_a_span_only_where_it_says_something_new() -> None:
    decided = DecidedRoom(GROUP)
    said = report(subscriptions=1, offered=[0, 0, 2, 0], written=[0, 0, 2, 0])
    decided.turn(records([attach(1)], at_ms=BEGIN))
    announced(decided, 1, said, BEGIN + 1)
    announced(decided, 2, said, BEGIN + LEDGER_SPAN_MS)
    assert len(openings(decided)) == 1
    announced(decided, 3, report(subscriptions=2, offered=[0, 0, 3, 0], written=[0, 0, 3, 0]), BEGIN + LEDGER_SPAN_MS)
    assert counts(openings(decided)[-1]).edge.written == (0, 0, 2, 0)


def test_a_tracked_message_that_is_kept_is_told_with_its_position_and_who_listens() -> None:
    decided = DecidedRoom(LIVE, log_offset=5)
    decided.turn([Rec(5, attach(1), timestamp=BEGIN)])
    announced(decided, 6, report(subscriptions=42), BEGIN)
    decided.turn([Rec(7, message(Priority.HIGH, 11, flags=TRACKED), timestamp=BEGIN + 3)])
    assert outcomes(decided) == {11: Outcome("live:stage", BEGIN + 3, "kept", 1, 8, deliveries=42)}


def test_a_publication_without_a_position_has_none_in_its_outcome() -> None:
    decided = DecidedRoom(LIVE)
    decided.turn(records([message(Priority.LOW, 11, flags=TRACKED)], at_ms=BEGIN))
    assert outcomes(decided) == {11: Outcome("live:stage", BEGIN, "kept", 3)}


def test_a_tracked_message_that_is_dropped_is_told_with_stage_and_reason() -> None:
    decided = DecidedRoom(LIVE)
    decided.turn(records([message(Priority.NORMAL, 1 + n, sender="ann", flags=TRACKED) for n in range(3)]))
    reason = DropReason.SENDER_CAP
    assert outcomes(decided)[3] == Outcome("live:stage", 1_000_000, "dropped", 2, 0, reason.stage, reason.word)


def test_a_repeat_leaves_the_outcome_of_the_message_that_stands() -> None:
    decided = DecidedRoom(GROUP)
    decided.turn(records([message(Priority.NORMAL, 11, flags=TRACKED | KEYED)] * 2))
    assert outcomes(decided) == {11: Outcome("live:stage", 1_000_000, "kept", 2, 1)}


def test_of_messages_that_nobody_tracks_one_in_so_many_is_noted() -> None:
    decided = DecidedRoom(GROUP)
    decided.turn(records([message(Priority.NORMAL, 1_000 + n) for n in range(2 * OUTCOME_SAMPLE)]))
    assert [one.offset for one in outcomes(decided).values()] == [OUTCOME_SAMPLE, 2 * OUTCOME_SAMPLE]


def test_a_backlog_that_is_too_late_is_counted_in_the_spans_that_it_came_in() -> None:
    late, in_time = DecidedRoom(LIVE), DecidedRoom(LIVE)
    kept = [message(Priority.HIGH if n % 3 == 0 else Priority.LOW, n + 1) for n in range(12)]
    backlog = records(kept, at_ms=BEGIN - 60_000, step_ms=10_000)
    late.turn(backlog, now_ms=BEGIN + 3_600_000)
    in_time.turn(backlog)
    for decided in (late, in_time):
        assert [(one.at_ms, sum(counts(one).accepted)) for one in openings(decided)] == [
            (BEGIN - LEDGER_SPAN_MS, 0),
            (BEGIN, 6),
        ]
    (_, second) = openings(late)
    assert counts(second).dropped == {"late": {"too_old": [0, 0, 0, 4]}}
    assert [entry.offset for entry in late.history()] == [1, 4, 7, 10]


def test_a_tracked_message_that_is_too_late_is_told_so() -> None:
    decided = DecidedRoom(LIVE)
    decided.turn(records([message(Priority.LOW, 7, flags=TRACKED)], at_ms=BEGIN), now_ms=BEGIN + 60_000)
    reason = DropReason.LATE
    assert outcomes(decided)[7].fate == "dropped"
    assert (outcomes(decided)[7].stage, outcomes(decided)[7].reason) == (reason.stage, reason.word)


def test_the_batch_that_ends_a_turn_tells_how_much_was_thinned_up_to_its_end() -> None:
    decided = DecidedRoom(LIVE)
    decided.turn(records([attach(1)]))
    chat = [message(Priority.NORMAL, 1 + n, sender="ann") for n in range(5)]
    decided.turn(records([*chat, message(Priority.HIGH, 9, flags=KEYED)], first=1))
    decided.turn(records([message(Priority.HIGH, 9, flags=KEYED), message(Priority.HIGH, 10)], first=7))
    answered, first, second = decided.received[1, 1]
    assert answered.thinned is None
    assert first.thinned == [7, 0, 0, 3, 0]
    assert second.thinned == [9, 0, 0, 3, 0], "a repeat is missed by nobody"
    assert decided.crashed(3).room.thinned == [0, 0, 3, 0]


def test_rooms_that_are_not_thinned_say_nothing_of_it() -> None:
    decided = DecidedRoom(GROUP)
    decided.turn(records([attach(1), message()]))
    assert [batch.thinned for batch in decided.received[1, 1]] == [None, None]
