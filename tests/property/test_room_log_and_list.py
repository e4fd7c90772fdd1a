"""The room log against a plain list of everything that was ever appended."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from fanout.core.messages import Kind
from fanout.core.records import Entry
from fanout.core.room_log import ALL_KINDS, NONE, STORED_KINDS, Position, Publication, RoomLog, minus, tally

RING = 8
DROPPABLE = (Kind.RECENT.value, Kind.EPHEMERAL.value)

kinds = st.sampled_from(list(Kind))
appends = st.tuples(st.just("append"), kinds, st.integers(0, 3), st.integers(1, 4), st.integers(1, 60))
trims = st.tuples(st.just("trim"), st.integers(0, 40_000), st.integers(0, 6))
reads = st.tuples(
    st.just("read"), st.integers(0, 40), st.integers(1, 6), st.integers(1, 200), st.booleans(), st.integers(0, 20_000)
)
warms = st.tuples(st.just("warm"), st.integers(1, 10))
steps = st.lists(st.one_of(appends, appends, trims, reads, warms), max_size=60)


def size(publication: Publication) -> int:
    return len(publication.entry.data)


class Model:
    """All entries by sequence, and what the ring must still hold of them."""

    def __init__(self) -> None:
        self.log = RoomLog(Position("e", 0, 0, 0, 0), entries_max=RING)
        self.entries: dict[int, Entry] = {}
        self.held_ms: dict[int, int] = {}  # since when, by sequence: what is put back is held anew
        self.ever: list[Entry] = []
        self.now_ms = 0
        self.offset = 0

    def append(self, kind: Kind, priority: int, gap: int, bytes_: int) -> None:
        self.offset += gap
        last = self.log.last
        entry = Entry(self.offset, 0, kind.value, priority, last, 0, self.offset, self.now_ms, 0, b"x" * bytes_)
        assert not self.log.is_repeat(0, 0, entry.offset, entry.part)
        assert not self.log.has_hole_before(entry.prev)
        sequence = self.log.append(entry, 0, 0, self.now_ms)
        self.entries[sequence], self.held_ms[sequence] = entry, self.now_ms
        self.ever.append(entry)
        assert self.log.is_repeat(0, 0, entry.offset, entry.part)

    def trim(self, later_ms: int, unswept: int) -> None:
        self.now_ms += later_ms
        keep_after = self.log.end - unswept
        self.log.trim(self.now_ms, keep_after)
        assert self.log.entries <= max(RING, unswept)
        assert self.log.first <= max(keep_after + 1, 1) or self.log.first <= self.log.end + 1

    def warm(self, entries: int) -> None:
        """Put back, in front, what the history would say after some older position."""
        log = self.log
        stored = [one for one in self.ever if one.kind != Kind.EPHEMERAL.value and one.offset <= log.oldest_offset]
        some = stored[-entries:]
        after = some[0].offset - 1 if some else log.oldest_offset
        first = log.first
        log.prepend(some, after, now_ms=self.now_ms)
        for sequence, entry in zip(range(first - 1, log.first - 1, -1), reversed(some), strict=False):
            self.entries[sequence], self.held_ms[sequence] = entry, self.now_ms

    def read(self, back: int, entries_max: int, bytes_max: int, stored: bool, age_ms: int) -> None:
        log = self.log
        sent = max(log.end - back, log.first - 1)
        since_ms = self.now_ms - age_ms
        read = log.read(
            sent,
            entries_max=entries_max,
            bytes_max=bytes_max,
            size=size,
            kinds=STORED_KINDS if stored else ALL_KINDS,
            droppable_since_ms=since_ms,
        )
        sequences = range(sent + 1, read.sent + 1)
        passed = [self.entries[sequence] for sequence in sequences]
        wanted = [
            one
            for one, sequence in zip(passed, sequences, strict=True)
            if not (stored and one.kind == Kind.EPHEMERAL.value)
            and not (one.kind in DROPPABLE and self.held_ms[sequence] < since_ms)
        ]
        given = [publication.entry for publication in read.publications]
        assert given == wanted
        assert len(given) <= entries_max
        assert sum(len(one.data) for one in given) <= bytes_max or len(given) == 1
        assert read.given == tally(given)
        assert read.skipped == minus(tally(passed), read.given)
        if read.sent < log.end and len(given) < entries_max:
            assert sum(len(one.data) for one in [*given, self.entries[read.sent + 1]]) > bytes_max

    def check(self) -> None:
        log = self.log
        held = [self.entries[sequence] for sequence in range(log.first, log.end + 1)]
        assert log.entries == len(held)
        assert log.counts_between(log.first - 1, log.end) == tally(held)
        assert log.counts_between(log.end, log.end) == NONE
        reliable = [one.offset for one in self.ever if one.kind == Kind.RELIABLE.value]
        stored = [one.offset for one in self.ever if one.kind != Kind.EPHEMERAL.value]
        assert log.last == max(reliable, default=0)
        assert log.head == max(stored, default=0)
        for offset in {0, log.oldest_offset, log.head, *stored}:
            if log.covers(offset):
                after = [one.offset for one in held if one.offset > offset and one.kind != Kind.EPHEMERAL.value]
                assert after == [one for one in stored if one > offset]
                cursor = log.sequence_at(offset)
                rest = [self.entries[sequence] for sequence in range(cursor + 1, log.end + 1)]
                assert [one.offset for one in rest if one.kind != Kind.EPHEMERAL.value] == after
            if log.chain_covers(offset):
                after = [one.offset for one in held if one.offset > offset and one.kind == Kind.RELIABLE.value]
                assert after == [one for one in reliable if one > offset]


_RELIABLE = ("append", Kind.RELIABLE, 0, 1, 1)


@given(steps)
@example(
    [
        *[_RELIABLE] * 6,
        ("append", Kind.RECENT, 0, 1, 1),
        *[_RELIABLE] * 5,
        ("trim", 22_524, 0),
        _RELIABLE,
        ("trim", 37_477, 0),
        ("warm", 7),
        ("read", 8, 1, 1, False, 0),
    ]
)
def test_the_ring_is_the_end_of_the_list(steps: list[tuple[str, ...]]) -> None:
    model = Model()
    for name, *arguments in steps:
        getattr(model, name)(*arguments)
        model.check()
