"""The ring, its position, its cursors."""

from __future__ import annotations

import tracemalloc

import msgspec
import pytest

from fanout.core.messages import Kind
from fanout.core.records import Entry
from fanout.core.room_log import FORMATS, STORED_KINDS, Position, Publication, RoomLog, minus, plus, tally, times
from fanout.gateway.wires import encoders

START = Position("e", 10, 10, 10, 0)


def entry(
    offset: int, kind: Kind = Kind.RELIABLE, *, prev: int = 0, priority: int = 2, at_ms: int = 0, part: int = 0
) -> Entry:
    return Entry(offset, part, kind.value, priority, prev, offset, offset, at_ms, 0, b"x" * 10)


def offsets(log: RoomLog, sent: int, limit: int = 100) -> list[int]:
    return [
        one.entry.offset for one in log.read(sent, entries_max=limit, bytes_max=1 << 20, size=one_size).publications
    ]


def one_size(publication: Publication) -> int:
    return 1


def filled(*entries: Entry, entries_max: int = 1_024, bytes_max: int = 1 << 20) -> RoomLog:
    log = RoomLog(START, entries_max=entries_max, bytes_max=bytes_max)
    for one in entries:
        log.append(one, 0, 3, 0)
    return log


def test_an_empty_log_stands_where_it_was_begun() -> None:
    log = filled()
    assert log.position == START
    assert (log.first, log.end, log.entries) == (1, 0, 0)
    assert log.counts_at(log.end) == (0, 0, 0, 0)
    assert log.offset_at(log.end) == 10


def test_sequences_are_dense_where_offsets_are_not() -> None:
    log = filled(entry(12), entry(15, Kind.EPHEMERAL, prev=12), entry(40, Kind.RECENT, prev=12))
    assert (log.first, log.end) == (1, 3)
    assert offsets(log, 0) == [12, 15, 40]


def test_head_is_the_newest_stored_and_last_the_newest_reliable() -> None:
    log = filled(entry(12), entry(13, Kind.RECENT, prev=12), entry(14, Kind.EPHEMERAL, prev=12))
    assert (log.head, log.last, log.n) == (13, 12, 12)


def test_publications_of_another_source_leave_the_position_alone() -> None:
    log = filled()
    log.append(entry(99, Kind.EPHEMERAL), 1, 7, 0)
    assert log.position == START


def test_a_repeat_is_known_by_offset_and_part_per_source_partition() -> None:
    log = filled(entry(12, part=1))
    assert log.is_repeat(0, 3, 12, 1)
    assert log.is_repeat(0, 3, 12, 0)
    assert log.is_repeat(0, 3, 11, 9)
    assert not log.is_repeat(0, 3, 12, 2)
    assert not log.is_repeat(1, 3, 12, 1)
    assert not log.is_repeat(0, 4, 12, 1)


def test_a_mark_is_only_ever_raised() -> None:
    log = filled(entry(12))
    log.mark(0, 3, 5, 0)
    assert log.is_repeat(0, 3, 12, 0)
    log.mark(0, 3, 20, 0)
    assert log.is_repeat(0, 3, 20, 0)


def test_a_hole_is_a_prev_above_the_newest_reliable_not_above_the_head() -> None:
    log = filled(entry(12), entry(20, Kind.RECENT, prev=12))
    assert log.has_hole_before(15)
    assert not log.has_hole_before(12)
    assert not log.has_hole_before(3)


def test_a_client_is_ahead_when_it_has_seen_more_than_the_head() -> None:
    log = filled(entry(12))
    assert log.is_ahead(13)
    assert not log.is_ahead(12)


def test_the_ring_forgets_the_oldest_beyond_its_entries() -> None:
    log = filled(*(entry(11 + i, prev=10 + i) for i in range(10)), entries_max=4)
    log.trim(0, log.end)
    assert offsets(log, log.first - 1) == [17, 18, 19, 20]
    assert (log.first, log.end) == (7, 10)
    assert log.offset_at(6) == 16
    assert log.counts_at(6) == (0, 0, 6, 0)


def test_the_ring_forgets_the_oldest_beyond_its_bytes() -> None:
    log = filled(*(entry(11 + i, prev=10 + i) for i in range(10)), bytes_max=4_000)
    log.trim(0, log.end)
    assert log.bytes <= 4_000
    assert log.entries == 4
    assert log.trim(0, log.end, bytes_max=2_000) > 0
    assert log.bytes <= 2_000


def test_the_ring_forgets_what_is_older_than_a_minute() -> None:
    log = RoomLog(START)
    log.append(entry(12), 0, 3, 1_000)
    log.append(entry(13, prev=12), 0, 3, 50_000)
    log.trim(61_001, log.end)
    assert offsets(log, log.first - 1) == [13]


