"""The room log against a model that keeps plain lists: what is held under every bound, what any read gives, the counts.

``test_room_log_and_list`` looks at positions and replays; here the ring is small in bytes as well, publications come
from several sources, reads ask for any kinds up to any place, and the log is reset in its middle.
"""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from fanout.core.limits import RING_AGE_S_MAX
from fanout.core.messages import Kind
from fanout.core.records import Entry
from fanout.core.room_log import NONE, Kinds, Position, Publication, RoomLog, minus, plus, tally

ENTRIES_MAX = 12
BYTES_MAX = 16_000
AGE_MS = int(RING_AGE_S_MAX * 1_000)
MESSAGES, TASKS = 0, 1
DROPPABLE = (Kind.RECENT.value, Kind.EPHEMERAL.value)

appends = st.tuples(
    st.just("append"), st.sampled_from(list(Kind)), st.integers(0, 3), st.integers(1, 3), st.integers(0, 1_500)
)
tasks = st.tuples(st.just("task"), st.integers(0, 2), st.integers(0, 3), st.integers(0, 1))
reads = st.tuples(
    st.just("read"),
    st.integers(0, 20),
    st.one_of(st.none(), st.integers(0, 12)),
    st.integers(1, 6),
    st.integers(1, 4_000),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
    st.integers(0, 90_000),
)
trims = st.tuples(
    st.just("trim"), st.sampled_from([0, 500, 30_000, 61_000]), st.integers(0, 8), st.sampled_from([None, 0, 5_000])
)
warms = st.tuples(st.just("warm"), st.integers(1, 14))
resets = st.tuples(st.just("reset"), st.booleans())
step = st.sampled_from([*[appends] * 8, *[tasks] * 2, *[reads] * 6, trims, trims, warms, resets]).flatmap(
    lambda one: one
)
steps = st.lists(step, min_size=10, max_size=100)


class Held(NamedTuple):
    """A publication as the model holds it."""

    entry: Entry
    held_ms: int
    bytes: int


def size(publication: Publication) -> int:
    """What a publication counts in the reads of this test."""
    return len(publication.entry.data) + 20


