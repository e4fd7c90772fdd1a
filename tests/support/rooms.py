"""Records of one room, and a pure worker for it: decides in turns, keeps what would go to gateways and to the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from fanout.core.messages import Priority
from fanout.core.profiles import LIVE, Profile, Profiles
from fanout.core.records import (
    ATTACH,
    DETACH,
    MESSAGE,
    Attach,
    Chunk,
    Counts,
    Detach,
    Entry,
    Message,
    RoomBatch,
    RoomReport,
    body,
    decode_body,
    encode,
)
from fanout.core.room_state import RoomState
from fanout.ports import HistoryBatch
from workers import decide
from workers.turn import Ownership, Turn

ROOM: Final = "app/live:stage"
KEY: Final = ROOM.encode()
PROFILES: Final = Profiles(insecure=True)


class Rec(msgspec.Struct, frozen=True):
    """A ``ports.LogRecord``."""

    offset: int
    value: bytes | None
    key: bytes | None = KEY
    timestamp: int = 1_000_000


def message(
    priority: Priority = Priority.NORMAL,
    id_: int = 1,
    *,
    sender: str = "",
    type_: str = "",
    flags: int = 0,
    data: bytes = b"{}",
) -> bytes:
    """Return the value of a MESSAGE record."""
    return encode(MESSAGE, Message(data, sender, type_), priority=priority.value, flags=flags, id=id_)


def attach(slot: int, generation: int = 1, instance: int = 1) -> bytes:
    """Return the value of an ATTACH record."""
    return encode(ATTACH, Attach(slot, generation, instance))


def detach(slot: int, generation: int = 1, instance: int = 1, report: RoomReport | None = None) -> bytes:
    """Return the value of a DETACH record."""
    return encode(DETACH, Detach(slot, generation, instance, report))


def report(
    *,
    instance: int = 1,
    head: int = 0,
    subscriptions: int = 0,
    offered: Counts | None = None,
    written: Counts | None = None,
    dropped: dict[str, Counts] | None = None,
    pending: Counts | None = None,
    taken: Counts | None = None,
    key: str = ROOM,
) -> RoomReport:
    """Return a cumulative report; what is not named is zero."""
    none = [0, 0, 0, 0]
    return RoomReport(
        key,
        instance,
        head,
        subscriptions,
        offered or none,
        written or none,
        dropped or {},
        pending or none,
        none,
        taken=taken or none,
    )


class DecidedRoom:
    """One room and its owner. ``received`` is what each slot was sent, ``stored`` every history batch, in order."""

    def __init__(self, profile: Profile = LIVE, log_offset: int = 0, owner: int = 1) -> None:
        self.ownership = Ownership(0, owner, "e1")
        self.room = RoomState.fresh(ROOM, profile, log_offset)
        self.received: dict[tuple[int, int], list[RoomBatch]] = {}
        self.stored: list[HistoryBatch] = []
        self.turns: list[Turn] = []

    def turn(self, records: Sequence[Rec], *, slice_records: int = 1_000, now_ms: int = 0) -> Turn:
        """Decide about some records in one turn, of which a slice goes out at a time; 0: nothing is late."""
        turn = Turn(len(self.turns) + 1, 0.0, now_ms)
        for start in range(0, len(records), slice_records):
            decide.apply(turn, self.ownership, self.room, records[start : start + slice_records], PROFILES)
            decide.cut(turn)
            self._receive(turn)
        self.close(turn)
        return turn

    def _receive(self, turn: Turn) -> None:
        for slot in turn.slots:
            batches = self.received.setdefault((slot.slot, slot.generation), [])
            for chunk in slot.chunks:
                batches.extend(body(chunk, Chunk).rooms)
        turn.slots = []

    def close(self, turn: Turn) -> None:
        """Close a turn and keep what it brings."""
        decide.close(turn)
        self._receive(turn)
        self.stored.extend(change.batch for change in turn.changes)
        self.turns.append(turn)

    def entries(self, slot: int, generation: int = 1) -> list[Entry]:
        """Return all publications that a slot was sent."""
        return [entry for batch in self.received.get((slot, generation), ()) for entry in batch.entries]

    def history(self) -> list[Entry]:
        """Return all publications for the history."""
        return [decode_body(entry.encoded, Entry) for batch in self.stored for entry in batch.entries]

    def crashed(self, batches: int, *, owner: int = 2) -> DecidedRoom:
        """Return the room as a new owner loads it when only so many history batches have been stored."""
        after = DecidedRoom(self.room.profile, owner=owner)
        after.stored = self.stored[:batches]
        if batches:
            last = self.stored[batches - 1]
            keyed = [one for batch in self.stored[:batches] for one in batch.keyed]
            after.room = RoomState(
                ROOM, self.room.profile, head=last.head, last=last.last, floor=0, n=last.n, applied=last.applied
            )
            after.room.restore(last.state, keyed)
        return after


def records(values: Sequence[bytes], *, first: int = 0, at_ms: int = 1_000_000, step_ms: int = 0) -> list[Rec]:
    """Return records with these values, side by side from log offset ``first`` on."""
    return [Rec(first + index, value, timestamp=at_ms + index * step_ms) for index, value in enumerate(values)]
