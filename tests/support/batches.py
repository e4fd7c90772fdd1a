"""Room batches for tests of the history."""

from __future__ import annotations

from collections.abc import Sequence

from fanout.core.ledger_spans import Opening
from fanout.core.messages import Kind
from fanout.ports import HistoryBatch, HistoryEntry, KeyedId, NotedOutcome

RELIABLE, RECENT = Kind.RELIABLE.value, Kind.RECENT.value
ROOM, EPOCH = "dev/group:r", "e1"


def entry(offset: int, prev: int = 0, *, kind: int = RELIABLE, at_ms: int = 0, size: int = 0) -> HistoryEntry:
    """Return an entry whose bytes name its offset."""
    return HistoryEntry(offset, kind, prev, at_ms, b"%d" % offset + b"." * size)


def batch(
    *entries: HistoryEntry,
    now_ms: int,
    owner: int = 1,
    head: int | None = None,
    last: int | None = None,
    n: int = 0,
    applied: int | None = None,
    state: bytes = b"",
    key: str = ROOM,
    epoch: str = EPOCH,
    reliable_max: int = 1_000,
    reliable_ttl_ms: int = 600_000,
    recent_max: int = 100,
    recent_ttl_ms: int = 600_000,
    keyed: Sequence[KeyedId] = (),
    openings: Sequence[Opening] = (),
    outcomes: Sequence[NotedOutcome] = (),
) -> HistoryBatch:
    """Return a batch; what is not given follows from the entries."""
    offsets = [one.offset for one in entries]
    reliable = [one.offset for one in entries if one.kind == RELIABLE]
    newest = max(offsets, default=0)
    return HistoryBatch(
        key=key,
        epoch=epoch,
        owner=owner,
        head=newest if head is None else head,
        last=max(reliable, default=0) if last is None else last,
        n=n,
        applied=newest if applied is None else applied,
        state=state,
        entries=entries,
        now_ms=now_ms,
        reliable_max=reliable_max,
        reliable_ttl_ms=reliable_ttl_ms,
        recent_max=recent_max,
        recent_ttl_ms=recent_ttl_ms,
        keyed=keyed,
        openings=openings,
        outcomes=outcomes,
    )


def chain(offsets: Sequence[int], prev: int = 0, *, at_ms: int) -> list[HistoryEntry]:
    """Return reliable entries of which each names the one before."""
    return [entry(offset, before, at_ms=at_ms) for before, offset in zip([prev, *offsets], offsets, strict=False)]
