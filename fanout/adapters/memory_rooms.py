"""Rooms of the history's twin: streams, positions, state. The rules are those of ``adapters/scripts/history_*.lua``."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final

from fanout.core.errors import Fenced
from fanout.core.ledger_spans import Opening
from fanout.core.limits import IDEMPOTENCY_S, KEYED_IDS_MAX, LEDGER_SPAN_MS, LEDGER_SPANS
from fanout.core.messages import Kind
from fanout.ports import HistoryBatch, HistoryEntry, KeyedId, RoomMeta

_OFFSET: Final = attrgetter("offset")
_AT_MS: Final = attrgetter("at_ms")


@dataclass(slots=True)
class _Stream:
    """Entries of one kind, oldest first, and their time to live."""

    entries: list[HistoryEntry] = field(default_factory=list)
    ttl_ms: int = 0
    added: bool = False

    def trim(self, count_max: int, ttl_ms: int, now_ms: int) -> None:
        """Keep the newest ``count_max`` (looked at when there are new ones), none older than ``ttl_ms``."""
        self.ttl_ms = ttl_ms
        if self.added:
            del self.entries[: max(0, len(self.entries) - count_max)]
            self.added = False
        del self.entries[: bisect_left(self.entries, now_ms - ttl_ms, key=_AT_MS)]

    def add(self, entry: HistoryEntry) -> None:
        """Add the newest entry."""
        self.entries.append(entry)
        self.added = True

    def live(self, now_ms: int) -> Sequence[HistoryEntry]:
        """Return the entries that have not expired."""
        if not self.entries or self.entries[0].at_ms >= now_ms - self.ttl_ms:
            return self.entries
        return self.entries[bisect_left(self.entries, now_ms - self.ttl_ms, key=_AT_MS) :]


@dataclass(slots=True)
class Room:
    """One room of one epoch: what the Redis adapter keeps under four keys. ``last`` -1: nothing is known yet."""

    epoch: str
    head: int = 0
    last: int = -1
    floor: int = 0
    n: int = 0
    applied: int = -1
    owner: int = 0
    state: bytes = b""
    reliable: _Stream = field(default_factory=_Stream)
    recent: _Stream = field(default_factory=_Stream)
    keyed: list[tuple[int, int, int]] = field(default_factory=list)  # (at_ms, id, offset), sorted
    openings: dict[int, Opening] = field(default_factory=dict)  # a ring over the spans of an hour
    gone_ms: int = 0

    def store(self, batch: HistoryBatch) -> None:
        """Take a batch in; raises Fenced. The steps are those of ``scripts/history_store.lua``."""
        if self.owner > batch.owner:
            raise Fenced(f"{batch.key}: owner {self.owner} has been here, {batch.owner} is older")
        for entry in batch.entries:
            if entry.offset > self.head:
                self._add(entry)
        if batch.last > self.last:  # reliable entries that never came here: the chain is cut before them
            self.last = self.floor = batch.last
        self.head = max(self.head, batch.head, self.last)
        if batch.applied >= self.applied:  # nobody goes back: all owners decide alike, so the further one is right
            self.n, self.applied, self.state = batch.n, batch.applied, batch.state
            if batch.openings:
                self.openings |= {one.at_ms // LEDGER_SPAN_MS % LEDGER_SPANS: one for one in batch.openings}
        self.owner = batch.owner
        self.reliable.trim(batch.reliable_max, batch.reliable_ttl_ms, batch.now_ms)
        self.recent.trim(batch.recent_max, batch.recent_ttl_ms, batch.now_ms)
        self.floor = self.floor_at(batch.now_ms)
        self._remember(batch)

    def _add(self, entry: HistoryEntry) -> None:
        if entry.kind == Kind.RELIABLE.value:
            if entry.prev != self.last:
                self.floor = entry.prev
            self.reliable.add(entry)
            self.last = entry.offset
        else:
            self.recent.add(entry)
        self.head = entry.offset

    def _remember(self, batch: HistoryBatch) -> None:
        if not batch.keyed:
            return
        for keyed in batch.keyed:
            item = (keyed.at_ms, keyed.id, keyed.offset)
            if item not in self.keyed[bisect_left(self.keyed, item) :][:1]:
                insort(self.keyed, item)
        expired = bisect_left(self.keyed, (batch.now_ms - IDEMPOTENCY_S * 1_000, -1, -1))
        del self.keyed[: max(expired, len(self.keyed) - KEYED_IDS_MAX)]

    def floor_at(self, now_ms: int) -> int:
        """Return from where on the chain is whole in what has not expired."""
        live = self.reliable.live(now_ms)
        return max(self.floor, live[0].prev if live else self.last)

    def meta(self, now_ms: int, *, state: bool, keyed: bool) -> RoomMeta:
        """Return the meta, with or without the two large parts."""
        return RoomMeta(
            epoch=self.epoch,
            head=self.head,
            last=self.last,
            floor=self.floor_at(now_ms),
            n=self.n,
            applied=self.applied,
            owner=self.owner,
            state=self.state if state else b"",
            keyed=tuple(KeyedId(id, offset, at_ms) for at_ms, id, offset in self.keyed) if keyed else (),
        )

    def read(self, now_ms: int, after: int, *, reverse: bool) -> list[HistoryEntry]:
        """Return live entries beyond ``after``, in the order asked for."""
        merged = sorted([*self.reliable.live(now_ms), *self.recent.live(now_ms)], key=_OFFSET)
        if not reverse:
            return merged[bisect_right(merged, after, key=_OFFSET) :]
        before = merged[: bisect_left(merged, after, key=_OFFSET)] if after else merged
        return before[::-1]


def within(entries: Iterable[bytes], bytes_max: int) -> list[bytes]:
    """Return the first entries that fit into ``bytes_max`` together, and the first one in any case."""
    fitting: list[bytes] = []
    size = 0
    for entry in entries:
        size += len(entry)
        if fitting and size > bytes_max:
            break
        fitting.append(entry)
    return fitting
