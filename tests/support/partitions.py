"""A pure worker for one partition: decides in turns, loads and stores when it is told; another can follow it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fanout.core.messages import Priority
from fanout.core.profiles import Profiles
from fanout.core.records import MERGE, MESSAGE, Chunk, Entry, Merge, Message, body, encode
from fanout.ports import HistoryBatch, RoomMeta
from tests.support.rooms import PROFILES, Rec
from workers import decide
from workers.partition import Partition
from workers.turn import Change, Ownership, Turn

LIVE: Final = b"app/live:stage"
GROUP: Final = b"app/group:team"
OTHER: Final = b"app/live:other"


def merged(
    key: str = "likes",
    op: str = "sum",
    value: float = 1.0,
    n: int = 1,
    *,
    id_: int = 1,
    priority: Priority = Priority.LOW,
    data: bytes = b"{}",
    sender: str = "",
    flags: int = 0,
    tags: dict[str, str] | None = None,
) -> bytes:
    """Return the value of a MESSAGE record that is merged."""
    message = Message(data, sender=sender, merge=Merge(key, op, value, n), tags=tags)
    return encode(MESSAGE, message, priority=priority.value, flags=MERGE | flags, id=id_)


class DecidedPartition:
    """One owner of a partition, to which every room belongs.

    ``received`` are the publications by room and slot, without those that a gateway knows as repeats; ``changes`` what
    is to be stored, in order; ``metas`` what was stored.
    """

    def __init__(self, start: int = 0, owner: int = 1, profiles: Profiles = PROFILES) -> None:
        self.partition = Partition(Ownership(0, owner, "e1"), start, 1, profiles)
        self.received: dict[tuple[str, int], list[Entry]] = {}
        self.changes: list[tuple[Turn, Change]] = []
        self.turns: list[Turn] = []
        self.metas: dict[bytes, RoomMeta] = {}
        self.openings: dict[tuple[str, int], bytes] = {}  # by room and beginning of the span

    def take(self, records: Sequence[Rec]) -> Turn:
        """Decide about records in a turn; rooms that are not here stay held until ``load``."""
        turn = self._begin()
        self.partition.take(turn, records)
        return self._end(turn)

    def load(self) -> Turn:
        """Load what is wanted, and decide about what was held."""
        turn = self._begin()
        wanted = self.partition.ask(100)
        self.partition.loaded(turn, {key: self.metas.get(key) for key in wanted}, lambda _: False)
        return self._end(turn)

    def run(self, records: Sequence[Rec]) -> None:
        """Take records and load what they need."""
        self.take(records)
        self.load()

    def store(self, changes: int) -> None:
        """Store so many more of the changes; a turn whose changes all are is finished."""
        for turn, change in self.changes[:changes]:
            self._store(change.batch)
            change.room.loans -= 1
            turn.changes.remove(change)
        del self.changes[:changes]
        while self.turns and not self.turns[0].changes:
            for commits, ticket in self.turns.pop(0).tickets:
                commits.finish(ticket)

    def successor(self) -> DecidedPartition:
        """Return the next owner, which begins at the commit with what was stored; gateways go on as they were."""
        after = DecidedPartition(self.partition.commits.next_offset, self.partition.ownership.owner + 1)
        after.metas, after.openings = dict(self.metas), dict(self.openings)
        after.received = {place: list(entries) for place, entries in self.received.items()}
        return after

    def entries(self, key: bytes, slot: int = 3) -> list[Entry]:
        """Return the publications of a room that a slot was sent, each once."""
        return self.received.get((key.decode(), slot), [])

    def _begin(self) -> Turn:
        return Turn(len(self.turns) + 1, 5.0)

    def _end(self, turn: Turn) -> Turn:
        decide.close(turn)
        for slot in turn.slots:
            for chunk in slot.chunks:
                for batch in body(chunk, Chunk).rooms:
                    held = self.received.setdefault((batch.key, slot.slot), [])
                    mark = (held[-1].offset, held[-1].part) if held else (0, -1)
                    places = [(entry.offset, entry.part) for entry in batch.entries]
                    assert places == sorted(set(places)), "positions and parts rise"
                    held.extend(entry for entry in batch.entries if (entry.offset, entry.part) > mark)
        self.changes.extend((turn, change) for change in turn.changes)
        self.turns.append(turn)
        return turn

    def _store(self, batch: HistoryBatch) -> None:
        key = batch.key.encode()
        self.openings.update({(batch.key, one.at_ms): one.counts for one in batch.openings})
        before = self.metas.get(key)
        if before is None or batch.applied >= before.applied:
            keyed = [*(before.keyed if before is not None else ()), *batch.keyed]
            self.metas[key] = RoomMeta(
                "e1", batch.head, batch.last, 0, batch.n, batch.applied, batch.owner, batch.state, keyed
            )