def test_what_those_in_step_have_not_been_given_is_never_forgotten() -> None:
    log = filled(*(entry(11 + i, prev=10 + i) for i in range(10)), entries_max=4)
    log.trim(10_000_000, 2)
    assert offsets(log, 2) == [13, 14, 15, 16, 17, 18, 19, 20]


def test_a_cursor_below_the_ring_is_behind_it() -> None:
    log = filled(*(entry(11 + i, prev=10 + i) for i in range(10)), entries_max=4)
    log.trim(0, log.end)
    assert log.is_behind_ring(5)
    assert not log.is_behind_ring(6)


def test_the_ring_covers_positions_from_its_oldest_entry_on() -> None:
    log = filled(entry(12), entry(14, Kind.RECENT, prev=12), entry(15, prev=12), entries_max=1)
    log.trim(0, log.end)
    assert not log.covers(12)
    assert log.chain_covers(12)
    assert log.covers(14)
    assert not log.chain_covers(11)


def test_reading_stops_at_the_bounds_and_goes_on_from_there() -> None:
    log = filled(*(entry(11 + i, prev=10 + i) for i in range(10)))
    read = log.read(0, entries_max=3, bytes_max=1 << 20, size=one_size)
    assert (read.sent, read.given) == (3, (0, 0, 3, 0))
    read = log.read(read.sent, entries_max=100, bytes_max=4, size=one_size)
    assert read.sent == 7
    assert log.read(7, entries_max=100, bytes_max=4, size=one_size, stop=8).sent == 8


def test_a_publication_larger_than_the_bound_goes_out_alone() -> None:
    log = filled(entry(12), entry(13, prev=12))
    read = log.read(0, entries_max=9, bytes_max=5, size=lambda publication: 50)
    assert [one.entry.offset for one in read.publications] == [12]


def test_old_droppable_publications_are_passed_over_and_counted() -> None:
    log = RoomLog(START)
    log.append(entry(12), 0, 3, 1)
    log.append(entry(13, Kind.RECENT, prev=12), 0, 3, 2)
    log.append(entry(14, Kind.EPHEMERAL, prev=12, priority=3), 0, 3, 3)
    log.append(entry(15, Kind.EPHEMERAL, prev=12, priority=3), 0, 3, 9)
    read = log.read(0, entries_max=9, bytes_max=100, size=one_size, droppable_since_ms=5)
    assert [one.entry.offset for one in read.publications] == [12, 15]
    assert (read.given, read.skipped) == ((0, 0, 1, 1), (0, 0, 1, 1))
    assert read.sent == log.end


def test_a_replay_has_stored_kinds_only() -> None:
    log = filled(entry(12), entry(13, Kind.EPHEMERAL, prev=12), entry(14, Kind.RECENT, prev=12))
    read = log.read(0, entries_max=9, bytes_max=100, size=one_size, kinds=STORED_KINDS)
    assert [one.entry.offset for one in read.publications] == [12, 14]


def test_the_cursor_of_a_position_is_after_everything_stored_up_to_it() -> None:
    log = filled(entry(12), entry(13, Kind.EPHEMERAL, prev=12), entry(20, prev=12))
    assert log.sequence_at(10) == 0
    assert log.sequence_at(12) == 2
    assert log.sequence_at(19) == 2
    assert log.sequence_at(20) == 3


def test_history_in_front_of_the_ring_is_read_like_the_ring() -> None:
    log = RoomLog(Position("e", 20, 18, 5, 3))
    log.append(entry(22, prev=18), 0, 3, 0)
    log.prepend([entry(15, prev=9), entry(18, prev=15), entry(20, Kind.RECENT, prev=18)], 12, now_ms=0)
    assert log.covers(12)
    assert not log.covers(11)
    assert log.oldest_last == 9
    assert offsets(log, log.sequence_at(15)) == [18, 20, 22]
    assert log.counts_between(log.first - 1, log.end) == (0, 0, 4, 0)
    assert log.end == 1


def test_history_that_does_not_fit_is_taken_from_its_newest_end() -> None:
    log = RoomLog(Position("e", 20, 20, 5, 3), entries_max=2)
    log.prepend([entry(15, prev=9), entry(18, prev=15), entry(20, prev=18)], 12, now_ms=0)
    assert offsets(log, log.first - 1) == [18, 20]
    assert log.covers(17)
    assert not log.covers(15)
    assert log.chain_covers(15)


def test_history_that_holds_nothing_more_is_remembered_as_such() -> None:
    log = RoomLog(Position("e", 20, 12, 5, 3))
    log.prepend([], 12, now_ms=0)
    assert log.covers(12)