class Model:
    """Everything that is held, in order, and the sequence of the first of it."""

    def __init__(self) -> None:
        self.log = RoomLog(Position("e0", 5, 5, 5, 0), entries_max=ENTRIES_MAX, bytes_max=BYTES_MAX)
        self.held: list[Held] = []
        self.first = 1
        self.history: list[Entry] = []  # stored in this epoch, and not counted as gone by a reset
        self.marks: dict[tuple[int, int], tuple[int, int]] = {}
        self.now_ms = 1_000
        self.offset = 5
        self.epochs = 0

    # --- in -----------------------------------------------------------------------------------------------------------

    def append(self, kind: Kind, priority: int, gap: int, bytes_: int) -> None:
        self.offset += gap
        self.take(self.entry(kind, priority, bytes_, self.offset, 0), MESSAGES, 0)

    def task(self, partition: int, priority: int, part: int) -> None:
        """A publication with an audience: another source, outside of the room's stream."""
        offset, last_part = self.marks.get((TASKS, partition), (7, 0))
        entry = self.entry(Kind.EPHEMERAL, priority, 10, offset if part else offset + 1, last_part + 1 if part else 0)
        self.take(entry, TASKS, partition)

    def entry(self, kind: Kind, priority: int, bytes_: int, offset: int, part: int) -> Entry:
        n = self.log.n + (kind is Kind.RELIABLE)
        return Entry(offset, part, kind.value, priority, self.log.last, n, offset, self.now_ms, 0, b"x" * bytes_)

    def take(self, entry: Entry, source: int, partition: int) -> None:
        assert not self.log.is_repeat(source, partition, entry.offset, entry.part)
        sequence = self.log.append(entry, source, partition, self.now_ms)
        assert sequence == self.log.end == self.first + len(self.held)
        self.marks[source, partition] = (entry.offset, entry.part)
        (publication,) = self.log.read(sequence - 1, entries_max=1, bytes_max=1, size=size).publications
        self.held.append(Held(entry, self.now_ms, publication.bytes))
        if entry.kind != Kind.EPHEMERAL.value:
            self.history.append(entry)

    def trim(self, later_ms: int, unswept: int, bytes_max: int | None) -> None:
        """The oldest go while there are too many, too large or too old ones; what is not swept stays."""
        self.now_ms += later_ms
        keep_after = max(self.log.end - unswept, self.first - 1)
        given_back = self.log.trim(self.now_ms, keep_after, bytes_max=bytes_max)
        limit = BYTES_MAX if bytes_max is None else min(BYTES_MAX, bytes_max)
        before = self.bytes
        while self.held and self.first <= keep_after:
            is_over = len(self.held) > ENTRIES_MAX or self.bytes > limit
            if not is_over and self.held[0].held_ms >= self.now_ms - AGE_MS:
                break
            self.held.pop(0)
            self.first += 1
        assert given_back == before - self.bytes

    def warm(self, count: int) -> None:
        """Put the newest of what the history has before the ring in front of it, as far as that fits."""
        older = [one for one in self.history if one.offset <= self.log.oldest_offset][-count:]
        if not older:
            return
        fit = max(0, ENTRIES_MAX - len(self.held))
        self.log.prepend(older, older[0].offset - 1, now_ms=self.now_ms)
        taken = self.first - self.log.first
        assert taken <= fit
        read = self.log.read(self.log.first - 1, entries_max=max(1, taken), bytes_max=1 << 30, size=size)
        front = [Held(one.entry, one.held_ms, one.bytes) for one in read.publications[:taken]]
        assert [one.entry for one in front] == older[len(older) - taken :]
        self.held[:0] = front
        self.first -= taken
        assert self.bytes <= BYTES_MAX or not taken

    def reset(self, is_renewed: bool) -> None:
        """Forget what is held; sequences go on, and repeats stay known unless the stream is another."""
        self.epochs += is_renewed
        position = Position(f"e{self.epochs}", self.offset, self.offset, self.offset, self.log.n)
        self.log.reset(position)
        self.first += len(self.held)
        self.held.clear()
        self.history.clear()
        if is_renewed:
            self.marks.clear()
        assert self.log.position == position

    @property
    def bytes(self) -> int:
        return sum(one.bytes for one in self.held)

    # --- out ----------------------------------------------------------------------------------------------------------

    def read(self, back: int, up_to: int | None, entries_max: int, bytes_max: int, kinds: Kinds, age_ms: int) -> None:
        sent = max(self.log.end - back, self.first - 1)
        stop = None if up_to is None else sent + up_to
        since_ms = self.now_ms - age_ms
        read = self.log.read(
            sent,
            entries_max=entries_max,
            bytes_max=bytes_max,
            size=size,
            kinds=kinds,
            droppable_since_ms=since_ms,
            stop=stop,
        )
        given: list[Entry] = []
        reached, bytes_ = sent, 0
        for one in self.held[sent + 1 - self.first : None if stop is None else stop + 1 - self.first]:
            if len(given) == entries_max:
                break
            if kinds[one.entry.kind] and (one.entry.kind not in DROPPABLE or one.held_ms >= since_ms):
                bytes_ += len(one.entry.data) + 20
                if given and bytes_ > bytes_max:
                    break
                given.append(one.entry)
            reached += 1
        passed = [one.entry for one in self.held[sent + 1 - self.first : reached + 1 - self.first]]
        assert [publication.entry for publication in read.publications] == given
        assert (read.sent, read.given, read.skipped) == (reached, tally(given), minus(tally(passed), tally(given)))

    def check(self) -> None:
        """Hold after every step."""
        log = self.log
        assert (log.first, log.entries, log.bytes) == (self.first, len(self.held), self.bytes)
        assert log.end == self.first + len(self.held) - 1
        total = NONE
        for place, one in enumerate(self.held):
            total = plus(total, tally([one.entry]))
            assert log.counts_between(self.first - 1, self.first + place) == total
        for (source, partition), (offset, part) in self.marks.items():
            assert log.is_repeat(source, partition, offset, part)
            assert not log.is_repeat(source, partition, offset, part + 1)
            assert not log.is_repeat(source, partition, offset + 1, 0)
        assert not log.is_behind_ring(self.first - 1) and log.is_behind_ring(self.first - 2)
        stored = [one.entry for one in self.held if one.entry.kind != Kind.EPHEMERAL.value]
        if stored:
            assert log.offset_at(log.end) == stored[-1].offset == log.head


@settings(deadline=None, max_examples=200)
@given(steps)
def test_the_room_log_holds_gives_and_counts_what_a_list_would(steps: list[tuple[object, ...]]) -> None:
    model = Model()
    for name, *arguments in steps:
        getattr(model, str(name))(*arguments)
        model.check()
