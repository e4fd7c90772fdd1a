"""A room on one gateway: a bounded ring of publications that any number of cursors read. Nothing is kept per session.

Publications get a dense local sequence as they arrive, because offsets are sparse and ephemeral publications have none;
a cursor (``sent``) is the sequence of the last publication that a subscription was given. Beside the ring stand the
room's position (epoch, head, last, floor, n), one high mark per source partition, which drops repeats, and cumulative
counts per class, whose difference between two sequences is what lies between them.

Pure: time is an argument (``now_ms``, any clock that never goes back), encoding is a function. Lives elsewhere: who
reads (``gateway.hub``), when (``gateway.sweep``), what became of it (``gateway.edge_ledger``).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from fanout.core.limits import RING_AGE_S_MAX, RING_BYTES_MAX, RING_ENTRIES_MAX
from fanout.core.messages import Kind
from fanout.core.records import Entry

Tally = tuple[int, int, int, int]  # one count per class, index = Priority.value
Kinds = tuple[bool, bool, bool]  # which kinds are wanted, index = Kind.value
Encode = Callable[[Entry], bytes]

NONE: Final[Tally] = (0, 0, 0, 0)
ALL_KINDS: Final[Kinds] = (True, True, True)
STORED_KINDS: Final[Kinds] = (True, True, False)
SOURCE_MESSAGES: Final = 0
FORMATS: Final = 2  # wire formats that keep their bytes in a publication

_RELIABLE: Final = Kind.RELIABLE.value
_EPHEMERAL: Final = Kind.EPHEMERAL.value
# Memory of CPython 3.11, measured: an entry with its encoded forms around the payload, a name in it, a tag in it.
_ENTRY_BYTES: Final = 920
_TEXT_BYTES: Final = 100
_TAG_BYTES: Final = 160
_PLAIN_CHARACTER_BYTES: Final = 1 + FORMATS
_CHARACTER_BYTES_MAX: Final = 20  # four in memory, four in UTF-8, twelve as a pair of JSON escapes


class Position(NamedTuple):
    """Where a room stands: newest stored offset, newest reliable, where the whole chain begins, count of reliable."""

    epoch: str
    head: int
    last: int
    floor: int
    n: int


class Publication:
    """An entry in the ring. ``head`` and ``last`` are the room's after it, ``counts`` cumulative up to and with it.

    ``bytes`` is what it holds in memory, estimated from above, encoded forms not yet made included.
    """

    __slots__ = ("bytes", "counts", "entry", "head", "held_ms", "last", "pushes")

    def __init__(self, entry: Entry, held_ms: int, head: int, last: int, counts: Tally) -> None:
        self.entry = entry
        self.held_ms = held_ms
        self.head = head
        self.last = last
        self.counts = counts
        self.pushes: list[bytes | None] = [None] * FORMATS
        self.bytes = _held_bytes(entry)

    def push(self, wire: int, encode: Encode) -> bytes:
        """Return the encoded push of a wire format (index < FORMATS); encoded once, on first use."""
        push = self.pushes[wire]
        if push is None:
            push = self.pushes[wire] = encode(self.entry)
        return push


def _held_bytes(entry: Entry) -> int:
    held = _ENTRY_BYTES + len(entry.data) * (1 + FORMATS)
    if entry.sender:
        held += _TEXT_BYTES + _text_bytes(entry.sender)
    if entry.type:
        held += _TEXT_BYTES + _text_bytes(entry.type)
    if entry.tags:
        held += sum(_TAG_BYTES + _text_bytes(name) + _text_bytes(value) for name, value in entry.tags.items())
    return held


def _text_bytes(text: str) -> int:
    is_plain = text.isascii() and text.isprintable()
    return len(text) * (_PLAIN_CHARACTER_BYTES if is_plain else _CHARACTER_BYTES_MAX)


_GONE: Final = Publication(Entry(0, 0, _EPHEMERAL, 3, 0, 0, 0, 0, 0, b""), 0, 0, 0, NONE)  # keeps a trimmed place


class Read(NamedTuple):
    """What a cursor was given: its new ``sent``, the publications, and counts of those given and passed over."""

    sent: int
    publications: Sequence[Publication]
    given: Tally
    skipped: Tally


class RoomLog:
    """One room's ring and position. Every sequence in ``first`` .. ``end`` is held; empty when first > end."""

    __slots__ = (
        "_base_counts",
        "_base_head",
        "_base_last",
        "_begun_head",
        "_bytes",
        "_bytes_max",
        "_entries_max",
        "_held",
        "_marks",
        "_skip",
        "epoch",
        "first",
        "floor",
        "head",
        "last",
        "n",
    )

    def __init__(
        self, position: Position, *, entries_max: int = RING_ENTRIES_MAX, bytes_max: int = RING_BYTES_MAX
    ) -> None:
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._held: list[Publication] = []
        self._skip = 0  # places at the front of _held that were trimmed; cut off together, now and then
        self._bytes = 0
        self._marks: dict[tuple[int, int], tuple[int, int]] = {}
        self._base_counts = NONE
        self.first = 1
        self._place(position)

    def _place(self, position: Position) -> None:
        self.epoch, self.head, self.last, self.floor, self.n = position
        self._base_head, self._base_last = position.head, position.last
        self._begun_head = position.head

    # --- position -----------------------------------------------------------------------------------------------------

    @property
    def position(self) -> Position:
        """Where the room stands here."""
        return Position(self.epoch, self.head, self.last, self.floor, self.n)

    @property
    def end(self) -> int:
        """Sequence of the newest publication (``first`` - 1 when the ring is empty)."""
        return self.first + len(self._held) - self._skip - 1

    @property
    def entries(self) -> int:
        """How many publications the ring holds."""
        return len(self._held) - self._skip

    @property
    def bytes(self) -> int:
        """How much memory the ring takes, estimated from above."""
        return self._bytes

    def reset(self, position: Position) -> None:
        """Forget everything held and begin at ``position``; sequences go on, so that no cursor meets an old one."""
        self.first = self.end + 1
        self._base_counts = self._counts_at_end()
        self._held.clear()
        self._skip = self._bytes = 0
        if position.epoch != self.epoch:
            self._marks.clear()
        self._place(position)

    def is_ahead(self, offset: int) -> bool:
        """True where a client has seen more of this epoch than the gateway: it came from another one."""
        return offset > self.head

    def has_hole_before(self, prev: int) -> bool:
        """True where a reliable publication up to ``prev`` has not arrived: nothing later may be passed on."""
        return prev > self.last

    def raise_head(self, head: int) -> None:
        """Note stored publications up to ``head`` that cannot be had any more (recent ones beyond their history)."""
        self.head = max(self.head, head)

    # --- in -----------------------------------------------------------------------------------------------------------

    def is_repeat(self, source: int, partition: int, offset: int, part: int) -> bool:
        """True for an entry at or below the high mark of its source partition: it was taken before."""
        mark = self._marks.get((source, partition))
        return mark is not None and (offset, part) <= mark

    def append(self, entry: Entry, source: int, partition: int, now_ms: int) -> int:
        """Take an entry as the newest publication; return its sequence. Repeats and holes are refused by the caller."""
        if source == SOURCE_MESSAGES and entry.kind != _EPHEMERAL:
            # A client shown 9 after 7 never asks for 8, so a hole is filled before anything after it is passed on.
            assert entry.prev <= self.last, "hole must have been filled"
            self.head = max(self.head, entry.offset)
            if entry.kind == _RELIABLE:
                self.last = entry.offset
                self.n = entry.n
        self._marks[source, partition] = (entry.offset, entry.part)
        counts = _plus_one(self._counts_at_end(), entry.priority)
        publication = Publication(entry, now_ms, self.head, self.last, counts)
        self._held.append(publication)
        self._bytes += publication.bytes
        return self.end

    def mark(self, source: int, partition: int, offset: int, part: int) -> None:
        """Raise the high mark: everything up to (offset, part) is known from elsewhere and would be a repeat."""
        place = (source, partition)
        self._marks[place] = max(self._marks.get(place, (0, 0)), (offset, part))

    def prepend(self, entries: Sequence[Entry], after: int, *, now_ms: int) -> None:
        """Put what the history has stored after ``after`` (up to ``oldest_offset``, oldest first) in front of the ring.

        As many of the newest as fit are taken. Cursors keep their sequences: the new ones lie below ``first``.
        """
        assert after <= self.oldest_offset, "the ring reaches that far back already"
        fit = min(self._entries_max - self.entries, len(entries))
        taken: list[Publication] = []
        counts = self._base_counts
        for entry in reversed(entries[len(entries) - fit :] if fit > 0 else ()):
            publication = Publication(entry, now_ms, entry.offset, entry.prev, counts)
            if self._bytes + publication.bytes > self._bytes_max:
                break
            if entry.kind == _RELIABLE:
                publication.last = entry.offset
            self._bytes += publication.bytes
            counts = _minus_one(counts, entry.priority)
            taken.append(publication)
        if taken:
            self._base_head, self._base_last = taken[-1].entry.offset - 1, taken[-1].entry.prev
        if len(taken) == len(entries):
            self._base_head = after
        taken.reverse()
        self._held[: self._skip] = taken
        self._skip = 0
        self.first -= len(taken)
        self._base_counts = counts

    def trim(self, now_ms: int, keep_after: int, *, bytes_max: int | None = None) -> int:
        """Forget what is beyond the bounds of entries, bytes and age; return the bytes given back.

        Nothing above ``keep_after`` goes: those in step have not been given it. So the ring may exceed its bounds by
        what came in one chunk, until the next sweep.
        """
        bytes_max = self._bytes_max if bytes_max is None else min(bytes_max, self._bytes_max)
        oldest_ms = now_ms - int(RING_AGE_S_MAX * 1_000)
        before, held, skip = self._bytes, self._held, self._skip
        keep = min(len(held), skip + max(0, keep_after - self.first + 1))
        while skip < keep:
            publication = held[skip]
            over = len(held) - skip > self._entries_max or self._bytes > bytes_max
            if not over and publication.held_ms >= oldest_ms:
                break
            self._bytes -= publication.bytes
            self._base_counts = publication.counts
            self._base_head, self._base_last = publication.head, publication.last
            held[skip] = _GONE
            skip += 1
        self.first += skip - self._skip
        self._skip = skip
        if skip > self._entries_max or skip == len(held):
            del held[:skip]
            self._skip = 0
        return before - self._bytes

    # --- out ----------------------------------------------------------------------------------------------------------

    def is_behind_ring(self, sent: int) -> bool:
        """True where the publication after ``sent`` is no longer held: history continues from there."""
        return sent < self.first - 1

    def counts_at(self, sent: int) -> Tally:
        """Return the cumulative counts per class up to a sequence that is held, or the one before ``first``."""
        place = sent - self.first + self._skip
        return self._base_counts if place < self._skip else self._held[place].counts

    def counts_between(self, start: int, stop: int) -> Tally:
        """Return how many publications per class lie after ``start`` up to ``stop``."""
        return minus(self.counts_at(stop), self.counts_at(start))

    def offset_at(self, sent: int) -> int:
        """Return the newest stored offset up to a sequence: the client's position once it has processed that."""
        place = sent - self.first + self._skip
        return self._base_head if place < self._skip else self._held[place].head

    def covers(self, offset: int) -> bool:
        """True where everything stored after ``offset`` is in the ring."""
        return offset >= self._base_head

    def chain_covers(self, offset: int) -> bool:
        """True where every reliable publication after ``offset`` is in the ring."""
        return offset >= self._base_last

    @property
    def oldest_offset(self) -> int:
        """Where history has to continue backwards: every stored offset above it is held, or can no longer be had."""
        return self._base_head

    @property
    def whole_from(self) -> int:
        """The offset above which the ring holds all that came, ephemeral publications as well: the history has none."""
        return max(self._begun_head, self._base_head)

    @property
    def oldest_last(self) -> int:
        """The newest reliable offset that is not in the ring: the last link that history has to bring."""
        return self._base_last

    def sequence_at(self, offset: int) -> int:
        """Return the cursor of a client that has everything stored up to ``offset`` (≥ what ``covers`` asks)."""
        place = bisect_right(self._held, offset, lo=self._skip, key=_head_of)
        return self.first + place - self._skip - 1

    def entries_between(self, after: int, upto: int) -> list[Entry]:
        """Return the entries in the ring whose records stand after one position, up to another."""
        start = bisect_right(self._held, after, lo=self._skip, key=_offset_of)
        stop = bisect_right(self._held, upto, lo=start, key=_offset_of)
        return [publication.entry for publication in self._held[start:stop]]

    def read(
        self,
        sent: int,
        *,
        entries_max: int,
        bytes_max: int,
        size: Callable[[Publication], int],
        kinds: Kinds = ALL_KINDS,
        droppable_since_ms: int = 0,
        stop: int | None = None,
    ) -> Read:
        """Return the publications after ``sent`` (up to ``stop``), as many as the bounds allow, at least one.

        ``size`` is what a publication counts against ``bytes_max``. Passed over are kinds that are not wanted, and
        droppable ones that came before ``droppable_since_ms`` (the clock of ``append``: that of records may be another
        host's). ``sent`` must not be behind the ring.
        """
        assert not self.is_behind_ring(sent), "history serves those behind the ring"
        place = start = sent - self.first + 1 + self._skip
        limit = len(self._held) if stop is None else min(len(self._held), stop - self.first + 1 + self._skip)
        publications: list[Publication] = []
        bytes_ = 0
        given = NONE
        while place < limit and len(publications) < entries_max:
            publication = self._held[place]
            entry = publication.entry
            if kinds[entry.kind] and (entry.kind == _RELIABLE or publication.held_ms >= droppable_since_ms):
                bytes_ += size(publication)
                if bytes_ > bytes_max and publications:
                    break
                publications.append(publication)
                given = _plus_one(given, entry.priority)
            place += 1
        reached = sent + place - start
        skipped = minus(self.counts_between(sent, reached), given) if reached > sent else NONE
        return Read(reached, publications, given, skipped)

    def _counts_at_end(self) -> Tally:
        return self._held[-1].counts if len(self._held) > self._skip else self._base_counts


