"""What the store's twin keeps for ledgers beside its rooms: which rooms an app has, and outcomes of single messages."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

from fanout.core.limits import OUTCOME_S, OUTCOME_SHARDS, OUTCOMES_MAX, ROOMS_LISTED_MAX, ROOMS_LISTED_S
from fanout.core.messages import split_key
from fanout.core.outcome import shard_of
from fanout.ports import HistoryBatch, NotedOutcome

_OUTCOME_MS = OUTCOME_S * 1_000


@dataclass(slots=True)
class _Shard:
    """Outcomes of one shard of an app; ``order`` holds (at_ms, id), also of those that were replaced since."""

    noted: dict[int, NotedOutcome] = field(default_factory=dict)
    order: list[tuple[int, int]] = field(default_factory=list)

    def add(self, outcomes: Iterable[NotedOutcome], *, expected: bool) -> None:
        newest_ms = 0
        for one in outcomes:
            newest_ms = max(newest_ms, one.at_ms)
            standing = self.noted.get(one.id)
            if standing is None or not expected:
                self.noted[one.id] = one
                if standing is None or standing.at_ms != one.at_ms:
                    heappush(self.order, (one.at_ms, one.id))
        while self.order and (
            len(self.noted) > OUTCOMES_MAX // OUTCOME_SHARDS or self.order[0][0] < newest_ms - _OUTCOME_MS
        ):
            at_ms, id = heappop(self.order)
            if id in self.noted and self.noted[id].at_ms == at_ms:
                del self.noted[id]


@dataclass(slots=True)
class Books:
    """Lists of rooms by app and epoch, outcomes by app and shard. The rules are those of the Redis adapter."""

    listed: dict[tuple[str, str], OrderedDict[str, int]] = field(default_factory=dict)
    shards: dict[tuple[str, int], _Shard] = field(default_factory=dict)

    def note(self, batch: HistoryBatch) -> None:
        """Take in what a batch brings."""
        if batch.openings:
            self._list_room(batch)
        if batch.outcomes:
            self._note(split_key(batch.key)[0], batch.outcomes, expected=False)

    def rooms(self, app: str, epoch: str, since_ms: int) -> Sequence[str]:
        """Return the keys of an app's rooms in which a span has begun since."""
        return [key for key, at_ms in self.listed.get((app, epoch), {}).items() if at_ms >= since_ms]

    def expect(self, app: str, outcomes: Sequence[NotedOutcome]) -> None:
        """Note outcomes where none stand."""
        self._note(app, outcomes, expected=True)

    def outcome(self, app: str, id: int, now_ms: int) -> bytes | None:
        """Return an outcome that is not too old."""
        shard = self.shards.get((app, shard_of(id)))
        found = shard.noted.get(id) if shard is not None else None
        return found.encoded if found is not None and found.at_ms >= now_ms - _OUTCOME_MS else None

    def clear(self) -> None:
        """Forget everything."""
        self.listed.clear()
        self.shards.clear()

    def _list_room(self, batch: HistoryBatch) -> None:
        listed = self.listed.setdefault((split_key(batch.key)[0], batch.epoch), OrderedDict())
        at_ms = max(listed.get(batch.key, 0), batch.openings[-1].at_ms)
        listed[batch.key] = at_ms
        listed.move_to_end(batch.key)
        while len(listed) > ROOMS_LISTED_MAX or next(iter(listed.values())) < at_ms - ROOMS_LISTED_S * 1_000:
            listed.popitem(last=False)

    def _note(self, app: str, outcomes: Sequence[NotedOutcome], *, expected: bool) -> None:
        for one in outcomes:
            self.shards.setdefault((app, shard_of(one.id)), _Shard()).add((one,), expected=expected)