def test_history_stops_at_the_ring_s_bytes() -> None:
    log = RoomLog(Position("e", 20, 20, 5, 3), bytes_max=2_000)
    log.prepend([entry(15, prev=9), entry(18, prev=15), entry(20, prev=18)], 12, now_ms=0)
    assert offsets(log, log.first - 1) == [18, 20]


@pytest.mark.parametrize(
    ("data", "sender", "tags"),
    [
        (b'"x"', "", None),
        (b'"' + b"x" * 1_000 + b'"', "a-sender", {"one": "1", "two": "2"}),
        (b'"x"', "u" * 64, {f"{number:02}{'k' * 62}": "v" * 64 for number in range(16)}),
        (b'"x"', "u", {str(number): "\u00e9" * 32 for number in range(16)}),
        (b'"x"', "u", {str(number): "\n" * 64 for number in range(16)}),
    ],
    ids=["least", "large", "tags", "letters", "controls"],
)
def test_the_ring_counts_at_least_the_memory_that_it_takes(
    data: bytes, sender: str, tags: dict[str, str] | None
) -> None:
    record = msgspec.msgpack.encode(Entry(10_001, 0, 0, 2, 0, 5_000, 1 << 60, 1 << 40, 1 << 40, data, sender, "", tags))
    decode = msgspec.msgpack.Decoder(Entry).decode
    encode = encoders("app/live:room", id_tag=True)
    log = RoomLog(Position("e", 1, 1, 1, 0), bytes_max=1 << 30)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(300):
        log.append(decode(record), 0, 1, 0)
    for publication in log.read(0, entries_max=300, bytes_max=1 << 30, size=one_size).publications:
        for wire_format in range(FORMATS):
            publication.push(wire_format, encode[wire_format])
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert log.bytes >= after - before


def test_a_reset_forgets_everything_but_never_reuses_a_sequence() -> None:
    log = filled(entry(12), entry(13, prev=12))
    log.reset(Position("f", 3, 3, 3, 0))
    assert (log.first, log.end, log.epoch, log.head) == (3, 2, "f", 3)
    assert not log.is_repeat(0, 3, 4, 0)
    log.append(entry(4, prev=3), 0, 3, 0)
    assert offsets(log, 2) == [4]
    assert log.counts_between(2, 3) == (0, 0, 1, 0)


def test_a_reset_within_an_epoch_keeps_refusing_repeats() -> None:
    log = filled(entry(12))
    log.reset(Position("e", 30, 30, 30, 0))
    assert log.is_repeat(0, 3, 12, 0)


def test_a_push_is_encoded_once_per_wire_format() -> None:
    log = filled(entry(12))
    calls: list[int] = []

    def encode(entry: Entry) -> bytes:
        calls.append(entry.offset)
        return b"push"

    publication = log.read(0, entries_max=1, bytes_max=1, size=one_size).publications[0]
    assert [publication.push(0, encode), publication.push(0, encode), publication.push(1, encode)] == [b"push"] * 3
    assert calls == [12, 12]


def test_the_head_is_raised_past_what_can_no_longer_be_had() -> None:
    log = filled(entry(12))
    log.raise_head(30)
    log.raise_head(20)
    assert (log.head, log.last) == (30, 12)


def test_tallies_add_up() -> None:
    counts = tally([entry(1, priority=0), entry(2, priority=1), entry(3, priority=2), entry(4, priority=3)])
    assert counts == (1, 1, 1, 1)
    assert times(plus(counts, counts), 3) == (6, 6, 6, 6)
    assert minus(counts, counts) == (0, 0, 0, 0)


def test_entries_between_two_positions_come_from_the_ring_ephemeral_ones_as_well() -> None:
    log = filled(entry(12), entry(15, Kind.EPHEMERAL, prev=12), entry(17, Kind.RECENT, prev=12), entry(40, prev=12))
    assert [one.offset for one in log.entries_between(12, 17)] == [15, 17]
    assert [one.offset for one in log.entries_between(0, 100)] == [12, 15, 17, 40]
    assert log.entries_between(40, 100) == log.entries_between(13, 14) == []
    log.trim(61_000, log.end)
    assert log.entries_between(0, 100) == []


def test_the_ring_is_whole_from_where_it_was_begun_or_trimmed_whatever_history_puts_in_front() -> None:
    log = filled(entry(12), entry(40, prev=12))
    assert log.whole_from == 10
    log.prepend([entry(6, prev=5), entry(9, prev=6)], 5, now_ms=0)
    assert (log.whole_from, log.oldest_offset) == (10, 5)
    log.append(entry(50, prev=40), 0, 3, 70_000)
    log.trim(70_000, log.end)
    assert log.whole_from == log.oldest_offset == 40
    log.reset(Position("e", 60, 60, 60, 9))
    assert log.whole_from == 60