def plus(one: Tally, other: Tally) -> Tally:
    """Return the sum per class."""
    return (one[0] + other[0], one[1] + other[1], one[2] + other[2], one[3] + other[3])


def minus(one: Tally, other: Tally) -> Tally:
    """Return the difference per class."""
    return (one[0] - other[0], one[1] - other[1], one[2] - other[2], one[3] - other[3])


def times(counts: Tally, factor: int) -> Tally:
    """Return the counts of ``factor`` deliveries of the same publications."""
    return (counts[0] * factor, counts[1] * factor, counts[2] * factor, counts[3] * factor)


def tally(entries: Iterable[Entry]) -> Tally:
    """Return how many entries there are of each class."""
    counts = NONE
    for entry in entries:
        counts = _plus_one(counts, entry.priority)
    return counts


def _plus_one(counts: Tally, priority: int) -> Tally:
    a, b, c, d = counts
    if priority == 2:  # most are NORMAL
        return (a, b, c + 1, d)
    return (a + (priority == 0), b + (priority == 1), c, d + (priority == 3))


def _minus_one(counts: Tally, priority: int) -> Tally:
    return minus(counts, _plus_one(NONE, priority))


def _offset_of(publication: Publication) -> int:
    return publication.entry.offset


def _head_of(publication: Publication) -> int:
    return publication.head
